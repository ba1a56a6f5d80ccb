"""Names that a source lists and that would leave the folder: refused from every source, before the first byte is written."""

import json
from pathlib import Path

import pytest

from tests.tools.gcs_server import gcs_served
from tests.tools.hub_server import HubServer, Repository, WebServer
from tests.training.runner.sources.conftest import FIRST, sha256
from training.errors import UserError
from training.runner.sources import record
from training.runner.sources.parse import parse_source, plan, read_json

NAMES = {
    "parent": "../planted",
    "far parent": "a/../../../planted",
    "absolute": "/planted",
    "own folder": "./planted",
    "empty part": "a//planted",
    "line break": "a\nplanted",
    "terminal escape": "\x1b[2Jplanted",
    "text turned round": "a\u202eplanted",
    "too long": "n" * 256,
}


def contents(folder: Path) -> set[Path]:
    """All but what fetch makes before it asks."""
    return {path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "sources.json")}


@pytest.fixture(params=NAMES)
def name(request):
    return NAMES[request.param]


def test_a_bucket(machine, name, tmp_path, monkeypatch):
    with gcs_served(tmp_path / "buckets", monkeypatch) as server:
        server.make_bucket("public")
        for each in ("innocent", "planted"):
            server.put("public", f"cells/{each}", b"x")
        server.renames["cells/planted"] = f"cells/{name}"

        with pytest.raises(UserError, match=r"it lists .* which is no file below a folder .* nothing was written"):
            machine.fetch(("gs://public/cells", "cells"))
    assert contents(machine.root) == set()


@pytest.mark.parametrize("prefix", ["", "sub/"])
def test_the_hub(machine, name, prefix, monkeypatch):
    files = {"README.md": b"# cells\n", f"{prefix}{name}": b"x"}
    with WebServer() as web, HubServer(web, {("dataset", "org/cells"): Repository({FIRST: files}, {"main": FIRST}, ())}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)

        with pytest.raises(UserError, match=r"it lists .* which is no file below a folder .* nothing was written"):
            machine.fetch((f"hf://datasets/org/cells@{FIRST}", "cells"))
    assert contents(machine.root) == set()


@pytest.mark.parametrize(
    "url", ["https://host/%2e%2e", "https://host/a%2F..", "https://host/.ssh", "https://host/a%0Ab", "https://host/%1b"]
)
def test_a_url_whose_last_part_is_no_name(url):
    with pytest.raises(UserError, match=r"would land in data/[ -~]* \(accepted: a relative path inside data/"):
        plan([f"{url}#sha256={sha256(b'x')}"])


def test_a_list_of_sources(machine, name):
    machine.file.write_text(json.dumps({"sources": [{"from": "gs://public/cells", "to": name}]}))

    with pytest.raises(UserError, match=r"would land in data/[ -~]* \(accepted: a relative path inside data/"):
        read_json(machine.file)


@pytest.mark.parametrize("to", [["a"], 7, None, {"a": "b"}])
def test_a_list_of_sources_with_something_else_for_a_name(machine, to):
    machine.file.write_text(json.dumps({"sources": [{"from": "gs://public/cells", "to": to}]}))

    with pytest.raises(UserError, match="accepted: `sources:`, a list"):
        read_json(machine.file)


def test_a_prefix_of_a_bucket_that_is_named_by_the_user():
    for prefix in ("a/../b", "./a", "a//b", "a\nb"):
        with pytest.raises(UserError, match="is no prefix"):
            parse_source(f"gs://public/{prefix}")


def test_the_record_of_what_was_fetched(machine, name):
    """It says what is removed when a source no longer has it."""
    outside = machine.root / "planted"
    outside.write_text("mine")
    kept = {"name": name, "size": 4, "mtime_ns": outside.stat().st_mtime_ns, "digest": ""}
    machine.data.mkdir()
    (machine.data / record.RECORD).write_text(json.dumps({"cells": {"source": "s", "commit": None, "files": [kept]}}))

    assert record.read(machine.data) == {}


@pytest.mark.parametrize("link", ["README.md", "README.md.partial", "README.md.partial.etag", "sub"])
def test_a_symbolic_link_in_the_target_is_not_written_through(machine, link, tmp_path, monkeypatch):
    outside = tmp_path / "outside"
    outside.mkdir()
    (machine.data / "cells").mkdir(parents=True)
    (machine.data / "cells" / link).symlink_to(outside if link == "sub" else outside / "planted")
    files = {"README.md": b"# cells\n", "sub/planted": b"x"}
    with WebServer() as web, HubServer(web, {("dataset", "org/cells"): Repository({FIRST: files}, {"main": FIRST}, ())}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)

        with pytest.raises(UserError, match=rf"cells/{link}: is a symbolic link"):
            machine.fetch((f"hf://datasets/org/cells@{FIRST}", "cells"))
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("length", ["-1", "1e99", "\u00b2", "9" * 30, "many", ""])
def test_a_server_that_states_a_length_that_is_none(machine, web, length):
    """It is no reason for a traceback: the hash decides."""
    web.files["/cells.h5ad"] = b"cells"
    web.lengths["/cells.h5ad"] = length

    machine.fetch((f"{web.url}/cells.h5ad#sha256={sha256(b'cells')}", "cells.h5ad"))

    assert machine.files() == {"cells.h5ad": b"cells"}
