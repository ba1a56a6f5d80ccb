"""Tokens travel on standard input into one file that only you can read; they stand in no argument, log or output."""

import os
import re
from pathlib import Path

from training.errors import UserError

FROM_ENVIRONMENT = ("HF_TOKEN",)  # what something on the machine reads: downloads from the Hugging Face hub
_LINE = re.compile(r"(?:export\s+)?(?P<key>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*(?P<value>.*)")


def tokens(folder: Path) -> dict[str, str]:
    """Those of the environment that are known, and all of `.env` (KEY=VALUE lines), which has the last word.

    Raises: UserError for a line of .env that is none; the message does not repeat it.
    """
    found = {key: os.environ[key].strip() for key in FROM_ENVIRONMENT if os.environ.get(key, "").strip()}
    for key, value in found.items():
        if not value.isprintable():
            raise UserError(f"{key}: is no token: it has more than one line, or characters that cannot be seen")
    path = folder / ".env"
    for number, line in enumerate(_lines(path), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        matched = _LINE.fullmatch(line.strip())
        if not matched:
            raise UserError(f"{path}: line {number}: is no KEY=VALUE")
        value = matched["value"].strip()
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        found[matched["key"]] = value[1:-1] if quoted else re.split(r"\s#", value)[0].strip()
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no text in UTF-8") from None


def env_file(found: dict[str, str]) -> str:
    """The text of the file on the machine."""
    return "".join(f"{key}={value}\n" for key, value in sorted(found.items()))
