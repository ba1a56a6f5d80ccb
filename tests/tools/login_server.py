"""Google's logins on loopback: a VM's metadata server, the token server of a person's login, and the Secret Manager."""

import json
import threading
from base64 import b64encode
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

PROJECT = "demo-project"


class LoginServer:
    """Serves until its context ends.

    Faults: `late`, how many of the next requests for a token are answered 503; `grants`, whether a person's login is still good;
    `busy`, how many of the next questions to the Secret Manager are answered 503. `secrets` are handed out to who has the token.
    """

    def __init__(self) -> None:
        self.late = self.busy = 0
        self.grants = True
        self.secrets: dict[str, str] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("HandlerOfOne", (Handler,), {"login": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def host(self) -> str:
        """As GCE_METADATA_HOST and GCE_METADATA_IP want it."""
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def env(self) -> dict[str, str]:
        """The environment of a process on a VM whose service account may read the secrets."""
        return {"GCE_METADATA_HOST": self.host, "GCE_METADATA_IP": self.host, "SECRETMANAGER_ENDPOINT": self.url}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    login: LoginServer

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        accounts = "/computeMetadata/v1/instance/service-accounts/"
        if path.endswith("/token") and self.login.late:
            self.login.late -= 1
            self._answer(503, b"not yet", "text/plain")
        elif path in ("/", "/computeMetadata/v1/"):
            self._answer(200, b"computeMetadata/\n", "text/plain")
        elif path == "/computeMetadata/v1/project/project-id":
            self._answer(200, PROJECT.encode(), "text/plain")
        elif path.startswith(accounts) and path.endswith("/"):
            self._json(200, {"email": "vm@demo-project.iam.gserviceaccount.com", "aliases": ["default"], "scopes": []})
        elif path.endswith("/token"):
            self._json(200, {"access_token": "of-the-vm", "expires_in": 3600, "token_type": "Bearer"})
        elif path.startswith("/v1/projects/"):
            self._secret(path)
        else:
            self._answer(404, b"", "text/plain")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.login.grants:
            self._json(200, {"access_token": "of-a-person", "expires_in": 3600, "token_type": "Bearer"})
        else:
            self._json(400, {"error": "invalid_grant", "error_description": "Token has been expired or revoked."})

    def _secret(self, path: str) -> None:
        name = path.removeprefix(f"/v1/projects/{PROJECT}/secrets/").removesuffix("/versions/latest:access")
        if self.login.busy:
            self.login.busy -= 1
            self._json(503, {"error": {"code": 503}})
        elif self.headers.get("authorization") != "Bearer of-the-vm":
            self._json(401, {"error": {"code": 401}})
        elif name in self.login.secrets:
            self._json(200, {"payload": {"data": b64encode(self.login.secrets[name].encode()).decode()}})
        else:
            self._json(404, {"error": {"code": 404}})

    def _json(self, status: int, values: object) -> None:
        self._answer(status, json.dumps(values).encode(), "application/json")

    def _answer(self, status: int, content: bytes, kind: str) -> None:
        with suppress(ConnectionError):
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("metadata-flavor", "Google")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""
