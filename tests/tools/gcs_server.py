"""Google Cloud Storage on loopback: fake-gcs-server (tests/tools/bring_tools builds it) behind a proxy that mends and breaks it.

Mended: it answers DELETE with 200 and the body `null`, where GCS answers 204 without a body, and ignores ifGenerationMatch there;
the parts of a resumable upload pass by the proxy, because it names its own port in the answer to the first request.
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
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import pytest

BUILT = Path(__file__).parent.parent.parent / ".tools/bin/fake-gcs-server"


def server_path() -> str | None:
    """The server that tests/tools/bring_tools built, or one on PATH."""
    return str(BUILT) if BUILT.exists() else shutil.which("fake-gcs-server")


def needs_gcs() -> None:
    """Skip a test where the server is missing; in CI it must be there."""
    if server_path() is None and not os.environ.get("CI"):
        pytest.skip("no fake-gcs-server: tests/tools/bring_tools builds one")


class GcsServer:
    """Serves buckets that lie under `folder`, until its context ends.

    Faults, to be set at any time: `forbidden`, names of buckets that answer 403; `failing`, how many of the next requests are
    answered with `fails_with`; `dropping`, how many get no answer; `losing`, how many are done, but their answer is lost;
    `damaging`, whether a byte of each download is changed; `slow_seconds` before each answer. A fault that counts hits only
    requests with `method`, where that is set. `renames` are objects that listings show under another name. `seen` is what was
    asked: (method, path).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.forbidden: set[str] = set()
        self.failing = self.dropping = self.losing = 0
        self.fails_with = 503
        self.damaging = False
        self.method: str | None = None
        self.renames: dict[str, str] = {}
        self.slow_seconds = 0.0
        self.seen: list[tuple[str, str]] = []
        self.under_way = 0
        """Requests without an answer yet; a client that was killed may have left some."""
        self.counting = threading.Lock()
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), type("HandlerOfOne", (Handler,), {"gcs": self}))
        self._thread = threading.Thread(target=self._proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        """Where the proxy listens."""
        return f"http://127.0.0.1:{self._proxy.server_port}"

    @property
    def env(self) -> dict[str, str]:
        """The environment of a google-cloud-storage and of a gcloud that know no other storage, and no account."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
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
            [program, "-backend=filesystem", *words, f"-external-url={self.url}"],
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

    def make_bucket(self, name: str) -> str:
        """A new bucket; its URL."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port)) as server:
            server.request("POST", "/storage/v1/b?project=demo", json.dumps({"name": name}), {"content-type": "application/json"})
            answer = server.getresponse()
            assert answer.status == 200, answer.read()
        return f"gs://{name}"

    def put(self, bucket: str, name: str, content: bytes) -> None:
        """An object, under any name that the server takes."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port)) as server:
            query = urlencode({"uploadType": "media", "name": name})
            server.request("POST", f"/upload/storage/v1/b/{bucket}/o?{query}", content)
            answer = server.getresponse()
            assert answer.status == 200, answer.read()

    def objects(self, bucket: str) -> dict[str, bytes]:
        """All objects of a bucket, by name: what is on the disk behind the server."""
        root = self.folder / bucket
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@contextlib.contextmanager
def gcs_served(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[GcsServer]:
    """A server that this process, and those it starts, take for Google's."""
    needs_gcs()
    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "CLOUDSDK_", "STORAGE_"))]:
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
        with self.gcs.counting:
            self.gcs.under_way += 1
        try:
            self._answer(self._body())
        finally:
            with self.gcs.counting:
                self.gcs.under_way -= 1

    def _answer(self, body: bytes) -> None:
        self.gcs.seen.append((self.command, self.path))
        time.sleep(self.gcs.slow_seconds)
        if self._hit("dropping"):
            self.close_connection = True
            return
        if self._hit("failing"):
            error = {"error": {"code": self.gcs.fails_with, "message": "a fault of the test"}}
            return self._send(self.gcs.fails_with, {"content-type": "application/json"}, json.dumps(error).encode())
        bucket = next((name for name in self.gcs.forbidden if f"/b/{name}" in unquote(self.path)), None)
        if bucket is not None:
            return self._send(403, {"content-type": "application/json"}, _forbidden(bucket, self.path))
        if self._wrong_generation():
            return self._send(412, {}, b"")
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.gcs.port)) as behind:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
            behind.request(self.command, self.path, body, headers)
            answer = behind.getresponse()
            content = answer.read()
            status = answer.status
            if self.command == "DELETE" and status == 200 and content.strip() == b"null":
                status, content = 204, b""
            if self.gcs.damaging and "alt=media" in self.path and content:
                content = bytes([content[0] ^ 1]) + content[1:]
            if self.gcs.renames and self.path.partition("?")[0].endswith("/o"):
                content = _renamed(content, self.gcs.renames)
            if self._hit("losing"):
                self.close_connection = True
                return None
            own, ours = f":{self.gcs.port}/", f":{self.gcs.url.rpartition(':')[2]}/"
            headers = {name: value.replace(own, ours) for name, value in answer.getheaders() if name.lower() not in HOP}
            return self._send(status, headers, content)

    def _hit(self, fault: str) -> bool:
        with self.gcs.counting:
            left: int = getattr(self.gcs, fault)
            if not left or self.gcs.method not in (None, self.command):
                return False
            setattr(self.gcs, fault, left - 1)
            return True

    def _wrong_generation(self) -> bool:
        """Whether a DELETE asks for another generation than is there."""
        wanted = parse_qs(urlsplit(self.path).query).get("ifGenerationMatch")
        if self.command != "DELETE" or not wanted:
            return False
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.gcs.port)) as behind:
            behind.request("GET", self.path.partition("?")[0])
            answer = behind.getresponse()
            found = json.loads(answer.read()).get("generation", "0") if answer.status == 200 else "0"
            return found != wanted[0]

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


def _renamed(listing: bytes, renames: dict[str, str]) -> bytes:
    document = json.loads(listing)
    for item in document.get("items", []):
        item["name"] = renames.get(item["name"], item["name"])
    return json.dumps(document).encode()


def _forbidden(bucket: str, path: str) -> bytes:
    """As Google words it."""
    right = "storage.objects.list" if path.partition("?")[0].endswith("/o") else "storage.objects.get"
    message = (
        f"vm@demo-project.iam.gserviceaccount.com does not have {right} access to the Google Cloud Storage bucket. "
        f"Permission '{right}' denied on resource (or it may not exist)."
    )
    error = {"code": 403, "message": message, "errors": [{"message": message, "domain": "global", "reason": "forbidden"}]}
    return json.dumps({"error": error}).encode()
