"""A start as a laptop prepares it: job.json and run.yaml lie in a folder of their own until the supervisor takes them.

So of two laptops that start the same run one wins with its own files, and the other is told.
"""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from training.errors import RunError, UserError
from training.files import write_text
from training.runner.job import JobPaths, refuse_newer
from training.runner.processes import wait_until

FILES = ("run.yaml", "job.json")
REFUSED = "refused"
TAKE_OVER = "take-over"
"""Present: the lease of another machine, which is gone, counts for nothing."""


def take(paths: JobPaths, staged: Path) -> None:
    """Make the files of `staged` those of the job; the lock is held. Said again after a kill, it finishes what it began.

    Raises: UserError if there are none, or a laptop of a newer version has written them.
    """
    taken = _taken(staged)
    if not taken.exists():
        missing = [name for name in FILES if not (staged / name).is_file()]
        if missing:
            raise UserError(f"{staged}: has no {missing[0]}")
        refuse_newer(staged / "job.json")
        staged.rename(taken)  # from here on nobody can withdraw it
    for name in FILES:
        with suppress(FileNotFoundError):
            (taken / name).replace(paths.folder / name)
    shutil.rmtree(taken)


def is_staged(staged: Path) -> bool:
    """Whether there is still something to take."""
    return staged.exists() or _taken(staged).exists()


def turn_away(staged: Path, why: str) -> None:
    """Tell whoever waits for `staged` to be taken that it will not be."""
    with suppress(FileNotFoundError):
        write_text(staged / REFUSED, why)


def wait_until_taken(staged: Path, seconds: float, is_at_it: Callable[[], bool] = lambda: False) -> None:
    """Wait for a supervisor to take `staged`; who gives up withdraws it, so that it does not train later with nobody looking.

    Args:
        staged: What it is to take.
        seconds: How long nobody may be at it.
        is_at_it: Whether somebody is: a bucket that is asked first may be slow to answer.

    Raises: UserError if it was turned away; RunError if nobody came.
    """
    said = staged / REFUSED

    def is_answered() -> bool:
        return said.exists() or not is_staged(staged)

    while not (came := wait_until(is_answered, seconds)) and is_at_it():
        pass
    if not came and _withdraw(staged):
        raise RunError(f"{staged}: no supervisor took it within {seconds:g} seconds; it is withdrawn")
    if said.exists():
        why = said.read_text()
        shutil.rmtree(staged)
        raise UserError(why)


def _withdraw(staged: Path) -> bool:
    """Whether nobody was quicker."""
    withdrawn = staged.with_name(f"{staged.name}.withdrawn")
    try:
        staged.rename(withdrawn)
    except FileNotFoundError:
        return False
    shutil.rmtree(withdrawn)
    return True


def _taken(staged: Path) -> Path:
    return staged.with_name(f"{staged.name}.taken")
