"""hf:// sources: the real huggingface_hub against a loopback hub."""

import json
import logging
import shutil
import time
from types import SimpleNamespace

import pytest

from tests.tools.hub_server import TOKEN
from tests.training.runner.sources.conftest import FIRST, SECOND, sha256, wait_until
from training.errors import RunError, UserError
from training.runner.sources.fetch import fetch_all, outstanding

DATA_SET = f"hf://datasets/org/cells@{FIRST}"
EMBEDDINGS = f"hf://org/model@{FIRST}/protein_embeddings.pt"


def asked(server):
    return [f"{method} {path}" for method, path, _ in server.seen]


def test_a_data_set_comes_whole_and_a_file_alone(machine, hub):
    machine.fetch((DATA_SET, "cells"), (EMBEDDINGS, "protein_embeddings.pt"), (f"{DATA_SET}/train", "train"))

    older = hub.repositories["dataset", "org/cells"].commits[FIRST]
    model = hub.repositories["model", "org/model"].commits[FIRST]
    assert machine.files("cells") == older
    assert machine.files("train") == {"a.h5ad": older["train/a.h5ad"], "gone.h5ad": older["train/gone.h5ad"]}
    assert (machine.data / "protein_embeddings.pt").read_bytes() == model["protein_embeddings.pt"]


def test_what_is_right_is_not_asked_for_again(machine, hub, web):
    machine.fetch((DATA_SET, "cells"), (EMBEDDINGS, "p.pt"))
    hub.seen.clear()
    web.seen.clear()

    fetch_all(machine.file, machine.root)

    assert (asked(hub), asked(web)) == ([], [])
    assert outstanding(machine.file, machine.root) == ()


def test_a_file_that_was_changed_or_lost_comes_anew_and_alone(machine, hub, web):
    machine.fetch((DATA_SET, "cells"))
    before = machine.files()
    changed = machine.data / "cells" / "train" / "a.h5ad"
    changed.write_bytes(before["cells/train/a.h5ad"][::-1])
    web.bodies = []
    assert [each.to for each in outstanding(machine.file, machine.root)] == ["cells"]

    fetch_all(machine.file, machine.root)

    assert machine.files() == before
    assert web.served == len(before["cells/train/a.h5ad"])


def test_right_files_without_a_record_are_verified_and_not_brought(machine, hub, web):
    machine.fetch((DATA_SET, "cells"))
    (machine.data / ".sources.json").write_text("{damaged")
    web.bodies = []

    fetch_all(machine.file, machine.root)

    assert web.served == 0
    assert outstanding(machine.file, machine.root) == ()


def test_a_branch_is_resolved_aloud_and_its_commit_is_kept(machine, hub, caplog):
    source = "hf://datasets/org/cells@v1"
    machine.fetch((source, "cells"))
    assert f"v1 is no commit; today it is {FIRST}" in caplog.text
    assert f"hf://datasets/org/cells@{FIRST}" in caplog.text

    repository = hub.repositories["dataset", "org/cells"]
    repository.refs["v1"] = SECOND
    (machine.data / "cells" / "train" / "a.h5ad").unlink()
    fetch_all(machine.file, machine.root)

    assert machine.files("cells") == repository.commits[FIRST]


def test_the_commit_of_a_branch_is_kept_from_before_the_first_byte(machine, hub, web):
    web.refusals = [404]
    with pytest.raises(RunError, match="404"):
        machine.fetch(("hf://datasets/org/cells@v1", "cells"))
    hub.repositories["dataset", "org/cells"].refs["v1"] = SECOND

    fetch_all(machine.file, machine.root)

    assert machine.files("cells") == hub.repositories["dataset", "org/cells"].commits[FIRST]


def test_another_commit_replaces_the_first_and_leaves_what_is_not_ours(machine, hub, web):
    machine.fetch((DATA_SET, "cells"))
    mine = machine.data / "cells" / "mine.h5ad"
    mine.write_bytes(b"mine")
    web.bodies = []

    machine.fetch((f"hf://datasets/org/cells@{SECOND}", "cells"))

    newer = hub.repositories["dataset", "org/cells"].commits[SECOND]
    assert machine.files("cells") == {**newer, "mine.h5ad": b"mine"}
    assert web.served == len(newer["test/b.h5ad"])


def test_a_tree_comes_in_pages(machine, hub):
    hub.entries_per_page = 1

    machine.fetch((DATA_SET, "cells"))

    assert len(machine.files("cells")) == 3


def test_what_is_not_what_the_hub_says_is_refused(machine, hub, web):
    repository = hub.repositories["dataset", "org/cells"]
    good = repository.commits[FIRST]["train/a.h5ad"]
    repository.tampered["train/a.h5ad"] = good[::-1]

    with pytest.raises(RunError) as error:
        machine.fetch((DATA_SET, "cells"))

    assert f"sha256:{sha256(good)}" in str(error.value)
    assert f"sha256:{sha256(good[::-1])}" in str(error.value)
    assert "train/a.h5ad" not in machine.files("cells")
    assert not list(machine.data.rglob("a.h5ad.partial*"))
    repository.tampered.clear()
    fetch_all(machine.file, machine.root)
    assert machine.files("cells") == repository.commits[FIRST]


