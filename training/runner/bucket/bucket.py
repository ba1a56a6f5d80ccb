"""A bucket: `gs://` through google-cloud-storage, `file://` through plain Python; above this file they are the same.

Names of objects are relative to the bucket's URL. An object appears whole or not at all, under either.
"""

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from training.errors import RunError, UserError
from training.runner.bucket.local_files import crc32c_of, kept_bytes, md5_of
from training.text import escaped
from training.untrusted import path_below

READ_LIMIT = 16 * 2**20
"""Bytes; what is read into memory is a manifest, a lease or a run.json, of kilobytes."""
ATTEMPTS = 3
"""At an object that changes while it is downloaded."""


class Changed(RunError):
    """The object is not the one that was to be replaced or read: someone else has written or removed it."""


class Damaged(RunError):
    """What has arrived does not have the checksum that it was stored with."""


@dataclass(frozen=True)
class Stored:
    """One object: its size in bytes, its checksums as far as the bucket has them, and a number that changes with each write.

    Google keeps no MD5 of an object that was uploaded in parts and then composed; CRC32C is base64, as Google writes it.
    """

    size: int
    md5: str | None
    generation: int
    crc32c: str | None = None

    def is_content_of(self, path: Path) -> bool:
        """Whether a file has this content; False too where there is no file, or no checksum to tell."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        if self.crc32c is not None:  # the faster one
            return crc32c_of(path) == self.crc32c
        return self.md5 is not None and md5_of(path) == self.md5


class Bucket(ABC):
    """What pushing, pulling and downloading data need of a bucket.

    Every method raises UserError where the user must act (no such bucket, forbidden, no login, a name that is no path below a
    folder) and RunError for what may pass.
    """

    url: str
    stopped = False
    """Set when another download of the same `fetch` has failed: those under way end at their next part."""

    @abstractmethod
    def listing(self, prefix: str, pass_over: bool = False) -> dict[str, Stored]:
        """The objects below the folder `prefix` ("": all), by name. Folder markers of Google's console are left out.

        `pass_over` leaves out what is no path below a folder, for who writes nothing to this disk: it is somebody else's.
        """

    @abstractmethod
    def about(self, name: str) -> Stored | None:
        """One object; None if there is none."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """The content of a small object; None if there is none.

        Raises: UserError above 16 MiB; Damaged.
        """

    @abstractmethod
    def write(self, name: str, content: bytes, replaces: int | None = None) -> None:
        """Write one small object, over any, or only over the generation `replaces` (0: there must be none).

        Raises: Changed if another generation is there.
        """

    @abstractmethod
    def upload(self, path: Path, name: str) -> None:
        """Upload a file, over any object of that name.

        Raises: OSError if the file cannot be read; Damaged.
        """

    @abstractmethod
    def download(self, name: str, stored: Stored, path: Path) -> None:
        """Download an object as it was listed; the file gets its name when it has its checksum.

        Raises: OSError if the file cannot be written; Changed if the object is no longer the same; Damaged.
        """

    @abstractmethod
    def copy_object(self, name: str, to: str) -> None:
        """Copy an object inside the bucket.

        Raises: Changed if it is gone.
        """

    @abstractmethod
    def remove(self, names: Iterable[str], generation: int | None = None) -> None:
        """Remove objects; those that are gone already are no error.

        Raises: Changed if another `generation` than this is there.
        """

    def send(self, folder: Path, prefix: str, skip: tuple[str, ...] = ()) -> None:
        """Upload the files below `folder` to `prefix`; an object with the same content is left as it is.

        `skip` names files and folders, at any depth, that are left out. Links are not followed.
        """
        for inside, folders, files in os.walk(folder):
            folders[:] = [name for name in sorted(folders) if name not in skip]
            for file in sorted(set(files) - set(skip)):
                path = Path(inside, file)
                name = f"{prefix}/{path.relative_to(folder)}"
                if path.is_symlink():
                    continue
                stored = self.about(name)
                if stored is None or not stored.is_content_of(path):
                    self.upload(path, name)

    def fetch(self, objects: Mapping[str, Stored], prefix: str, folder: Path, at_once: int = 1) -> dict[str, Stored]:
        """Download objects of a listing to `folder`, at their names below `prefix`; what is there with the same content stays.

        One that changed after the listing is downloaded as it is now; one that is gone is left out.

        Args:
            objects: From `listing`.
            prefix: As it was listed.
            folder: Made if it is not there.
            at_once: Downloads at the same time.

        Returns: the objects whose content the files now have.
        Raises: UserError for a name that leaves the folder or passes a symbolic link, before anything is written;
            RunError if the disk has too little room; OSError if a file cannot be written; Damaged.
        """
        targets = {name: path_below(folder, _below(name, prefix), f"{self.url}/{name}") for name in objects}
        self._refuse_file_and_folder(objects)
        lacking = [name for name, path in targets.items() if not objects[name].is_content_of(path)]
        kept = sum(kept_bytes(targets[name], str(objects[name].generation)) for name in lacking)
        self._need_room(sum(objects[name].size for name in lacking) - kept, folder)
        folder.mkdir(parents=True, exist_ok=True)
        found = dict(objects)
        self.stopped = False
        with ThreadPoolExecutor(at_once) as pool:
            jobs = {name: pool.submit(self._fetch_one, name, objects[name], targets[name]) for name in lacking}
            try:
                for name, job in jobs.items():
                    stored = job.result()
                    if stored is None:
                        del found[name]
                    else:
                        found[name] = stored
            except BaseException:
                self.stopped = True
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return found

    def _fetch_one(self, name: str, stored: Stored | None, path: Path) -> Stored | None:
        for attempt in range(1, ATTEMPTS + 1):
            if stored is None:
                break
            try:
                self.download(name, stored, path)
                break
            except Changed:
                if attempt == ATTEMPTS:
                    raise
                stored = self.about(name)
        return stored

    def _refuse_file_and_folder(self, names: Iterable[str]) -> None:
        names = set(names)
        for name in names:
            above = name
            while above := above.rpartition("/")[0]:
                if above in names:
                    raise UserError(
                        f"{self.url}/{escaped(above)}: is an object, and {escaped(name)} lies below it: no folder can hold both. "
                        "Rename or remove one of them there"
                    )

    def _need_room(self, needed: int, folder: Path) -> None:
        existing = next(above for above in (folder.absolute(), *folder.absolute().parents) if above.is_dir())
        free = shutil.disk_usage(existing).free
        if needed > free:
            raise RunError(
                f"{self.url}: {needed / 2**30:,.2f} GiB are to be downloaded, but {existing} has {free / 2**30:,.2f} GiB free; "
                "make room or take a larger disk"
            )

    def copy(self, names: Iterable[str], prefix: str, to: str) -> None:
        """Copy objects below `prefix` to the same names below `to`, inside the bucket."""
        for name in names:
            self.copy_object(name, f"{to}/{_below(name, prefix)}")


def _below(name: str, prefix: str) -> str:
    return name.removeprefix(f"{prefix}/") if prefix else name


def open_bucket(url: str) -> Bucket:
    """The bucket `gs://NAME[/prefix]`, or the folder `file:///folder`. Nothing is asked yet.

    Raises: UserError for another URL.
    """
    from training.runner.bucket.folder import FolderBucket
    from training.runner.bucket.google import GoogleBucket

    parts = urlsplit(url)
    if parts.scheme == "gs" and parts.netloc:
        return GoogleBucket(url.rstrip("/"))
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return FolderBucket(url.rstrip("/"), Path(unquote(parts.path)))
    raise UserError(f"{url!r} is no bucket (accepted: gs://BUCKET, gs://BUCKET/prefix, file:///folder)")
