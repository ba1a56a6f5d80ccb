"""Loopback stand-ins for what data come from: a plain web server with its bad days, and a Hugging Face hub in front of one.

Served of the hub: what huggingface_hub and a download ask: api/{models,datasets}/ORG/NAME/revision/REV, .../tree/REV (in pages),
.../paths-info/REV, and resolve: LFS files redirect to the web server (another host: it refuses a token, as the real one's
signed URLs do), others to a path of the hub's own. Error headers and codes are the real hub's.
"""

import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_let-me-in"
_CHUNK = 1 << 16


class _Server:
    """A loopback HTTP server; `seen` is what was asked: (method, path, headers)."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        raise NotImplementedError


class WebServer(_Server):
    """Serves `files` by path, with ranges."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        super().__init__()
        self.files = files or {}
        self.has_ranges = self.has_etags = True
        self.cuts: list[int] = []
        """The next answers end after so many bytes of their body."""
        self.refusals: list[int] = []
        """The next answers are these statuses."""
        self.lengths: dict[str, str] = {}
        """What is stated as Content-Length of a path, in the place of the truth."""
        self.seconds_per_chunk = 0.0
        self.bodies: list[list[int]] = []
        """Bytes of each body that were sent, as [number], so that each thread counts in its own."""

    @property
    def served(self) -> int:
        return sum(n for (n,) in self.bodies)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        if self.refusals:
            return _send(request, self.refusals.pop(0))
        if "authorization" in request.headers:
            return _send(request, 400, body=b"only one auth mechanism allowed")
        if path not in self.files:
            return _send(request, 404)
        body = self.files[path]
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        headers = {"ETag": etag} if self.has_etags else {}
        start, status = 0, 200
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        if asked and self.has_ranges and request.headers.get("if-range", etag) == etag:
            start, status = int(asked[1]), 206
            if start >= len(body):
                return _send(request, 416, {"Content-Range": f"bytes */{len(body)}"})
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self._send_body(request, status, headers, body[start:])

    def _send_body(self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
        end = self.cuts.pop(0) if self.cuts else len(body)
        sent = [0]
        self.bodies.append(sent)
        request.send_response(status)
        stated = self.lengths.get(urlsplit(request.path).path)
        for name, value in {**headers, "Content-Length": str(len(body)) if stated is None else stated}.items():
            request.send_header(name, value)
        request.end_headers()
        for at in range(0, end, _CHUNK):
            chunk = body[at : min(at + _CHUNK, end)]
            request.wfile.write(chunk)
            sent[0] += len(chunk)
            time.sleep(self.seconds_per_chunk)
        request.close_connection = request.close_connection or end < len(body) or stated is not None


@dataclass
class Repository:
    """A repository of the stand-in hub."""

    commits: dict[str, dict[str, bytes]]
    """Commit -> path -> content."""
    refs: dict[str, str]
    lfs: tuple[str, ...] = ()
    """Paths that are in LFS."""
    access: Literal["public", "private", "gated"] = "public"
    tampered: dict[str, bytes] = field(default_factory=dict)
    """Path -> what is served in the place of what the tree says."""


class HubServer(_Server):
    """The hub; `repositories` by (kind, ORG/NAME), `web` serves the LFS files."""

    def __init__(self, web: WebServer, repositories: dict[tuple[str, str], Repository]) -> None:
        super().__init__()
        self.web, self.repositories = web, repositories
        self.entries_per_page = 1000

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        if found := re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)/(revision|tree|paths-info)/([^/]+)(?:/(.*))?", path):
            kind, name, verb, revision, below = found.groups()
        elif found := re.fullmatch(r"/(?:(dataset)s/)?([^/]+/[^/]+)/(resolve|stored)/([^/]+)/(.*)", path):
            kind, name, verb, revision, below = (found[1] or "model"), *found.groups()[1:]
        else:
            return _send(request, 501, body=f"the stand-in hub serves no {request.command} {path}".encode())
        repository = self.repositories.get((kind, name))
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token != TOKEN:
            return _no(request, 401, "", "Invalid credentials in Authorization header")
        if repository is None or (repository.access == "private" and not token):
            return _no(request, 404 if token else 401, "RepoNotFound" if token else "", "Repository not found")
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            return _no(request, 404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repository.commits[commit]
        match verb:
            case "revision":
                _send(request, 200, body=json.dumps({"id": name, "sha": commit, "siblings": []}).encode())
            case "tree":
                self._tree(request, repository, files, below)
            case "paths-info":
                body = request.rfile.read(int(request.headers.get("content-length") or 0))
                asked = parse_qs(body.decode()).get("paths", [])
                _send(request, 200, body=json.dumps([_entry(repository, p, files[p]) for p in asked if p in files]).encode())
            case _:
                self._file(request, repository, commit, verb, below or "")

    def _tree(self, request: BaseHTTPRequestHandler, repository: Repository, files: dict[str, bytes], below: str | None) -> None:
        start = int(parse_qs(urlsplit(request.path).query).get("cursor", ["0"])[0])
        entries = [_entry(repository, path, content) for path, content in sorted(files.items()) if path.startswith(below or "")]
        end = start + self.entries_per_page
        link = {"Link": f'<{self.url}{request.path.partition("?")[0]}?recursive=True&cursor={end}>; rel="next"'}
        _send(request, 200, link if end < len(entries) else {}, json.dumps(entries[start:end]).encode())

    def _file(self, request: BaseHTTPRequestHandler, repository: Repository, commit: str, verb: str, path: str) -> None:
        files = repository.commits[commit]
        if repository.access == "gated" and "authorization" not in request.headers:
            return _no(request, 401, "GatedRepo", "Access to this resource is restricted")
        if path not in files:
            return _no(request, 404, "EntryNotFound", "Entry not found")
        content = repository.tampered.get(path, files[path])
        sha256 = hashlib.sha256(files[path]).hexdigest()
        headers = {"X-Repo-Commit": commit, "X-Linked-Size": str(len(files[path]))}
        if path in repository.lfs:
            self.web.files[f"/lfs/{sha256}"] = content
            linked = {"X-Linked-Etag": f'"{sha256}"', "Location": f"{self.web.url}/lfs/{sha256}?signature=1"}
            return _send(request, 302, {**headers, **linked})
        if verb == "resolve":
            return _send(request, 307, {**headers, "Location": request.path.replace("/resolve/", "/stored/", 1)})
        return _send(request, 200, {**headers, "ETag": f'"{_git_sha1(files[path])}"'}, content)


def _entry(repository: Repository, path: str, content: bytes) -> dict[str, Any]:
    sha256 = hashlib.sha256(content).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _git_sha1(content)}
    return entry | ({"lfs": {"oid": sha256, "size": len(content), "pointerSize": 134}} if path in repository.lfs else {})


def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()


def _no(request: BaseHTTPRequestHandler, status: int, code: str, message: str) -> None:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    _send(request, status, headers, json.dumps({"error": message}).encode())


def _send(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
    request.send_response(status)
    for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


def _handler(server: _Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            server.seen.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}))
            try:
                server.answer(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client was killed

        do_GET = do_HEAD = do_POST = answer

        def log_message(self, format: str, *args: Any) -> None:
            """What was asked stands in `seen`."""

    return Handler
