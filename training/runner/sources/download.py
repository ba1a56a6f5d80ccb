"""One file over HTTP: resumed where a connection or a process died, and given its name only when it has its hash."""

import hashlib
import http.client
import logging
import os
import re
import shutil
import ssl
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from training.errors import RunError

log = logging.getLogger(__name__)

TRIES = 5
"""In a row that bring nothing new; one that does starts the count anew."""
WAIT_SECONDS = 1.0
TIMEOUT_SECONDS = 60.0
PROGRESS_SECONDS = 15.0
_CHUNK = 1 << 20
_PASSING = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Digest:
    """A hash that a file must have: SHA-256, or git's of a blob, which the hub has for files outside LFS."""

    kind: Literal["sha256", "git-sha1"]
    value: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"

    def of(self, path: Path) -> "Digest":
        """The same kind of hash of a file."""
        with path.open("rb") as file:
            if self.kind == "sha256":
                return Digest(self.kind, hashlib.file_digest(file, "sha256").hexdigest())
            head = f"blob {path.stat().st_size}\0".encode()
            digest = hashlib.sha1(head, usedforsecurity=False)
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
            return Digest(self.kind, digest.hexdigest())


@dataclass(frozen=True)
class Remote:
    """A file to bring."""

    shown: str
    """How messages call it: no secrets."""
    url: str
    digest: Digest
    size: int | None
    token: str | None = field(default=None, repr=False)
    """Sent to the host of `url` alone, never to where it redirects."""


class Progress:
    """Counts bytes of several threads, and says now and then how far it is."""

    def __init__(self, what: str, total: int | None) -> None:
        self.bytes = 0
        self._what, self._total = what, total
        self._lock, self._start = threading.Lock(), time.monotonic()
        self._said, self._stopped = self._start, False

    def stop(self) -> None:
        """End the downloads that still count here, at their next bytes."""
        self._stopped = True

    def add(self, n: int) -> None:
        """Count `n` more bytes.

        Raises: RunError once `stop` was called: another file of the same source could not be brought.
        """
        if self._stopped:
            raise RunError(f"{self._what}: stopped")
        with self._lock:
            self.bytes += n
            now = time.monotonic()
            if now - self._said >= PROGRESS_SECONDS:
                self._said = now
                of = f" of {size_text(self._total)}" if self._total else ""
                log.info("%s: %s%s, %s/s", self._what, size_text(self.bytes), of, size_text(self.bytes / (now - self._start)))


class HttpError(RunError):
    """The server's no: its status and headers, for who knows what they mean."""

    def __init__(self, message: str, status: int, headers: Message) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


def is_right(path: Path, remote: Remote) -> bool:
    """Whether the file is there with the size and hash it must have."""
    if not path.is_file() or (remote.size is not None and path.stat().st_size != remote.size):
        return False
    return remote.digest.of(path) == remote.digest


