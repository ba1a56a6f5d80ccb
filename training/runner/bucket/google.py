"""`gs://` through google-cloud-storage: typed errors, generation preconditions, resumable uploads, bounded memory and retries.

The library is imported at the first question, not with this file: `training --help` and `file://` do not pay for it.
"""

import hashlib
import io
import os
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from training.errors import RunError, UserError
from training.runner.bucket.bucket import READ_LIMIT, Bucket, Changed, Damaged, Stored
from training.runner.bucket.local_files import BLOCK, remove_kept, whole_file
from training.runner.bucket.login import COMMAND, Login, log_in, plain_login_errors
from training.text import escaped
from training.untrusted import file_below, is_file_below

TIMEOUT_SECONDS = (10.0, 60.0)
"""To connect, and between two bytes."""
RETRY_SECONDS = 45.0
"""How long one request, or one part of a transfer, is tried again; the library's own limit is 120."""
PART = 8 * 2**20
"""Bytes of one request of an upload or a download; a multiple of 256 KiB. A retry begins there, and it bounds the memory of a
process that transfers 200 MB: 80 MB with 4 MiB, 96 MB with 8, 129 MB with 16."""


class GoogleBucket(Bucket):
    """`gs://BUCKET/prefix`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url, self.name = url, parts.netloc
        self._base = f"{parts.path.strip('/')}/".lstrip("/")
        self._login: Login | None = None
        self._is_known = False
        """Whether the bucket has answered: an object that is not found is then not there, rather than the bucket."""

    def listing(self, prefix: str, pass_over: bool = False) -> dict[str, Stored]:
        """One request a thousand objects."""
        with self._plainly():
            blobs = self._client.list_blobs(self._bucket, prefix=self._base + (f"{prefix}/" if prefix else ""), **self._patience)
            found = {}
            for blob in blobs:
                name = blob.name.removeprefix(self._base)
                if (blob.name.endswith("/") and not blob.size) or (pass_over and not is_file_below(name)):
                    continue  # the former is a folder that the console made
                found[file_below(name, self.url)] = _stored(blob)
        self._is_known = True
        return found

    def about(self, name: str) -> Stored | None:
        """One request."""
        with self._plainly():
            blob = self._asked(lambda: self._bucket.get_blob(self._object(name), **self._patience))
            return None if blob is None else _stored(blob)

    def read(self, name: str) -> bytes | None:
        """One request; the library compares the checksum."""
        into = _Limited(f"{self.url}/{name}")
        blob = self._bucket.blob(self._object(name))
        with self._plainly():
            found = self._asked(lambda: blob.download_to_file(into, raw_download=True, **self._patience) or True)
        return into.getvalue() if found else None

    def write(self, name: str, content: bytes, replaces: int | None = None) -> None:
        """One request, with its checksum."""
        blob = self._bucket.blob(self._object(name))
        try:
            with self._plainly():
                blob.upload_from_string(content, "application/octet-stream", if_generation_match=replaces, **self._patience)
        except Changed:
            # If the answer to a write was lost, the retry is refused because of our own object.
            stored = self.about(name)
            if stored is None or stored.md5 != hashlib.md5(content, usedforsecurity=False).hexdigest():
                raise
        self._is_known = True

    def upload(self, path: Path, name: str) -> None:
        """Up to 8 MiB in one request, above in parts; the server compares the checksum."""
        blob = self._bucket.blob(self._object(name), chunk_size=PART)
        with path.open("rb") as file, self._plainly():
            size = path.stat().st_size
            blob.upload_from_file(file, size=size, content_type="application/octet-stream", **self._patience)
        self._is_known = True

    def download(self, name: str, stored: Stored, path: Path) -> None:
        """In parts of one generation, behind what an earlier try left; then its checksum is compared."""
        blob = self._bucket.blob(self._object(name))
        try:
            with whole_file(path, kept_for=str(stored.generation)) as file:
                self._download_to(file, blob, stored)
        except Changed:
            remove_kept(path)
            raise
        except Damaged:
            remove_kept(path)
            if self.about(name) != stored:
                raise Changed(f"{self.url}/{name}: someone else has written or removed the object meanwhile") from None
            raise

    def _download_to(self, file: BinaryIO, blob: Any, stored: Stored) -> None:
        checksum, have = _Checksum(stored), 0
        file.seek(0)
        while block := file.read(BLOCK):
            checksum.update(block)
            have += len(block)
        while have < stored.size:
            block = self._part(blob, stored.generation, have, min(have + PART, stored.size) - 1)
            file.write(block)
            checksum.update(block)
            have += len(block)
        if have != stored.size or not checksum.holds():
            raise Damaged(f"{self.url}: what has arrived of {blob.name} does not have the checksum of the object; it was removed")

    def _part(self, blob: Any, generation: int, start: int, end: int) -> bytes:
        if self.stopped:
            raise RunError(f"{self.url}: stopped, because another download failed")
        with self._plainly():
            part: bytes = blob.download_as_bytes(
                start=start, end=end, if_generation_match=generation, raw_download=True, single_shot_download=True, checksum=None,
                **self._patience,
            )  # fmt: skip
            return part

    def copy_object(self, name: str, to: str) -> None:
        """Google copies; nothing passes through this machine."""
        source, target = self._bucket.blob(self._object(name)), self._bucket.blob(self._object(to))
        with self._plainly():
            token = None
            while True:
                token, _, _ = target.rewrite(source, token=token, **self._patience)
                if token is None:
                    return

    def remove(self, names: Iterable[str], generation: int | None = None) -> None:
        """One request each."""
        for name in names:
            blob = self._bucket.blob(self._object(name))
            with self._plainly():
                self._asked(lambda blob=blob: blob.delete(if_generation_match=generation, **self._patience))

    def _object(self, name: str) -> str:
        return self._base + file_below(name, self.url)

    @cached_property
    def _client(self) -> Any:
        """Raises: UserError or RunError as `log_in`."""
        # Where OpenTelemetry is installed, version 3.17 asks for the bucket's metadata in the background, which needs another role.
        os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
        from google.cloud import storage

        if "STORAGE_EMULATOR_HOST" in os.environ:  # nobody logs in to a stand-in server
            return storage.Client()
        self._login = log_in(self.url)
        return storage.Client(project=None, credentials=self._login.credentials)

    @cached_property
    def _bucket(self) -> Any:
        return self._client.bucket(self.name)

    @cached_property
    def _patience(self) -> dict[str, Any]:
        from google.cloud.storage.retry import DEFAULT_RETRY

        return {"timeout": TIMEOUT_SECONDS, "retry": DEFAULT_RETRY.with_timeout(RETRY_SECONDS).with_delay(0.5, 8.0, 2.0)}

    def _asked(self, ask: Any) -> Any:
        """The answer; None if there is no such object.

        Raises: NotFound if there is no such bucket: Google's answer has the same code and differs in its English only.
        """
        from google.api_core.exceptions import NotFound

        try:
            answer = ask()
        except NotFound:
            answer = None
        if answer is None and not self._is_known:
            list(self._client.list_blobs(self._bucket, max_results=1, **self._patience))
        self._is_known = True
        return answer

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        """The library's errors as one message each."""
        import requests
        from google.api_core import exceptions as google
        from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

        bucket, _ = f"gs://{self.name}", self._client  # logged in, so that an error of the login is known for what it is
        try:
            with plain_login_errors(bucket, self._login):
                yield
        except google.RetryError as error:
            raise RunError(_unanswered(bucket, error.cause)) from None
        except (google.PreconditionFailed, google.RequestRangeNotSatisfiable) as error:
            raise Changed(f"{self.url}: someone else has written or removed the object meanwhile ({_line(error)})") from None
        except google.NotFound as error:
            if self._is_known:
                raise Changed(f"{self.url}: the object was removed meanwhile ({_line(error)})") from None
            raise UserError(
                f"{bucket}: there is no such bucket (`./fab up --stack storage` makes one; its name is in the stack's outputs)"
            ) from None
        except google.Unauthorized as error:
            raise UserError(f"{bucket}: Google does not accept the login here ({_line(error)}); run: {COMMAND}") from None
        except google.Forbidden as error:
            raise UserError(
                f"{bucket}: forbidden: the account here needs the role Storage Object User on the bucket, to read only Storage "
                f"Object Viewer ({_line(error)})"
            ) from None
        except DataCorruption as error:
            raise Damaged(f"{self.url}: {_line(error)}") from None
        except (google.GoogleAPICallError, InvalidResponse) as error:
            raise RunError(_unanswered(bucket, error)) from None
        except (requests.RequestException, ConnectionError) as error:
            raise RunError(_unanswered(bucket, error)) from None


