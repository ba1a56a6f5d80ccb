"""`file://`: a folder of this machine as a bucket. Symbolic links in it are no objects and are never followed."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from training.errors import RunError, UserError
from training.runner.bucket.bucket import READ_LIMIT, Bucket, Changed, Damaged, Stored
from training.runner.bucket.local_files import ARRIVING, BLOCK, md5_of, whole_file
from training.untrusted import file_below, is_file_below, path_below

_MAY_NOT = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
"""Of an open: not there, below a file, a link, a socket."""


def _opened(path: Path) -> BinaryIO | None:
    """A regular file to read; None for anything else: to open a pipe would wait for ever for who writes it."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    if not S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        return None
    return os.fdopen(number, "rb")


class FolderBucket(Bucket):
    """A folder of this machine. The generation of an object is the time of its last write, in nanoseconds."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder

    def listing(self, prefix: str, pass_over: bool = False) -> dict[str, Stored]:
        """Reads every file below `prefix`."""
        found = {}
        for name in self._names(prefix, arriving=False):
            if pass_over and not is_file_below(name):
                continue
            if stored := self._stored(self.folder / name):
                found[file_below(name, self.url)] = stored
        return found

    def about(self, name: str) -> Stored | None:
        """Reads the file."""
        return self._stored(self._path(name))

    def read(self, name: str) -> bytes | None:
        """One file."""
        path = self._path(name)
        with self._plainly():
            if (file := _opened(path)) is None:
                return None
            with file:
                content = file.read(READ_LIMIT + 1)
        if len(content) > READ_LIMIT:
            raise UserError(f"{self.url}/{name}: is larger than {READ_LIMIT >> 20} MiB, and is to be read into memory")
        return content

    def write(self, name: str, content: bytes, replaces: int | None = None) -> None:
        """A lock on the bucket's folder makes comparison and replacement one."""
        path = self._path(name)
        with self._plainly(), self._locked():
            before = self._generation(path)
            self._compare(name, replaces, before)
            with whole_file(path) as file:
                file.write(content)
                file.flush()
                after = max(os.fstat(file.fileno()).st_mtime_ns, before + 1000)  # two writes may share a tick of the clock
                os.utime(file.fileno(), ns=(after, after))

    def upload(self, path: Path, name: str) -> None:
        """A copy under another name, then the name."""
        with path.open("rb") as content:
            self._receive(content, name)

    def download(self, name: str, stored: Stored, path: Path) -> None:
        """A copy under another name; its MD5 is compared."""
        source, md5 = self._path(name), hashlib.md5(usedforsecurity=False)
        with self._plainly():
            content = _opened(source)
        if content is None:
            raise Changed(f"{self.url}/{name}: was removed meanwhile")
        with content, whole_file(path) as file:
            while block := content.read(BLOCK):
                md5.update(block)
                file.write(block)
            if md5.hexdigest() != stored.md5:
                if self._generation(source) != stored.generation:
                    raise Changed(f"{self.url}/{name}: was written meanwhile")
                raise Damaged(f"{self.url}/{name}: was read twice with different content")

    def copy_object(self, name: str, to: str) -> None:
        """A copy under another name, then the name."""
        with self._plainly():
            content = _opened(self._path(name))
        if content is None:
            raise Changed(f"{self.url}/{name}: was removed meanwhile")
        with content:
            self._receive(content, to)

    def remove(self, names: Iterable[str], generation: int | None = None) -> None:
        """Folders that are empty then go too."""
        for name in names:
            path = self._path(name)
            with self._plainly(), self._locked():
                self._compare(name, generation, self._generation(path))
                path.unlink(missing_ok=True)
                self._remove_empty(path.parent)

    def send(self, folder: Path, prefix: str, skip: tuple[str, ...] = ()) -> None:
        """Before it, what a killed upload has left below `prefix` is removed: one process at a time sends to a prefix."""
        with self._plainly(), self._locked():
            for name in list(self._names(prefix, arriving=True)):
                (self.folder / name).unlink(missing_ok=True)
                self._remove_empty((self.folder / name).parent)
        super().send(folder, prefix, skip)

    def _receive(self, content: BinaryIO, name: str) -> None:
        with self._plainly(), whole_file(self._path(name)) as file:
            shutil.copyfileobj(content, file, BLOCK)

    def _names(self, prefix: str, arriving: bool) -> Iterator[str]:
        """Names of the regular files below a prefix that are whole, or of those that are still `arriving`."""
        top = self._path(prefix) if prefix else self._root()

        def failed(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise error

        with self._plainly():
            for inside, folders, files in os.walk(top, onerror=failed):
                folders.sort()
                for file in sorted(files):
                    path = Path(inside, file)
                    if file.startswith(ARRIVING) == arriving and not path.is_symlink() and path.is_file():
                        yield str(path.relative_to(self.folder))

    def _stored(self, path: Path) -> Stored | None:
        with self._plainly():
            try:
                about = path.lstat()
                return Stored(about.st_size, md5_of(path), about.st_mtime_ns) if S_ISREG(about.st_mode) else None
            except (FileNotFoundError, NotADirectoryError):
                return None

    def _generation(self, path: Path) -> int:
        """When it was written; 0 if it is not there."""
        try:
            return path.lstat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def _compare(self, name: str, wanted: int | None, found: int) -> None:
        if wanted not in (None, found):
            raise Changed(f"{self.url}/{name}: someone else has written or removed it meanwhile")

    def _remove_empty(self, folder: Path) -> None:
        """Folders without a whole file, upwards."""
        while folder != self.folder and folder.is_dir():
            if any(not left.name.startswith(ARRIVING) for left in folder.iterdir()):
                return
            shutil.rmtree(folder, ignore_errors=True)
            folder = folder.parent

    def _root(self) -> Path:
        if not self.folder.is_dir():
            raise UserError(f"{self.url}: there is no such folder (make it first: mkdir {self.folder})")
        return self.folder

    def _path(self, name: str) -> Path:
        return path_below(self._root(), name, self.url)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self._root(), os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """The file system's errors as one message each."""
        try:
            yield
        except OSError as error:
            said = f"{error.filename or self.folder}: {error.strerror or error}"
            if error.errno in _MAY_NOT:
                with suppress(OSError):
                    said += f" (this process runs as user id {os.geteuid()})"
                raise UserError(f"{self.url}: forbidden: {said}") from None
            raise RunError(f"{self.url}: {said}") from None
