"""gs:// sources: the real gcloud against fake-gcs-server, and what else it says of a bad day."""

import json
import os
import urllib.request
from collections.abc import Iterator
from urllib.parse import quote, urlencode

import pytest

from tests.tools.gcs_server import GcsServer, gcs_served
from tests.training.sources.conftest import noise
from training.refusal import Failed, Refused
from training.sources import gcs
from training.sources.fetch import fetch_all, outstanding
from training.sources.parse import Gcs

CELLS = ("gs://public/cells", "cells")
FILES = {"a.h5ad": noise(200_000, 1), "sub/b c.h5ad": noise(3_000, 2)}


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[GcsServer]:
    """gs://public with FILES below cells/."""
    with gcs_served(tmp_path / "buckets", monkeypatch) as server:
        server.make_bucket("public")
        for name, content in FILES.items():
            put(server, name, content)
        yield server


def put(server: GcsServer, name: str, content: bytes) -> None:
    query = urlencode({"uploadType": "media", "name": f"cells/{name}"})
    ask(f"{server.url}/upload/storage/v1/b/public/o?{query}", "POST", content)


def delete(server: GcsServer, name: str) -> None:
    ask(f"{server.url}/storage/v1/b/public/o/{quote(f'cells/{name}', safe='')}", "DELETE")


def ask(url: str, method: str, body: bytes | None = None) -> None:
    urllib.request.urlopen(urllib.request.Request(url, body, method=method), timeout=20).close()


@pytest.mark.cloud
@pytest.mark.slow
def test_a_prefix_comes_whole_and_is_then_left_alone(machine, server, caplog):
    caplog.set_level("INFO")
    machine.fetch(CELLS)
    assert machine.files("cells") == FILES
    assert outstanding(machine.file, machine.root) == ()
    assert "gs://public/cells: 2 of 2 files to bring, 203 kB" in caplog.text

    fetch_all(machine.file, machine.root)
    assert "data/cells: right: 203 kB in 2 files, 0 B of it brought" in caplog.text


@pytest.mark.cloud
@pytest.mark.slow
def test_what_has_changed_on_either_side_is_mended(machine, server):
    machine.fetch(CELLS)
    (machine.data / "cells" / "a.h5ad").write_bytes(FILES["a.h5ad"][::-1])  # of the same size: crc32c tells
    (machine.data / "cells" / "mine.h5ad").write_bytes(b"mine")
    delete(server, "sub/b c.h5ad")
    put(server, "new.h5ad", b"new")
    assert [each.to for each in outstanding(machine.file, machine.root)] == ["cells"]

    fetch_all(machine.file, machine.root)

    assert machine.files("cells") == {"a.h5ad": FILES["a.h5ad"], "new.h5ad": b"new", "mine.h5ad": b"mine"}
    assert outstanding(machine.file, machine.root) == ()


@pytest.mark.cloud
def test_what_is_not_there_is_said(machine, server, monkeypatch):
    with pytest.raises(Refused, match=r"^gs://nothing/cells: there is no bucket gs://nothing$"):
        machine.fetch(("gs://nothing/cells", "cells"))
    with pytest.raises(Refused, match=r"^gs://public/cell: there is nothing below this prefix \(accepted: a folder of the bucket"):
        machine.fetch(("gs://public/cell", "cells"))
    monkeypatch.setenv("CLOUDSDK_AUTH_DISABLE_CREDENTIALS", "false")
    with pytest.raises(Failed, match=r"^gs://public/cells: gcloud has no valid login on this machine: You do not currently have"):
        machine.fetch(CELLS)


@pytest.mark.cloud
def test_what_is_forbidden_is_said_with_the_role_that_is_missing(machine, server):
    server.forbidden = {"public"}

    with pytest.raises(
        Failed, match=r"account may not read it; give it roles/storage.objectViewer on the bucket: .*storage.objects"
    ):
        machine.fetch(CELLS)


# Recorded from gcloud 528 with a closed port; it takes it 34 s.
OFFLINE = """ERROR: gcloud crashed (ConnectionError): HTTPConnectionPool(host='127.0.0.1', port=9): Max retries exceeded with url:
/storage/v1/b/pub/o?alt=json (Caused by NewConnectionError('Failed to establish a new connection: [Errno 111] Connection refused'))

If you would like to report this issue, please run the following command:
  gcloud feedback
"""


def test_offline_is_said():
    error = gcs._explained(Gcs("public", "cells"), OFFLINE)

    assert str(error) == "gs://public/cells: Google Cloud Storage cannot be reached; check the network, then run it again"


def test_a_machine_without_gcloud_is_said(machine, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(Failed, match=r"gs://public/cells: gcloud is not on this machine's PATH; install it"):
        machine.fetch(CELLS)


def test_a_listing_that_is_none_is_not_believed(machine, tmp_path, monkeypatch):
    (tmp_path / "gcloud").write_text("#!/bin/sh\necho 'Updates are available'\n")
    (tmp_path / "gcloud").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    with pytest.raises(Failed, match="did not answer with a list"):
        machine.fetch(CELLS)


def test_a_bring_that_brings_nothing_is_not_believed(machine, tmp_path, monkeypatch):
    listing = json.dumps(
        [{"name": "cells/a", "size": 3, "crc32c_hash": "x=="}, {"name": "cells/", "size": 0, "crc32c_hash": "AAAAAA=="}]
    )
    (tmp_path / "gcloud").write_text(f"#!/bin/sh\n[ $2 = rsync ] || echo '{listing}'\n")
    (tmp_path / "gcloud").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    with pytest.raises(Failed, match="but a is not there with its size; run it again"):
        machine.fetch(CELLS)
    assert len(outstanding(machine.file, machine.root)) == 1
