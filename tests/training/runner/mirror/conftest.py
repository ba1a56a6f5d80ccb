"""Buckets of both kinds, and a run directory that a test fills as a run does."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.tools.gcs_server import GcsServer, gcs_served
from training.checkpoints.manifest import MANIFEST, Checkpoint, complete_checkpoints, folder_of, is_intact, write_manifest
from training.runner.mirror.push import Pusher


@dataclass
class Place:
    """A bucket, and the folder behind it, where a test sees and harms what it holds."""

    url: str
    folder: Path

    def run(self, name: str = "a") -> Path:
        return self.folder / "runs" / name

    def steps(self, name: str = "a") -> list[int]:
        """Steps of the complete checkpoints; every manifest that is there must be true."""
        return true_steps(self.run(name) / "checkpoints")


def true_steps(root: Path) -> list[int]:
    """Steps whose manifest is there; each must be true of its payload, to the last byte."""
    complete = complete_checkpoints(root)
    assert sorted(path.parent for path in root.glob(f"*/{MANIFEST}")) == [c.folder for c in complete]
    assert all(is_intact(c) for c in complete)
    return [c.step for c in complete]


class Run:
    """A run directory and its job folder, as a run and its supervisor write them."""

    def __init__(self, root: Path, name: str = "a") -> None:
        self.path, self.job = root / "runs" / name, root / "jobs" / name
        self.job.mkdir(parents=True)
        (self.job / "job.json").write_text("{}\n")
        self.random = np.random.default_rng(0)

    def begin(self, time: str = "2026-11-21T10:00:00+00:00") -> "Run":
        (self.path / "checkpoints").mkdir(parents=True)
        (self.path / "run.json").write_text(json.dumps({"starts": [{"time": time, "step": 0}]}))
        (self.path / "config.yaml").write_text("name: a\n")
        self.log("begun\n")
        return self

    def log(self, text: str) -> None:
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(text)

    def save(self, step: int, value: float | None = None, size: int = 3000) -> Checkpoint:
        root = self.path / "checkpoints"
        partial, final = root / f".{folder_of(step)}.partial", root / folder_of(step)
        (partial / "rank").mkdir(parents=True)
        (partial / "trainer.ckpt").write_bytes(self.random.bytes(size))
        (partial / "rank" / "0.bin").write_bytes(self.random.bytes(100))
        manifest = write_manifest(partial, step, "config", "data", value)
        partial.rename(final)
        return Checkpoint(final, manifest)

    def rotate(self, *steps: int) -> None:
        for step in steps:
            remove(self.path / "checkpoints" / folder_of(step))


def remove(folder: Path) -> None:
    """As a run rotates: the manifest first."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "machine")


@pytest.fixture
def folder_place(tmp_path: Path) -> Place:
    (tmp_path / "bucket").mkdir()
    return Place(f"file://{tmp_path / 'bucket'}", tmp_path / "bucket")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GcsServer]:
    with gcs_served(tmp_path / "gcs", monkeypatch) as server:
        yield server


@pytest.fixture(params=["file", "gs"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "file":
        return request.getfixturevalue("folder_place")
    server = request.getfixturevalue("server")
    return Place(server.make_bucket("bucket"), server.folder / "bucket")


@pytest.fixture
def gs_place(server: GcsServer) -> Place:
    return Place(server.make_bucket("bucket"), server.folder / "bucket")


@pytest.fixture
def pushed(run, folder_place):
    """A run whose checkpoints 10 and 20 are in the bucket."""
    run.begin()
    run.save(10)
    run.save(20)
    push = Pusher(run.path, run.job, folder_place.url, 60.0)
    push.once()
    return push
