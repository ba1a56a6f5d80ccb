"""gs:// sources: fake-gcs-server in the place of Google's, and what a bucket may hold that is not meant well."""

from collections.abc import Iterator

import pytest

from tests.tools.gcs_server import GcsServer, gcs_served
from tests.training.runner.sources.conftest import noise
from training.errors import RunError, UserError
from training.runner.bucket import google
from training.runner.bucket.bucket import Damaged, open_bucket
from training.runner.sources.fetch import fetch_all, outstanding

CELLS = ("gs://public/cells", "cells")
FILES = {"a.h5ad": noise(200_000, 1), "sub/b c.h5ad": noise(3_000, 2)}


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[GcsServer]:
    """gs://public with FILES below cells/."""
    with gcs_served(tmp_path / "buckets", monkeypatch) as server:
        server.make_bucket("public")
        for name, content in FILES.items():
            server.put("public", f"cells/{name}", content)
        yield server


def test_a_prefix_comes_whole_and_is_then_left_alone(machine, server, caplog):
    caplog.set_level("INFO")
    server.put("public", "cells/", b"")  # as the console makes folders
    machine.fetch(CELLS)
    assert machine.files("cells") == FILES
    assert outstanding(machine.file, machine.root) == ()
    assert "gs://public/cells: 2 of 2 files to download, 203 kB" in caplog.text
    server.seen.clear()

    fetch_all(machine.file, machine.root)

    assert "data/cells: right: 203 kB in 2 files, 0 B of it brought" in caplog.text
    assert len(server.seen) == 1  # the listing


def test_what_has_changed_on_either_side_is_mended(machine, server):
    machine.fetch(CELLS)
    (machine.data / "cells" / "a.h5ad").write_bytes(FILES["a.h5ad"][::-1])  # of the same size: the checksum tells
    (machine.data / "cells" / "mine.h5ad").write_bytes(b"mine")
    open_bucket("gs://public").remove(["cells/sub/b c.h5ad"])
    server.put("public", "cells/new.h5ad", b"new")
    assert [each.to for each in outstanding(machine.file, machine.root)] == ["cells"]

    fetch_all(machine.file, machine.root)

    assert machine.files("cells") == {"a.h5ad": FILES["a.h5ad"], "new.h5ad": b"new", "mine.h5ad": b"mine"}
    assert outstanding(machine.file, machine.root) == ()


def test_what_is_not_there_is_said(machine, server):
    with pytest.raises(UserError, match=r"^gs://nothing: there is no such bucket"):
        machine.fetch(("gs://nothing/cells", "cells"))
    with pytest.raises(
        UserError, match=r"^gs://public/cell: there is nothing below this prefix \(accepted: a folder of the bucket"
    ):
        machine.fetch(("gs://public/cell", "cells"))


def test_what_is_forbidden_is_said_with_the_role_that_is_missing(machine, server):
    server.forbidden = {"public"}

    with pytest.raises(UserError, match=r"gs://public: forbidden: .* to read only Storage Object Viewer \(.*storage.objects.list"):
        machine.fetch(CELLS)


def test_offline_is_said(machine, server, monkeypatch):
    monkeypatch.setattr(google, "RETRY_SECONDS", 1.0)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")

    with pytest.raises(
        RunError, match=r"^gs://public: Google Cloud Storage cannot be reached from this machine: check its network"
    ):
        machine.fetch(CELLS)


def test_what_arrives_damaged_is_not_recorded(machine, server):
    server.damaging = True

    with pytest.raises(Damaged, match=r"cells/.* does not have the checksum of the object"):
        machine.fetch(CELLS)
    assert machine.files() == {}
    assert len(outstanding(machine.file, machine.root)) == 1


def test_a_fetch_that_was_killed_goes_on(machine, server):
    server.put("public", "cells/large.h5ad", large := noise(30_000_000, 3))
    server.slow_seconds = 0.1
    machine.want(CELLS)
    first = machine.start()
    while not list(machine.data.glob("cells/.incoming-*")) and first.poll() is None:
        pass
    first.kill()
    first.wait()
    server.slow_seconds = 0.0
    assert len(outstanding(machine.file, machine.root)) == 1

    fetch_all(machine.file, machine.root)

    assert machine.files("cells") == {**FILES, "large.h5ad": large}
    assert not list(machine.data.glob("cells/.*"))
