"""Files on this disk: written whole or not at all, and their checksums."""

import hashlib
import os
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

BLOCK = 1 << 20
ARRIVING = ".incoming-"
"""Begins the name of a file that is still being written; it stands in the folder of the whole one."""


@contextmanager
def whole_file(path: Path, kept_for: str | None = None) -> Iterator[BinaryIO]:
    """A file to write, under a temporary name in the folder of `path`; at the end it is flushed to the disk and gets its name.

    Args:
        path: Where it goes. Its folder is made.
        kept_for: Which version of the content it is. If what gives the content fails or this process is killed, what has been
            written stays, and the next call with the same version goes on behind it. None: the next call begins at 0.

    Raises: OSError if it cannot be written; nothing of it stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path, kept_for)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | (0 if kept_for else os.O_TRUNC)
    try:
        with os.fdopen(os.open(temporary, flags, 0o644), "r+b") as file:
            file.seek(0, os.SEEK_END)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        if kept_for is None or isinstance(error, OSError):
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        raise
    remove_kept(path)  # of earlier versions


def remove_kept(path: Path) -> None:
    """Remove all that `whole_file` has kept for `path`."""
    for kept in path.parent.glob(f"{_temporary(path, None).name}*"):
        kept.unlink(missing_ok=True)


def kept_bytes(path: Path, version: str) -> int:
    """How much of a version `whole_file` has kept for `path`."""
    try:
        return _temporary(path, version).lstat().st_size
    except OSError:
        return 0


def _temporary(path: Path, version: str | None) -> Path:
    """A short name: that of `path` may be as long as a file system takes."""
    stem = f"{ARRIVING}{hashlib.sha256(path.name.encode(errors='surrogatepass')).hexdigest()[:16]}"
    return path.with_name(f"{stem}-{version}" if version else stem)


def md5_of(path: Path) -> str:
    """As hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def crc32c_of(path: Path) -> str:
    """As Google writes it: base64 of four bytes, the highest first."""
    import google_crc32c

    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            checksum.update(block)
    return b64encode(checksum.digest()).decode()
