"""What a run file asks for, as far as the runner needs it: it asks the run's own code, and knows no schema itself."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from training.errors import RunError, UserError
from training.runner.job import settings_command

SECONDS = 120


@dataclass(frozen=True)
class RunSettings:
    """What `training show-config --json` prints; fields of other versions are ignored."""

    name: str = ""
    settings_sha256: str = ""
    """Of what a resumed run must share with its first start."""
    max_steps: int | None = None
    max_epochs: float | None = None
    early_stopping: str | None = None
    """What ends it early, as text; None where nothing does."""
    device: str = "auto"
    """`cpu`, `gpu` or `auto`."""


_SETTINGS = TypeAdapter(RunSettings)


def settings_of(run_file: Path, code: Path) -> RunSettings:
    """Ask the code in `code` what a run file, or the config.yaml of a run directory, asks for.

    Raises: UserError with its message if it refuses the file; RunError if it gives no answer.
    """
    command = settings_command(run_file)
    try:
        done = subprocess.run(command, cwd=code, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS)
        if done.returncode == 2:
            raise UserError(done.stderr.strip().removeprefix("refused: "))
        if done.returncode == 0:
            return _SETTINGS.validate_json(done.stdout)
        why = (done.stderr or done.stdout).strip()[-300:] or f"exit code {done.returncode}"
    except subprocess.TimeoutExpired:
        why = f"no answer within {SECONDS} seconds"
    except (UnicodeDecodeError, OSError) as error:  # the disk of a machine that boots may not be there yet
        why = str(error)
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        why = f"its answer cannot be read: {str(error)[:300]}"
    raise RunError(f"{run_file}: what it asks for is not known: {why}")