class _Limited(io.BytesIO):
    """Takes no more than READ_LIMIT."""

    def __init__(self, shown: str) -> None:
        super().__init__()
        self._shown = shown

    def write(self, block: Any) -> int:
        if self.tell() + len(block) > READ_LIMIT:
            raise UserError(f"{self._shown}: is larger than {READ_LIMIT >> 20} MiB, and is to be read into memory")
        return super().write(block)


class _Checksum:
    """CRC32C where the bucket has it, else MD5, of what passes."""

    def __init__(self, stored: Stored) -> None:
        import google_crc32c

        self._wanted = stored.crc32c or stored.md5
        self._sum: Any = google_crc32c.Checksum() if stored.crc32c else hashlib.md5(usedforsecurity=False)
        self._is_crc32c = stored.crc32c is not None

    def update(self, block: bytes) -> None:
        self._sum.update(block)

    def holds(self) -> bool:
        return self._wanted == (b64encode(self._sum.digest()).decode() if self._is_crc32c else self._sum.hexdigest())


def _stored(blob: Any) -> Stored:
    md5 = b64decode(blob.md5_hash).hex() if blob.md5_hash else None
    return Stored(int(blob.size), md5, int(blob.generation), blob.crc32c or None)


def _unanswered(bucket: str, error: object) -> str:
    import requests

    if isinstance(error, requests.ConnectionError | requests.Timeout | ConnectionError) or error is None:
        return f"{bucket}: Google Cloud Storage cannot be reached from this machine: check its network ({_line(error)})"
    return f"{bucket}: Google Cloud Storage does not do it now: {_line(error)}"


def _line(error: object) -> str:
    """What the server answered, else what the error is, in a line."""
    try:
        text = error.response.json()["error"]["message"]  # type: ignore[attr-defined]
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):  # no answer, not JSON, or consumed as a stream
        text = getattr(error, "message", error)
    return escaped(" ".join(str(text).split()))[:300]
