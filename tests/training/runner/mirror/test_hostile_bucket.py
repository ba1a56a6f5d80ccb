"""What a bucket may hold that is not meant well: a pull writes nothing outside its folder, and says what it refuses in a line."""

import json
import logging
import os
from pathlib import Path

import pytest

from tests.training.runner.mirror.conftest import Run
from training.checkpoints.manifest import MANIFEST, complete_checkpoints, folder_of
from training.errors import RunError, UserError
from training.runner.bucket.bucket import open_bucket
from training.runner.mirror.lease import claim, release
from training.runner.mirror.pull import pull_run
from training.runner.mirror.push import Pusher, PushFailed
from training.runner.mirror.push_state import Record, read_record

NAMES = [
    "../x",
    "../../x",
    "a/../../x",
    "/tmp/planted by a bucket",
    "./x",
    "a//x",
    "",
    ".",
    "..",
    "a\nx",
    "\x1b[31mx",
    "n" * 256,
    "a\u202ex",
    "a\x00x",
]


@pytest.fixture
def pushed(run, place):
    """A bucket with a run whose checkpoints are 10 and 20."""
    return with_two_checkpoints(run, place)


@pytest.fixture
def pushed_to_folder(run, folder_place):
    """The same in a folder only, which is quicker: how the values of a file are judged does not depend on the kind of bucket."""
    return with_two_checkpoints(run, folder_place)


def with_two_checkpoints(run, place):
    run.begin()
    for step in (10, 20):
        run.save(step)
    Pusher(run.path, run.job, place.url, 60).once()
    return place


@pytest.fixture(autouse=True)
def outside(tmp_path):
    """All that lies beside the folder of the pull stays as it was."""
    yield
    assert not list(tmp_path.rglob("x"))
    assert not Path("/tmp/planted by a bucket").exists()


def all_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def pull(place, tmp_path, name="a"):
    return pull_run(place.url, name, tmp_path / "into" / "results", checkpoints="all")


def manifest_of(place, step=20):
    return json.loads((place.run() / "checkpoints" / folder_of(step) / MANIFEST).read_text())


def plant(place, text, step=20):
    """Another manifest, as who may write to the bucket writes it."""
    content = text if isinstance(text, bytes) else json.dumps(text).encode()
    open_bucket(place.url).write(f"runs/a/checkpoints/{folder_of(step)}/{MANIFEST}", content)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_name_in_a_manifest(pushed_to_folder, tmp_path, name, caplog):
    manifest = manifest_of(pushed_to_folder)
    manifest["files"][0]["name"] = name
    plant(pushed_to_folder, manifest)

    assert pull(pushed_to_folder, tmp_path).steps == (10,)

    assert "step=000000020/MANIFEST.json: not a manifest; the checkpoint does not count" in caplog.text
    assert all_of(tmp_path / "into")[0] == "results"


def test_a_file_name_in_a_manifest_of_google_storage(run, gs_place, tmp_path):
    run.begin()
    for step in (10, 20):
        run.save(step)
    Pusher(run.path, run.job, gs_place.url, 60).once()
    manifest = manifest_of(gs_place)
    manifest["files"][0]["name"] = "../../x"
    plant(gs_place, manifest)

    assert pull(gs_place, tmp_path).steps == (10,)


FIELDS: dict[str, list[object]] = {
    "step": [-1, 10**9, 1e300, "20", True, None, [20], {}, 20.5, 21],
    "config_sha256": [7, None, ["a"], {}],
    "data_fingerprint": [7, None, ["a"], {}],
    "val_loss_total": ["low", [0.1], {}],
    "files": [None, [], {}, "trainer.ckpt", 7, [7], [[]], [{}]],
    "size": [-1, 2**63, 1e300, "3000", None, [3000], True],
    "sha256": [7, None, "", "0" * 63, "g" * 64, ["0" * 64], "0" * 64 + "\n"],
    "name": [7, None, ["trainer.ckpt"], MANIFEST],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in FIELDS.items() for value in values])
def test_a_value_in_a_manifest_that_is_none(pushed_to_folder, tmp_path, field, value):
    manifest = manifest_of(pushed_to_folder)
    (manifest["files"][0] if field in ("size", "sha256", "name") else manifest)[field] = value
    plant(pushed_to_folder, manifest)

    assert pull(pushed_to_folder, tmp_path).steps == (10,)


@pytest.mark.parametrize("text", [b"", b"null", b"[]", b"{", b"\xff\xfe", b"[" * 200_000, b'{"step": ' + b"9" * 5000 + b"}"])
def test_a_manifest_that_is_none(pushed_to_folder, tmp_path, text):
    plant(pushed_to_folder, text)

    assert pull(pushed_to_folder, tmp_path).steps == (10,)


def test_a_manifest_of_many_megabytes(pushed, tmp_path):
    plant(pushed, b" " * (17 * 2**20))

    assert pull(pushed, tmp_path).steps == (10,)


