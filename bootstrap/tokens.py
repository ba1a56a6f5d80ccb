"""Tokens travel on standard input into one file that only you can read; they stand in no argument, log or output."""

import os
import re
from pathlib import Path

from infra.refusal import Refused

FROM_ENVIRONMENT = ("HF_TOKEN", "WANDB_API_KEY")
_LINE = re.compile(r"(?:export\s+)?(?P<key>[A-Za-z_]\w*)\s*=\s*(?P<value>.*)")


def tokens(folder: Path) -> dict[str, str]:
    """Those of the environment that are known, and all of `.env` (KEY=VALUE lines), which has the last word.

    Raises: Refused for a line of .env that is none; the message does not repeat it.
    """
    found = {key: os.environ[key] for key in FROM_ENVIRONMENT if os.environ.get(key)}
    path = folder / ".env"
    for number, line in enumerate(path.read_text().splitlines() if path.is_file() else (), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        matched = _LINE.fullmatch(line.strip())
        if not matched:
            raise Refused(f"{path}: line {number}: is no KEY=VALUE")
        value = matched["value"].strip()
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        found[matched["key"]] = value[1:-1] if quoted else value
    return found


def env_file(found: dict[str, str]) -> str:
    """The text of the file on the machine."""
    return "".join(f"{key}={value}\n" for key, value in sorted(found.items()))
