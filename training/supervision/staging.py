"""A start as a laptop prepares it: job.json and run.yaml lie in a folder of their own until the supervisor takes them.

So of two laptops that start the same run one wins with its own files, and the other is told.
"""

import shutil
from pathlib import Path

from training.refusal import Failed, Refused
from training.supervision.job import JobPaths
from training.supervision.processes import wait_until

FILES = ("run.yaml", "job.json")
REFUSED = "refused"


def take(paths: JobPaths, staged: Path) -> None:
    """Make the files of `staged` those of the job; the lock is held.

    Raises: Refused if there are none.
    """
    missing = [name for name in FILES if not (staged / name).is_file()]
    if missing:
        raise Refused(f"{staged}: has no {missing[0]}")
    for name in FILES:
        (staged / name).replace(paths.folder / name)
    shutil.rmtree(staged)


def turn_away(staged: Path, why: str) -> None:
    """Tell whoever waits for `staged` to be taken that it will not be."""
    if staged.is_dir():
        (staged / REFUSED).write_text(why)


def wait_until_taken(staged: Path, seconds: float) -> None:
    """Wait for a supervisor to take `staged`.

    Raises: Refused if it was turned away; Failed if nobody came within `seconds`.
    """
    said = staged / REFUSED
    wait_until(lambda: said.exists() or not staged.exists(), seconds)
    if said.exists():
        why = said.read_text()
        shutil.rmtree(staged)
        raise Refused(why)
    if staged.exists():
        raise Failed(f"{staged}: no supervisor took it within {seconds:g} seconds")
