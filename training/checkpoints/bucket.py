"""A bucket: `gs://` through the user's own `gcloud storage`, `file://` through rsync; above this file they are the same.

Names of objects are relative to the bucket's URL. An object appears whole or not at all, under either.
"""

import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from training.refusal import Failed, Refused

INSTALL = "https://cloud.google.com/sdk/docs/install"
LIMIT_SECONDS = 120
COPY_LIMIT_SECONDS = 4 * 3600  # a transfer that takes longer hangs


class Changed(Failed):
    """The object is not the one that was to be replaced: someone else has written it."""


class Damaged(Failed):
    """What has arrived does not have the checksum that it was stored with."""


@dataclass(frozen=True)
class Stored:
    """One object: its size in bytes, its MD5 (None where Google keeps none), and a number that changes with each write."""

    size: int
    md5: str | None
    generation: int


class Bucket(ABC):
    """What pushing and pulling need of a bucket.

    Every method raises Refused where the user must act (bucket missing, forbidden, no login) and Failed for what may pass.
    `skip` names files and folders, at any depth, that are left out.
    """

    url: str

    @abstractmethod
    def listing(self, prefix: str) -> dict[str, Stored]:
        """The objects below the folder `prefix`, by their names in the bucket."""

    @abstractmethod
    def generation(self, name: str) -> int:
        """The generation of one object; 0 if there is none."""

    @abstractmethod
    def send(self, folder: Path, prefix: str, skip: tuple[str, ...] = ()) -> None:
        """Bring the files below `folder` to `prefix`; what is there with the same content is left as it is."""

    @abstractmethod
    def fetch(self, prefix: str, folder: Path, skip: tuple[str, ...] = ()) -> None:
        """Bring the objects below `prefix` to `folder`; what is there with the same content is left as it is.

        Raises: Damaged, where the transfer itself notices it.
        """

    @abstractmethod
    def copy(self, prefix: str, to: str, skip: tuple[str, ...] = ()) -> None:
        """Copy the objects below `prefix` to below `to`, inside the bucket."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """What an object holds; None if there is none."""

    @abstractmethod
    def write(self, name: str, content: bytes, replaces: int | None = None) -> None:
        """Write one small object, over any, or only over the generation `replaces` (0: there must be none).

        Raises: Changed if another generation is there.
        """

    @abstractmethod
    def remove(self, names: Iterable[str]) -> None:
        """Remove objects; those that are gone already are no error."""


def open_bucket(url: str) -> Bucket:
    """The bucket `gs://NAME[/prefix]`, or the folder `file:///folder`.

    Raises: Refused for another URL, or if the program that copies is not installed.
    """
    parts = urlsplit(url)
    if parts.scheme == "gs" and parts.netloc:
        return GoogleBucket(url.rstrip("/"), _program("gcloud", f"install it from {INSTALL}"))
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return FolderBucket(url.rstrip("/"), Path(unquote(parts.path)), _program("rsync", "install it: apt-get install rsync"))
    raise Refused(f"{url!r} is no bucket (accepted: gs://BUCKET, gs://BUCKET/prefix, file:///folder)")


def _program(name: str, advice: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Refused(f"{name} is not on PATH: it copies to and from the bucket; {advice}")
    return found


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _run(
    command: list[str], seconds: float, environment: dict[str, str], stdin: bytes = b""
) -> "subprocess.CompletedProcess[bytes]":
    """Run a program that ends when this process does: gcloud 528 whose reader was killed may hang for good.

    Inheritable files are passed on: the pusher's lock is held until the last of its copies has ended (push.py).
    """
    parent = os.getpid()

    def end_with_parent() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    env = {**os.environ, **environment}
    try:
        return subprocess.run(
            command, input=stdin, capture_output=True, timeout=seconds, env=env, close_fds=False, preexec_fn=end_with_parent
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command[:3])}: no end within {seconds:g} seconds") from None


# --- gs:// ---

_ENVIRONMENT = {
    "CLOUDSDK_STORAGE_PROCESS_COUNT": "1",  # one core: the rest is the run's
    "CLOUDSDK_STORAGE_THREAD_COUNT": "1",  # with two, gcloud 528 forks helpers, which stay for good when it is killed
    "CLOUDSDK_STORAGE_PARALLEL_COMPOSITE_UPLOAD_ENABLED": "false",  # a kill leaves its temporary objects for good; no MD5 either
    "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
    "CLOUDSDK_CORE_DISABLE_FILE_LOGGING": "true",  # a file per call: thousands a day
    "CLOUDSDK_CORE_LOG_HTTP": "false",
    "CLOUDSDK_CORE_USER_OUTPUT_ENABLED": "true",
    "CLOUDSDK_CORE_VERBOSITY": "error",
    "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
}
_NO_OBJECT = re.compile(r"matched no objects|Did not find existing container|HTTPError 404: No such object", re.I)
_NO_BUCKET = re.compile(r"gs://\S+ not found: 404|bucket does not exist|BucketNotFound", re.I)
_FORBIDDEN = re.compile(r"HTTPError 403|does not have (?:permission|\S+ access)|Permission .* denied|PERMISSION_DENIED", re.I)
_LOGGED_OUT = re.compile(r"gcloud auth login|Reauthentication|invalid_grant|UNAUTHENTICATED|HTTPError 401|active account", re.I)
_OFFLINE = re.compile(
    r"Max retries exceeded|Failed to establish a new connection|Unable to find the server|network is unreachable|"
    r"Connection (?:aborted|reset)",
    re.I,
)
_CHANGED = re.compile(r"HTTPError 412|Precondition", re.I)
_DAMAGED = re.compile(r"does not match destination hash|hash mismatch|HashMismatch", re.I)


class _NoObject(Failed):
    """gcloud found nothing under that name, in a bucket that exists."""


class GoogleBucket(Bucket):
    """`gs://BUCKET/prefix`."""

    def __init__(self, url: str, program: str) -> None:
        self.url, self.program = url, program

    def listing(self, prefix: str) -> dict[str, Stored]:
        """One call."""
        return self._listed("--recursive", f"{self.url}/{prefix}/**")

    def generation(self, name: str) -> int:
        """One call."""
        found = self._listed(f"{self.url}/{name}").get(name)
        return found.generation if found else 0

    def _listed(self, *words: str) -> dict[str, Stored]:
        try:
            printed = self._gcloud("ls", "--json", *words)
        except _NoObject:
            return {}
        found: dict[str, Stored] = {}
        for item in json.loads(printed or b"[]"):
            about: dict[str, Any] = item["metadata"]
            md5 = b64decode(about["md5Hash"]).hex() if about.get("md5Hash") else None
            name = f"gs://{about['bucket']}/{about['name']}".removeprefix(f"{self.url}/")
            found[name] = Stored(int(about["size"]), md5, int(about["generation"]))
        return found

    def send(self, folder: Path, prefix: str, skip: tuple[str, ...] = ()) -> None:
        """By content: gcloud's modification times are whole seconds, and a small file may change twice in one."""
        self._rsync(str(folder), f"{self.url}/{prefix}", skip)

    def fetch(self, prefix: str, folder: Path, skip: tuple[str, ...] = ()) -> None:
        """It downloads under another name and renames."""
        folder.mkdir(parents=True, exist_ok=True)
        self._rsync(f"{self.url}/{prefix}", str(folder), skip)

    def copy(self, prefix: str, to: str, skip: tuple[str, ...] = ()) -> None:
        """Google copies; nothing passes through this machine."""
        self._rsync(f"{self.url}/{prefix}", f"{self.url}/{to}", skip)

    def read(self, name: str) -> bytes | None:
        """One call."""
        try:
            return self._gcloud("cat", f"{self.url}/{name}")
        except _NoObject:
            return None

    def write(self, name: str, content: bytes, replaces: int | None = None) -> None:
        """From stdin: there is no file to be half-written."""
        condition = [] if replaces is None else [f"--if-generation-match={replaces}"]
        self._gcloud("cp", "-", f"{self.url}/{name}", *condition, stdin=content)

    def remove(self, names: Iterable[str]) -> None:
        """One call for all; gcloud removes what is there before it complains of the rest."""
        urls = [f"{self.url}/{name}\n" for name in names]
        try:
            if urls:
                self._gcloud("rm", "--read-paths-from-stdin", stdin="".join(urls).encode())
        except _NoObject:
            pass

    def _rsync(self, source: str, target: str, skip: tuple[str, ...]) -> None:
        left_out = [f"--exclude=(.*/)?({'|'.join(map(re.escape, skip))})(/.*)?$"] if skip else []
        try:
            self._gcloud("rsync", "--recursive", "--checksums-only", *left_out, source, target, seconds=COPY_LIMIT_SECONDS)
        except _NoObject:
            pass  # an empty source

    def _gcloud(self, *words: str, stdin: bytes = b"", seconds: float = LIMIT_SECONDS) -> bytes:
        done = _run([self.program, "storage", *words], seconds, _ENVIRONMENT, stdin)
        if done.returncode == 0:
            return done.stdout
        said = done.stderr.decode(errors="replace")
        error = " ".join(said[max(said.find("ERROR: "), 0) :].split())
        bucket = "/".join(self.url.split("/")[:3])
        if _OFFLINE.search(error):
            raise Failed(f"{bucket}: Google Cloud Storage cannot be reached from this machine: check its network")
        if _CHANGED.search(error):
            raise Changed(f"{self.url}: someone else has written what was to be written ({words[-1]})")
        if _DAMAGED.search(error):
            raise Damaged(f"{self.url}: {error[:300]}")
        if _NO_BUCKET.search(error):
            raise Refused(
                f"{bucket}: there is no such bucket (`./fab up --stack storage` makes one; its name is in the stack's outputs)"
            )
        if _FORBIDDEN.search(error):
            raise Refused(f"{bucket}: forbidden: the account here needs the role Storage Object User on the bucket ({error[:300]})")
        if _LOGGED_OUT.search(error):
            raise Refused("gcloud is not logged in here, or its login has expired; run: gcloud auth login")
        if _NO_OBJECT.search(error):
            raise _NoObject(f"{self.url}: {error[:300]}")
        raise Failed(f"gcloud storage {words[0]} {self.url}: {error[:600] or f'exit code {done.returncode}'}")


