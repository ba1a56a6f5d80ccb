"""The folder that a pull may write into: this run's own or a new one, with nothing in it that leads elsewhere."""

import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from infra.outputs import project_root
from training.errors import RunError, UserError
from training.run_facts import read_facts
from training.text import escaped
from training.untrusted import REPOSITORY, single_name

ELSEWHERE = "another place: --into FOLDER"


def folder_for(into: Path, name: str) -> Path:
    """`into`/NAME, after `into` was made; the name comes from outside.

    Raises: UserError where it may not be written.
    """
    single_name(name, "name of the run")
    into = _made(into)
    if into.resolve() in {Path(path).resolve() for path in [*sys.path, str(project_root())]}:
        raise UserError(f"--into: {into}: Python imports from that folder, and a run's files must not become modules ({ELSEWHERE})")
    target = into / name
    if target.is_symlink():
        raise UserError(f"{target}: is a link, and a pull writes no further than its own folder ({ELSEWHERE})")
    if target.exists() and not target.is_dir():
        raise UserError(f"{target}: is no folder ({ELSEWHERE})")
    for path in _foreign(target):
        raise UserError(
            f"{escaped(str(path))}: is a link, a device, a repository of git or the like, which no run has: remove it ({ELSEWHERE})"
        )
    return target


def refuse_other(target: Path, run_id: str) -> None:
    """Raises: UserError unless `target` is empty or holds the run of this id."""
    if not target.exists() or not any(target.iterdir()):
        return
    here = read_facts(target)
    if here is None:
        raise UserError(f"{target}: is not empty and holds no run ({ELSEWHERE})")
    if here.run_id != run_id:
        raise UserError(f"{target}: holds another run of this name ({ELSEWHERE})")


def remove_foreign(target: Path, source: str) -> None:
    """Take away what `source` sent and is no regular file or folder of a printable name: rsync and the bucket should let none pass.

    Raises: RunError if there was any.
    """
    found = list(_foreign(target))
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if found:
        raise RunError(
            f"{source}: it sent {escaped(str(found[0].relative_to(target)))!r}, no regular file of a printable name; it was "
            "removed. Do not trust the rest"
        )


def _foreign(target: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(target):
        for name in (*folders, *files):
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or not name.isprintable() or name.lower() in REPOSITORY:
                yield path


def _made(into: Path) -> Path:
    into = into.absolute()
    above = next(folder for folder in (into, *into.parents) if folder.exists())
    if not above.is_dir():
        raise UserError(f"--into: {into}: {above} is no folder")
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--into: {into}: {error.strerror}") from None
    return into