RUN_JSON = [
    b"", b"null", b"[]", b"{}", b'{"starts": []}', b'{"starts": 7}', b'{"starts": ["x"]}', b'{"starts": [[1]]}',
    b'{"starts": {"0": {}}}', b"[" * 200_000, b"\xff", b'{"starts": [{"time": ' + b"9" * 5000 + b"}]}",
]  # fmt: skip


@pytest.mark.parametrize("text", RUN_JSON)
def test_a_run_json_that_is_none(pushed_to_folder, tmp_path, run, text):
    open_bucket(pushed_to_folder.url).write("runs/a/run.json", text)
    with pytest.raises(UserError, match="it has no run a"):
        pull(pushed_to_folder, tmp_path)
    assert not (tmp_path / "into").exists()

    Pusher(run.path, run.job, pushed_to_folder.url, 60).once()  # the machine's own is set beside it

    assert pull(pushed_to_folder, tmp_path).steps == (10, 20)


@pytest.mark.parametrize("time", ["../../../x", "\x1b[2J", "", None, ["a"], {"a": 1}, 7, "é" * 30, "a" * 10_000])
def test_the_beginning_of_another_run_names_only_a_folder_beside_it(pushed_to_folder, run, time):
    open_bucket(pushed_to_folder.url).write("runs/a/run.json", json.dumps({"starts": [{"time": time}]}).encode())

    Pusher(run.path, run.job, pushed_to_folder.url, 60).once()

    (aside,) = [path.name for path in (pushed_to_folder.folder / "runs").iterdir() if path.name != "a"]
    assert aside.startswith("a.begun-")
    assert len(aside) <= 27
    assert aside.replace(".begun-", "").isalnum()
    assert aside.isascii()


def test_a_run_json_that_fills_the_memory(folder_place, tmp_path):
    folder_place.run().mkdir(parents=True)
    with (folder_place.run() / "run.json").open("wb") as file:
        file.truncate(2**26)

    with pytest.raises(UserError, match=r"run.json: is larger than 16 MiB"):
        pull(folder_place, tmp_path)
    assert not (tmp_path / "into").exists()


@pytest.mark.parametrize("name", ["../x", "..", "", ".", "a/b", "a\nb", "-rf", "\x1b[2J", "/x", "x" * 101, "a b", ".a"])
def test_the_name_of_a_run(pushed_to_folder, tmp_path, name):
    for act in (
        lambda: pull(pushed_to_folder, tmp_path, name),
        lambda: claim(pushed_to_folder.url, name, "one"),
        lambda: release(pushed_to_folder.url, name, "one"),
    ):
        with pytest.raises(UserError, match="is no name of a run") as caught:
            act()
        assert str(caught.value).isprintable()
    assert not (tmp_path / "into").exists()


@pytest.mark.parametrize("name", ["../x", "a/../../../x", "./x", "a//x", "a\nx", "\x1b[31mx", "n" * 256, "checkpoints/../../x"])
def test_an_object_among_the_runs_files(run, gs_place, server, tmp_path, name):
    """The server's disk cannot hold each of these names, so its proxy writes them into a true answer."""
    run.begin().save(10)
    Pusher(run.path, run.job, gs_place.url, 60).once()
    server.renames["runs/a/config.yaml"] = f"runs/a/{name}"

    with pytest.raises(UserError, match=r"it lists .* which is no file below a folder .* nothing was written"):
        pull(gs_place, tmp_path)
    assert not (tmp_path / "into").exists()


def test_a_name_that_a_folder_can_hold_and_a_table_cannot(run, folder_place, tmp_path):
    run.begin().save(10)
    Pusher(run.path, run.job, folder_place.url, 60).once()
    foreign = folder_place.run() / "a\x1b[2Jb"
    foreign.write_text("x")

    with pytest.raises(UserError, match=r"it lists 'runs/a/a\\\\x1b\[2Jb'"):
        pull(folder_place, tmp_path)
    Pusher(run.path, run.job, folder_place.url, 60).once()  # it writes nothing here, and removes what is its own
    assert foreign.exists()


@pytest.mark.parametrize("at", ["secret", "tensorboard", "checkpoints/step=000000010/trainer.ckpt", "run.json", ""])
def test_links_that_lead_out_of_a_folder_are_not_followed(run, folder_place, tmp_path, at):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("mine")
    run.begin()
    for step in (10, 20):
        run.save(step)
    Pusher(run.path, run.job, folder_place.url, 60).once()
    link = folder_place.run() / at
    if at == "":
        folder_place.run().rename(tmp_path / "elsewhere")
        link = folder_place.run()
        link.symlink_to(tmp_path / "elsewhere")
    else:
        link.unlink(missing_ok=True)
        link.symlink_to(secret if at == "tensorboard" else secret / "key")

    if at in ("run.json", ""):
        with pytest.raises(UserError, match="is a symbolic link"):
            pull(folder_place, tmp_path)
    else:
        pull(folder_place, tmp_path)
    assert "mine" not in [path.read_text(errors="replace") for path in (tmp_path / "into").rglob("*") if path.is_file()]


