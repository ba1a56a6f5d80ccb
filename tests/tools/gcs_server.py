"""Google Cloud Storage on loopback: fake-gcs-server (tests/tools/bring_tools builds it) behind a proxy that mends and breaks it.

Mended: it answers DELETE with 200 and the body `null`, where GCS answers 204 without a body; gcloud 528 falls over that. It knows
`versions=true`, and gcloud writes `versions=True`.
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

import pytest

from tests.tools.programs import require

BUILT = Path(__file__).parent.parent.parent / ".tools/bin/fake-gcs-server"


def server_path() -> str | None:
    """The server that tests/tools/bring_tools built, or one on PATH."""
    return str(BUILT) if BUILT.exists() else shutil.which("fake-gcs-server")


def needs_gcs() -> None:
    """Skip a test where the server or gcloud is missing."""
    require("fake-gcs-server", "gcloud")


class GcsServer:
    """Serves buckets that lie under `folder`, until its context ends.

    Faults, to be set at any time: `forbidden`, names of buckets that answer 403; `failing`, how many of the next requests are
    answered 503; `dropping`, how many get no answer; `slow_seconds` before each answer. `seen` is what was asked: (method, path).
    """

    def __init__(self, folder: Path, backend: str = "filesystem") -> None:
        self.folder, self.backend = folder, backend  # only `memory` keeps earlier versions
        self.forbidden: set[str] = set()
        self.failing = self.dropping = 0
        self.slow_seconds = 0.0
        self.seen: list[tuple[str, str]] = []
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), type("HandlerOfOne", (Handler,), {"gcs": self}))
        self._thread = threading.Thread(target=self._proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        """Where the proxy listens."""
        return f"http://127.0.0.1:{self._proxy.server_port}"

    @property
    def env(self) -> dict[str, str]:
        """The environment of a gcloud that knows no other storage, and no account."""
        return {
            "CLOUDSDK_CONFIG": str(self.folder.parent / f"{self.folder.name}.gcloud"),
            "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
            "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
            "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{self.url}/storage/v1/",
        }

    def __enter__(self) -> Self:
        program = server_path()
        if program is None:
            raise FileNotFoundError("no fake-gcs-server: run tests/tools/bring_tools")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        words = ["-scheme=http", "-host=127.0.0.1", f"-port={self.port}", f"-filesystem-root={self.folder}", "-log-level=error"]
        self._process = subprocess.Popen(
            [program, f"-backend={self.backend}", *words, f"-external-url={self.url}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 20
        while time.monotonic() < until and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return self
            time.sleep(0.02)
        self.__exit__()
        raise RuntimeError("fake-gcs-server does not listen")

    def __exit__(self, *_: object) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()
        self._thread.join()
        self._process.terminate()
        self._process.wait()

    def make_bucket(self, name: str, versioning: bool = False) -> str:
        """A new bucket; its URL."""
        settings = {"name": name, "versioning": {"enabled": versioning}}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port)) as server:
            server.request("POST", "/storage/v1/b?project=demo", json.dumps(settings), {"content-type": "application/json"})
            answer = server.getresponse()
            assert answer.status == 200, answer.read()
        return f"gs://{name}"

    def objects(self, bucket: str) -> dict[str, bytes]:
        """All objects of a bucket, by name: what is on the disk behind the server."""
        root = self.folder / bucket
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@contextlib.contextmanager
def gcs_served(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[GcsServer]:
    """A server that the real gcloud of this process, and of those it starts, talks to."""
    needs_gcs()
    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "CLOUDSDK_"))]:
        patch.delenv(name)
    with GcsServer(folder) as server:
        for name, value in server.env.items():
            patch.setenv(name, value)
        yield server


class Handler(BaseHTTPRequestHandler):
    """One request; `gcs` is whose."""

    gcs: GcsServer
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        body = self._body()
        self.gcs.seen.append((self.command, self.path))
        time.sleep(self.gcs.slow_seconds)
        if self.gcs.dropping:
            self.gcs.dropping -= 1
            self.close_connection = True
            return
        if self.gcs.failing:
            self.gcs.failing -= 1
            return self._send(503, {}, json.dumps({"error": {"code": 503, "message": "Service Unavailable"}}).encode())
        bucket = next((name for name in self.gcs.forbidden if f"/b/{name}" in unquote(self.path)), None)
        if bucket is not None:
            return self._send(403, {"content-type": "application/json"}, _forbidden(bucket, self.path))
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.gcs.port)) as behind:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
            behind.request(self.command, self.path.replace("versions=True", "versions=true"), body, headers)
            answer = behind.getresponse()
            content = answer.read()
            status = answer.status
            if self.command == "DELETE" and status == 200 and content.strip() == b"null":
                status, content = 204, b""
            self._send(status, {name: value for name, value in answer.getheaders() if name.lower() not in HOP}, content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = answer

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # the client may have been killed
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("content-length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # as above
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        """What was asked stands in `seen`."""


HOP = {"connection", "content-length", "date", "host", "keep-alive", "server", "transfer-encoding"}


def _forbidden(bucket: str, path: str) -> bytes:
    """As Google words it."""
    right = "storage.objects.list" if path.partition("?")[0].endswith("/o") else "storage.objects.get"
    message = (
        f"vm@demo-project.iam.gserviceaccount.com does not have {right} access to the Google Cloud Storage bucket. "
        f"Permission '{right}' denied on resource (or it may not exist)."
    )
    error = {"code": 403, "message": message, "errors": [{"message": message, "domain": "global", "reason": "forbidden"}]}
    return json.dumps({"error": error}).encode()
