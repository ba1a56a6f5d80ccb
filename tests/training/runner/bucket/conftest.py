"""Buckets of both kinds."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tools.gcs_server import GcsServer, gcs_served
from training.runner.bucket.bucket import Bucket, open_bucket


@dataclass
class Place:
    """A bucket, and the folder behind it, where a test sees and harms what it holds."""

    url: str
    folder: Path

    @property
    def bucket(self) -> Bucket:
        return open_bucket(self.url)

    def put(self, name: str, content: bytes = b"x") -> None:
        """As another machine writes it."""
        self.bucket.write(name, content)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GcsServer]:
    with gcs_served(tmp_path / "gcs", monkeypatch) as server:
        yield server


@pytest.fixture
def gs_place(server: GcsServer) -> Place:
    return Place(server.make_bucket("bucket"), server.folder / "bucket")


@pytest.fixture
def folder_place(tmp_path: Path) -> Place:
    (tmp_path / "bucket").mkdir()
    return Place(f"file://{tmp_path / 'bucket'}", tmp_path / "bucket")


@pytest.fixture(params=["file", "gs"])
def place(request: pytest.FixtureRequest) -> Place:
    place: Place = request.getfixturevalue("folder_place" if request.param == "file" else "gs_place")
    return place