# --- file:// ---

_TEMPORARY = ".incoming"


class FolderBucket(Bucket):
    """A folder of this machine."""

    def __init__(self, url: str, folder: Path, program: str) -> None:
        self.url, self.folder, self.program = url, folder, program

    def listing(self, prefix: str) -> dict[str, Stored]:
        """Reads every file below `prefix`; what rsync has not finished does not count."""
        found: dict[str, Stored] = {}
        for path in sorted(self._there(prefix).rglob("*")):
            name = path.relative_to(self.folder)
            if path.is_dir() or any(part.startswith(_TEMPORARY) for part in name.parts):
                continue
            try:
                about = path.stat()
                with path.open("rb") as file:
                    found[str(name)] = Stored(about.st_size, hashlib.file_digest(file, "md5").hexdigest(), about.st_mtime_ns)
            except FileNotFoundError:
                continue
        return found

    def generation(self, name: str) -> int:
        """When it was written."""
        try:
            return self._there(name).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def send(self, folder: Path, prefix: str, skip: tuple[str, ...] = ()) -> None:
        """Rsync writes to another name in a folder of its own, and renames."""
        self._rsync(folder, self._there(prefix), skip)

    def fetch(self, prefix: str, folder: Path, skip: tuple[str, ...] = ()) -> None:
        """As `send`, the other way."""
        self._rsync(self._there(prefix), folder, skip)

    def copy(self, prefix: str, to: str, skip: tuple[str, ...] = ()) -> None:
        """As `send`, from folder to folder."""
        self._rsync(self._there(prefix), self._there(to), skip)

    def read(self, name: str) -> bytes | None:
        """One file."""
        try:
            return self._there(name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes, replaces: int | None = None) -> None:
        """A lock on the bucket's folder makes comparison and replacement one."""
        path = self._there(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if replaces not in (None, self.generation(name)):
                    raise Changed(f"{self.url}: someone else has written what was to be written ({name})")
                with tempfile.NamedTemporaryFile(prefix=_TEMPORARY, dir=path.parent, delete=False) as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(file.name, 0o644)
                os.replace(file.name, path)
            finally:
                os.close(lock)
        except OSError as error:
            raise self._error(f"{path}: {error.strerror}") from None

    def remove(self, names: Iterable[str]) -> None:
        """Folders that are empty then go too."""
        for name in names:
            path = self._there(name)
            path.unlink(missing_ok=True)
            for above in path.parents:
                if above == self.folder or not above.is_dir():
                    break
                if any(not left.name.startswith(_TEMPORARY) for left in above.iterdir()):
                    break
                shutil.rmtree(above, ignore_errors=True)

    def _there(self, name: str) -> Path:
        if not self.folder.is_dir():
            raise Refused(f"{self.url}: there is no such folder (make it first: mkdir {self.folder})")
        return self.folder / name

    def _rsync(self, source: Path, target: Path, skip: tuple[str, ...]) -> None:
        if not source.is_dir():
            return
        temporary = target / _TEMPORARY
        try:
            temporary.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._error(f"{target}: {error.strerror}") from None
        left_out = [f"--exclude={name}" for name in (f"{_TEMPORARY}*", *skip)]
        words = ["--recursive", "--times", "--checksum", f"--temp-dir={temporary}", *left_out, f"{source}/", f"{target}/"]
        done = _run([self.program, *words], COPY_LIMIT_SECONDS, {"LC_ALL": "C"})
        shutil.rmtree(temporary, ignore_errors=True)  # with what a killed rsync has left there
        if done.returncode:
            raise self._error(" ".join(done.stderr.decode(errors="replace").split())[:600] or f"rsync: exit code {done.returncode}")

    def _error(self, said: str) -> Exception:
        if "Permission denied" in said:
            return Refused(f"{self.url}: forbidden: {said}")
        return Failed(f"{self.url}: {said}")
