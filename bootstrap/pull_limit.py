"""How much of this laptop's disk a pull may take: what the machine announces, if that fits, and never the last GiB."""

import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bootstrap.connection import Host, Vanished
from training.errors import RunError, UserError

RESERVE = 2**30
"""Bytes that stay free."""
SLACK = 2**30
"""Bytes that a run may have gained since it was announced, beside the size that it had."""
FILES = 100_000
"""No run has so many."""
TRIES = 5


def announced(host: Host, source: str, target: Path, *options: str) -> Callable[[], str | None]:
    """Ask how much there is to copy with these options of rsync, before anything is written.

    Returns: a check to be made during the copy: what is wrong with what has come, or None.
    Raises: UserError if it does not fit on the disk of `target`; RunError for an answer that no run gives.
    """
    told = _asked(host, source, target, options)
    files, total, missing = (_number(told, name) for name in ("Number of files", "Total file size", "Total transferred file size"))
    if files is None or total is None or missing is None:
        raise RunError(f"{host.machine.label}: rsync does not tell how much there is to copy; nothing was pulled")
    if files > FILES:
        raise RunError(f"{host.machine.label}: {source} has {files:,} files (accepted: at most {FILES:,}); nothing was pulled")
    free = shutil.disk_usage(_existing(target)).free
    if missing + RESERVE > free:
        raise UserError(
            f"{target}: {_gib(missing)} are to come from {host.machine.label}, and {_gib(free)} are free there, of which "
            f"{_gib(RESERVE)} stay free (free some, or take another folder: --into FOLDER); nothing was pulled"
        )
    before, _ = _size(target)

    def wrong() -> str | None:
        size, number = _size(target)
        if size - before > total + SLACK:
            return f"{_gib(size - before)} have come, and {_gib(total)} were announced; what came lies in {target}"
        if number > 2 * FILES:
            return f"more than {2 * FILES:,} files have come; they lie in {target}"
        if shutil.disk_usage(target).free < RESERVE // 2:  # something else may fill the disk, too
            return f"less than {_gib(RESERVE // 2)} are free on the disk of {target}; free some, and pull again: it goes on"
        return None

    return wrong


def _asked(host: Host, source: str, target: Path, options: tuple[str, ...]) -> str:
    """Again where a checkpoint was rotated away meanwhile."""
    for _ in range(TRIES):
        with suppress(Vanished):
            return host.copy(f":{source}/", f"{target}/", *options, "--dry-run", "--stats", "--no-human-readable")
    raise RunError(f"{host.machine.label}: {source} changes all the time; try again")


def _number(told: str, name: str) -> int | None:
    found = re.search(rf"^{name}: (\d{{1,18}})\b", told, re.MULTILINE)
    return int(found[1]) if found else None


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def _size(folder: Path) -> tuple[int, int]:
    """Bytes and number of the files below a folder; some may go meanwhile."""
    sizes = []
    for above, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append(os.lstat(os.path.join(above, name)).st_size)
            except OSError:
                continue
    return sum(sizes), len(sizes)


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
