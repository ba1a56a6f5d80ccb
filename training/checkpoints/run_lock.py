"""One process at a time trains in a run directory: a lock beside it, which the kernel lets go of when its holder is dead.

`flock`, and not a POSIX lock: the latter is lost as soon as its process closes any handle on the file, and two runs of one process
would not see each other. A `flock` belongs to an open file, which a forked worker shares; so workers close theirs at once, and one
that outlives a killed run for some seconds holds nothing.

The file lies beside the folder, `.NAME.lock`, because `overwrite=true` moves the folder away while the lock is held.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from training.errors import UserError

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 1.0
"""For a holder that is just going, and for `training check`, which looks at the lock."""

_held: set[int] = set()


def _close_in_child() -> None:
    while _held:
        with suppress(OSError):
            os.close(_held.pop())


os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Hold the lock of a run directory, which need not be there yet. Leaves nothing behind but after a kill, which does no harm.

    A file system without locks is told of with a warning, and the run goes on.

    Raises: UserError naming the process that holds it.
    """
    path = lock_file(run)
    made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    handle = None
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = _take(path, run)
        except OSError as error:
            log.warning("%s: cannot be locked (%s): nothing keeps a second process from training there", run, error.strerror)
        yield
    finally:
        if handle is not None:
            with suppress(OSError):
                path.unlink()  # while it is held: whoever waits for it finds out that it has gone
            _held.discard(handle)
            os.close(handle)
        for folder in made:
            with suppress(OSError):
                folder.rmdir()  # only an empty one goes


def refuse_if_held(run: Path) -> None:
    """Refuse where a living process trains.

    Raises: UserError naming the process.
    """
    try:
        handle = os.open(lock_file(run), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(_taken(run, handle)) from None
    except OSError:
        return
    finally:
        os.close(handle)


def lock_file(run: Path) -> Path:
    """The lock of a run directory, the same whatever way leads there."""
    real = Path(os.path.realpath(run))
    return real.with_name(f".{real.name}.lock")


def _take(path: Path, run: Path) -> int:
    """An open file that holds the lock.

    Raises: UserError; OSError where there are no locks.
    """
    limit = time.monotonic() + PATIENCE_SECONDS
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still_at(path, handle):
                _held.add(handle)
                _write_holder(handle)
                return handle
            os.close(handle)  # its holder has taken the file away
        except BlockingIOError:
            taken = _taken(run, handle)
            os.close(handle)
            if time.monotonic() > limit:
                raise UserError(taken) from None
            time.sleep(0.05)
        except OSError:
            os.close(handle)
            with suppress(OSError):
                path.unlink()
            raise


def _is_still_at(path: Path, handle: int) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    own = os.fstat(handle)
    return (there.st_ino, there.st_dev) == (own.st_ino, own.st_dev)


def _write_holder(handle: int) -> None:
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(holder).encode(), 0)
    except OSError as error:  # the lock holds without it
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise


def _taken(run: Path, handle: int) -> str:
    try:
        holder = json.loads(os.pread(handle, 4096, 0))
        pid, host, since = int(holder["pid"]), str(holder["host"]), str(holder["since"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{run}: another process trains here (accepted: wait for its end, or set another name)"
    where = "" if host == socket.gethostname() else f" on {host}"
    return (
        f"{run}: process {pid}{where} trains here since {since} "
        f"(accepted: wait for its end, end it{where} with `kill {pid}`, which saves a checkpoint, or set another name)"
    )