def download(remote: Remote, path: Path, progress: Progress) -> None:
    """Bring a file; what an earlier try left in PATH.partial is gone on with.

    Raises: HttpError for what the server refuses; RunError if it cannot be reached, the disk is too small, or the hash is another.
    """
    partial = path.with_name(f"{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    idle_tries, most = 0, _size(partial)
    while True:
        try:
            if _stream(remote, partial, progress):
                break
            error: BaseException | str = "the connection ended early"
        except HttpError as no:
            if no.status not in _PASSING:
                raise
            error = no
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as gone:
            error = gone.reason if isinstance(gone, urllib.error.URLError) else gone
        idle_tries = 0 if _size(partial) > most else idle_tries + 1
        most = max(most, _size(partial))
        if idle_tries >= TRIES:
            raise RunError(f"{remote.shown}: {error}; check the network, then run it again: it goes on where it stopped")
        log.warning("%s: %s; trying again", remote.shown, error)
        time.sleep(WAIT_SECONDS * 2 ** max(0, idle_tries - 1))
    _accept(remote, partial, path)


def size_text(n: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"


def need_space(needed: int, folder: Path, shown: str) -> None:
    """Stop before a download that cannot fit.

    Raises: RunError naming what is needed and what is free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RunError(
            f"{shown}: needs {size_text(needed)}, but {folder} has {size_text(free)} free; make room or take a larger disk"
        )


def _accept(remote: Remote, partial: Path, path: Path) -> None:
    found = remote.digest.of(partial)
    if found != remote.digest:
        partial.unlink()
        _validator_file(partial).unlink(missing_ok=True)
        raise RunError(f"{remote.shown}: what came has {found}, but {remote.digest} is asked for; it was removed")
    partial.rename(path)
    _validator_file(partial).unlink(missing_ok=True)


def _stream(remote: Remote, partial: Path, progress: Progress) -> bool:
    """Write what is missing of the file into `partial`; whether it is all there now."""
    have = _size(partial)
    validator = _read_validator(partial)
    if have and not validator:
        have = 0  # nothing tells whether the file on the server is still the same
    if remote.size is not None and have == remote.size and partial.exists():
        return True
    try:
        response = _open(remote, {"Range": f"bytes={have}-", "If-Range": validator} if have else {})
    except HttpError as no:
        if no.status != 416:
            raise
        if have and no.headers.get("Content-Range") == f"bytes */{have}":
            return True
        partial.unlink(missing_ok=True)
        return False
    with response:
        found = re.fullmatch(r"bytes (\d+)-\d+/\d+", response.headers.get("Content-Range") or "")
        if response.status != 206 or found is None or int(found[1]) != have:
            have = 0  # the file has changed, or the server knows no ranges
            partial.unlink(missing_ok=True)
            _write_validator(partial, response)
        stated = response.headers.get("Content-Length") or ""
        length = int(stated) if re.fullmatch(r"[0-9]{1,18}", stated) else None
        if length is not None:
            need_space(length, partial.parent, remote.shown)
        return _write(response, partial, progress, length)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _write(response: Any, partial: Path, progress: Progress, length: int | None) -> bool:
    written = 0
    with partial.open("ab") as file:
        while chunk := response.read1(_CHUNK):
            file.write(chunk)
            written += len(chunk)
            progress.add(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    return length is None or written == length


def _open(remote: Remote, headers: dict[str, str]) -> Any:
    request = urllib.request.Request(remote.url, headers={"User-Agent": "incubator", "Accept-Encoding": "identity", **headers})
    if remote.token:
        request.add_unredirected_header("Authorization", f"Bearer {remote.token}")
    try:
        return urllib.request.build_opener(_Redirects()).open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as no:
        with no:
            raise HttpError(f"{remote.shown}: the server says {no.code} {no.reason}", no.code, no.headers) from None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects; the token stays on the host it is for, and encryption is not given up."""

    def redirect_request(self, req: urllib.request.Request, *answer: Any) -> urllib.request.Request | None:
        new = super().redirect_request(req, *answer)
        if new is None:
            return None
        here, there = urlsplit(req.full_url), urlsplit(new.full_url)
        if here.scheme == "https" and there.scheme != "https":
            raise urllib.error.URLError(f"it redirects from https to {there.scheme}://{there.netloc}")
        token = req.unredirected_hdrs.get("Authorization")
        if token and (here.scheme, here.netloc) == (there.scheme, there.netloc):
            new.add_unredirected_header("Authorization", token)
        return new


# What the server calls this version of the file lies beside the partial one, so that a later process may go on with it.


def _validator_file(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.etag")


def _read_validator(partial: Path) -> str:
    try:
        return _validator_file(partial).read_text(encoding="latin-1")
    except OSError:
        return ""


def _write_validator(partial: Path, response: Any) -> None:
    etag = response.headers.get("ETag") or ""
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified") or ""  # a weak ETag promises no bytes
    file = _validator_file(partial)
    if validator:
        file.write_text(validator, encoding="latin-1")
    else:
        file.unlink(missing_ok=True)
