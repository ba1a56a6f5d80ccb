"""Loopback servers in the place of the network, and a machine's ROOT to bring data to."""

import hashlib
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tools.hub_server import HubServer, Repository, WebServer
from training.runner.sources import download
from training.runner.sources.fetch import fetch_all
from training.runner.sources.parse import Wanted, parse_source, to_json

FETCH = "import sys, pathlib; from training.runner.sources.fetch import fetch_all; fetch_all(*map(pathlib.Path, sys.argv[1:]))"
FIRST, SECOND = "1" * 40, "2" * 40


def noise(n: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(n)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


class Machine:
    """A ROOT, and what a test does there."""

    def __init__(self, root: Path) -> None:
        self.root, self.data, self.file = root, root / "data", root / "sources.json"

    def want(self, *sources: tuple[str, str]) -> Path:
        """Write the file that lists (source, to)."""
        self.file.write_text(to_json(Wanted(parse_source(source), to) for source, to in sources))
        return self.file

    def fetch(self, *sources: tuple[str, str]) -> None:
        fetch_all(self.want(*sources), self.root)

    def start(self) -> subprocess.Popen[bytes]:
        """The same in a process of its own."""
        return subprocess.Popen([sys.executable, "-c", FETCH, self.file, self.root])

    def files(self, folder: str = ".") -> dict[str, bytes]:
        """What a user finds below data/: hidden files are fetch's own."""
        top = self.data / folder
        return {
            str(path.relative_to(top)): path.read_bytes()
            for path in sorted(top.rglob("*"))
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(self.data).parts)
        }


@pytest.fixture(autouse=True)
def nothing_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HOME", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "WAIT_SECONDS", 0.01)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "root").mkdir()
    return Machine(tmp_path / "root")


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


@pytest.fixture
def hub(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with a data set of two commits, a model, and one each that is private and gated."""
    older = {"README.md": b"# cells\n", "train/a.h5ad": noise(300_000, 1), "train/gone.h5ad": noise(2_000, 2)}
    newer = {"README.md": b"# cells, mended\n", "train/a.h5ad": noise(300_000, 1), "test/b.h5ad": noise(4_000, 3)}
    lfs = ("train/a.h5ad", "train/gone.h5ad", "test/b.h5ad")
    model = {"config.json": b"{}", "protein_embeddings.pt": noise(500_000, 4)}
    repositories = {
        ("dataset", "org/cells"): Repository({FIRST: older, SECOND: newer}, {"main": SECOND, "v1": FIRST}, lfs),
        ("model", "org/model"): Repository({FIRST: model}, {"main": FIRST}, ("protein_embeddings.pt",)),
        ("dataset", "org/private"): Repository({FIRST: older}, {"main": FIRST}, lfs, "private"),
        ("model", "org/gated"): Repository({FIRST: model}, {"main": FIRST}, ("protein_embeddings.pt",), "gated"),
    }
    with HubServer(web, repositories) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