@pytest.mark.parametrize("at", ["checkpoints", ".pull.json", "config.yaml", "tensorboard", "checkpoints/.step=000000020.partial"])
def test_a_link_in_the_folder_of_the_pull_is_not_written_through(run, pushed_to_folder, tmp_path, at):
    (run.path / "tensorboard").mkdir()
    (run.path / "tensorboard/events").write_text("x")
    Pusher(run.path, run.job, pushed_to_folder.url, 60).once()
    outside, into = tmp_path / "outside", tmp_path / "into" / "results"
    outside.mkdir()
    into.mkdir(parents=True)
    (into / "run.json").write_bytes((pushed_to_folder.run() / "run.json").read_bytes())
    (into / at).parent.mkdir(exist_ok=True)
    (into / at).symlink_to(outside)

    with pytest.raises(UserError, match="is a symbolic link"):
        pull(pushed_to_folder, tmp_path)
    assert list(outside.iterdir()) == []


LEASES = [
    b"", b"null", b"[]", b"7", b"[" * 200_000, b'{"holder": "one"}', b'{"holder": "one", "renewed": 7}',
    b'{"holder": ["one"], "renewed": []}',
    b'{"holder": "one", "renewed": "0001-01-01T00:00:00+14:00"}', b'{"holder": "one", "renewed": "9999-12-31T23:59:59-14:00"}',
]  # fmt: skip


@pytest.mark.parametrize("text", LEASES)
def test_a_lease_that_is_none_can_be_taken(place, text):
    open_bucket(place.url).write("runs/a/lease.json", text)

    claim(place.url, "a", "two")

    assert json.loads((place.run() / "lease.json").read_text())["holder"] == "two"


def test_a_holder_of_a_lease_is_printed_as_text(folder_place):
    claim(folder_place.url, "a", "one\n\x1b[2J" + "n" * 10_000)

    with pytest.raises(UserError, match=r"one\\n\\x1b\[2Jnnn") as caught:
        claim(folder_place.url, "a", "two")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("field", ["sent", "damaged"])
def test_a_name_in_the_pushers_record(run, folder_place, field, name):
    """What it says was sent and is gone here is removed from the bucket."""
    run.begin().save(10)
    mine = folder_place.folder / "runs" / "b"
    mine.mkdir(parents=True)
    (mine / "x").write_text("of another run")
    record = {"run": str(run.path), "bucket": folder_place.url, "beginning": None, "sent_at": 1.0}
    value = {name: {"size": 1, "mtime_ns": 1}} if field == "sent" else [name]
    (run.job / "push.json").write_text(json.dumps({**record, field: value}))
    assert read_record(run.job) is None

    Pusher(run.path, run.job, folder_place.url, 60).once()

    assert (mine / "x").read_text() == "of another run"
    (mine / "x").unlink()
    found = read_record(run.job)
    assert found is not None
    assert (found.sent_at or 0) > 1.0


@pytest.mark.parametrize("text", [b"null", b"[]", b"[" * 200_000, b'{"run": 7}', b"\xff"])
def test_a_record_that_is_none(run, folder_place, text):
    run.begin().save(10)
    (run.job / "push.json").write_bytes(text)

    Pusher(run.path, run.job, folder_place.url, 60).once()

    assert isinstance(read_record(run.job), Record)
    assert folder_place.steps() == [10]


def test_marks_of_pruned_checkpoints_that_are_none(run, folder_place):
    run.begin().save(10)
    for name in (".step=.in_bucket", ".step=abc.in_bucket", ".step=-00000001.in_bucket", ".step=²²²²²²²²².in_bucket"):
        (run.path / "checkpoints" / name).touch()

    Pusher(run.path, run.job, folder_place.url, 60).once()

    assert folder_place.steps() == [10]


@pytest.mark.parametrize("files", [{}, {"../x": 1}])
def test_a_manifest_on_this_disk(tmp_path, files):
    folder = Run(tmp_path / "m").begin().save(10).folder
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"] = [{"name": name, "size": size, "sha256": "0" * 64} for name, size in files.items()]
    (folder.parent.parent.parent / "planted").write_text("x")
    (folder / MANIFEST).write_text(json.dumps(manifest))

    assert complete_checkpoints(folder.parent) == ()


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/sys/kernel").exists(), reason="needs a folder that nobody may write to")
def test_a_folder_that_cannot_be_written_and_a_bucket_that_cannot(run, pushed, tmp_path, caplog):
    """/sys refuses even root, as a read-only disk does."""
    caplog.set_level(logging.WARNING)
    with pytest.raises((RunError, UserError), match="cannot be written"):
        pull_run(pushed.url, "a", Path("/sys/kernel/results"), checkpoints="all")
    with pytest.raises(PushFailed, match=r"file:///sys/kernel: (forbidden: )?/sys/kernel/"):
        Pusher(run.path, run.job, "file:///sys/kernel", 60).once()