def test_a_small_file_is_verified_too(machine, hub):
    hub.repositories["dataset", "org/cells"].tampered["README.md"] = b"# sells\n"

    with pytest.raises(RunError, match="what came has git-sha1:"):
        machine.fetch((DATA_SET, "cells"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            f"hf://datasets/org/nothing@{FIRST}",
            r"no data set org/nothing: the name is wrong .* or it is private: .*HF_TOKEN is not set",
        ),
        (f"hf://org/cells@{FIRST}", r"no model org/cells: .*hf://datasets/ORG/NAME is a data set"),
        (f"hf://datasets/org/cells@{'3' * 40}", r"org/cells has no revision 3{40} \(accepted: a commit, branch or tag"),
        ("hf://datasets/org/cells@mian", r"org/cells has no revision mian"),
        (
            f"{DATA_SET}/trian/a.h5ad",
            r"no trian/a.h5ad at this revision; did you mean train/a.h5ad .*\? \(it has: README.md, train/a",
        ),
        (f"hf://datasets/org/private@{FIRST}", r"no data set org/private: .*set HF_TOKEN to a token that may read it"),
        (
            f"hf://org/gated@{FIRST}",
            r"gated: accept the terms at http://127.0.0.1:\d+/org/gated, and set HF_TOKEN .*\(HF_TOKEN is not set\)",
        ),
    ],
)
def test_each_no_of_the_hub_is_one_plain_message(machine, hub, source, message):
    with pytest.raises((UserError, RunError), match=message) as error:
        machine.fetch((source, "it"))

    assert str(error.value).startswith(source)
    assert "\n" not in str(error.value)
    assert machine.files() == {}


def test_a_wrong_token_is_said_to_be_wrong(machine, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of-another")

    with pytest.raises(RunError, match="HF_TOKEN is set, but does not let us in") as error:
        machine.fetch((f"hf://datasets/org/private@{FIRST}", "it"))

    assert "hf_of-another" not in str(error.value)


@pytest.mark.parametrize("revision", [FIRST, "main"])
def test_offline_is_said_at_once(machine, hub, monkeypatch, revision):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()

    with pytest.raises(RunError, match=r"the hub at http://127.0.0.1:9 cannot be reached .*; check the network"):
        machine.fetch((f"hf://datasets/org/cells@{revision}", "cells"))

    assert time.monotonic() - start < 5


def test_something_else_than_a_hub_is_said_plainly(machine, web, monkeypatch):
    web.files[f"/api/models/org/model/revision/{FIRST}"] = b"<html>please log in to the hotel's network</html>"
    monkeypatch.setenv("HF_ENDPOINT", web.url)

    with pytest.raises(RunError, match="cannot be reached"):
        machine.fetch((EMBEDDINGS, "p.pt"))


@pytest.mark.parametrize("where", ["environment", "file"])
def test_a_token_lets_in_and_stands_nowhere(machine, hub, web, monkeypatch, caplog, capfd, where):
    caplog.set_level(logging.DEBUG)
    if where == "environment":
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    else:
        (machine.root / "env").write_text(f"WANDB_API_KEY=x\nHF_TOKEN={TOKEN}\n")

    machine.fetch((f"hf://datasets/org/private@{FIRST}", "cells"), (f"hf://org/gated@{FIRST}", "model"))

    assert len(machine.files("cells")) == 3
    assert len(machine.files("model")) == 2
    assert [headers for _, _, headers in web.seen if "authorization" in headers] == []
    written = [path for path in machine.root.rglob("*") if path.is_file() and path != machine.root / "env"]
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []
    assert TOKEN not in caplog.text + "".join(capfd.readouterr())


def test_after_a_kill_only_the_rest_comes(machine, hub, web):
    content = hub.repositories["model", "org/model"].commits[FIRST]["protein_embeddings.pt"] * 8
    hub.repositories["model", "org/model"].commits[FIRST]["protein_embeddings.pt"] = content
    machine.want((EMBEDDINGS, "p.pt"))
    partial = machine.data / "p.pt.partial"
    web.seconds_per_chunk = 0.02
    with machine.start() as process:
        wait_until(lambda: partial.exists() and partial.stat().st_size > len(content) / 4)
        process.kill()
    assert machine.files().keys() == {"p.pt.partial", "p.pt.partial.etag"}
    had = partial.stat().st_size
    web.seconds_per_chunk, web.bodies = 0.0, []

    fetch_all(machine.file, machine.root)

    assert machine.files() == {"p.pt": content}
    assert web.served == len(content) - had < len(content)


def test_two_at_once_bring_each_file_once(machine, hub, web):
    web.seconds_per_chunk = 0.02
    machine.want((EMBEDDINGS, "p.pt"))

    with machine.start() as one, machine.start() as other:
        assert (one.wait(30), other.wait(30)) == (0, 0)

    assert web.served == len(machine.files()["p.pt"])


def test_a_disk_that_is_too_small_is_said_before_the_first_byte(machine, hub, web, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1234))

    with pytest.raises(RunError, match=r"org/cells@1+: needs 302 kB, but .* has 1.23 kB free; make room"):
        machine.fetch((DATA_SET, "cells"))

    assert web.served == 0


def test_the_hubs_package_writes_nothing_of_its_own_and_draws_no_bars(machine, hub, capfd):
    machine.fetch((DATA_SET, "cells"))

    assert "".join(capfd.readouterr()) == ""
    assert sorted(path.name for path in machine.data.iterdir()) == [".lock", ".sources.json", "cells"]
    record = json.loads((machine.data / ".sources.json").read_text())
    assert record["cells"]["commit"] == FIRST
    assert [user for _, _, headers in hub.seen if "telemetry" in (user := headers["user-agent"])] == []
