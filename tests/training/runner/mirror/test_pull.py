import json
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.training.runner.mirror.conftest import Run, true_steps
from training.checkpoints.manifest import MANIFEST, complete_checkpoints, folder_of
from training.errors import RunError, UserError
from training.run_facts import run_id_of
from training.runner.mirror.pull import claim, pull_run, release
from training.runner.mirror.push import Pusher

VALUES = {10: 0.5, 20: 0.1, 30: 0.4, 40: 0.3}


def push(run, place):
    Pusher(run.path, run.job, place.url, 60).once()


def filled(run, first=10):
    """A run with checkpoints, of which 20 is the best."""
    run.begin()
    for step, value in VALUES.items():
        if step >= first:
            run.save(step, value)
    (run.path / "tensorboard").mkdir()
    (run.path / "tensorboard/events.1").write_bytes(b"event")
    return run


@pytest.fixture
def pushed(run, folder_place):
    push(filled(run), folder_place)
    return folder_place


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def harm(place, step):
    payload = place.run() / "checkpoints" / folder_of(step) / "trainer.ckpt"
    payload.write_bytes(b"x" + payload.read_bytes()[1:])


def test_a_fresh_machine_gets_the_run_as_it_was_with_its_newest_and_its_best(run, place, tmp_path, caplog):
    push(filled(run, first=20), place)
    harm(place, 40)
    into = tmp_path / "fresh"

    pulled = pull_run(place.url, "a", into, checkpoints="newest")

    assert (pulled.steps, pulled.damaged_steps) == ((20, 30), (40,))
    assert f"{folder_of(40)}: damaged" in caplog.text
    run.rotate(40)
    assert contents(into) == contents(run.path)
    assert true_steps(into / "checkpoints") == [20, 30]


def test_all_brings_every_checkpoint_and_the_jobs_files(run, pushed, tmp_path):
    pulled = pull_run(pushed.url, "a", tmp_path / "results", checkpoints="all")

    assert pulled.steps == (10, 20, 30, 40)
    found = contents(tmp_path / "results")
    assert found.pop("job/job.json") == b"{}\n"
    assert found == contents(run.path)


def test_a_checkpoint_without_a_manifest_or_of_another_size_does_not_count(pushed, tmp_path):
    root = pushed.run() / "checkpoints"
    (root / folder_of(40) / MANIFEST).unlink()
    (root / folder_of(30) / "trainer.ckpt").write_bytes(b"short")

    assert pull_run(pushed.url, "a", tmp_path / "fresh", checkpoints="newest").steps == (20,)


def test_a_run_whose_checkpoints_are_all_damaged_fails(pushed, tmp_path):
    for step in VALUES:
        harm(pushed, step)

    with pytest.raises(RunError, match=r"every checkpoint is damaged \(steps 10, 20, 30, 40\)"):
        pull_run(pushed.url, "a", tmp_path / "fresh", checkpoints="newest")


def test_what_is_there_and_right_is_not_fetched_again_and_what_is_not_is(pushed, tmp_path):
    into = tmp_path / "results"
    pull_run(pushed.url, "a", into, checkpoints="all")
    there = into / "checkpoints" / folder_of(30) / "trainer.ckpt"
    before = {path: path.stat().st_ino for path in into.rglob("*") if path.is_file()}
    harmed = into / "checkpoints" / folder_of(20) / "trainer.ckpt"
    harmed.write_bytes(b"x" * 3000)

    pull_run(pushed.url, "a", into, checkpoints="all")

    after = {path: path.stat().st_ino for path in into.rglob("*") if path.is_file()}
    assert set(after) == set(before)
    changed = {path.parent.name for path in after if after[path] != before[path]}
    assert changed <= {folder_of(20), "rank"}
    assert after[there] == before[there]
    assert true_steps(into / "checkpoints") == [10, 20, 30, 40]


def test_another_folder_is_refused_and_not_touched(run, pushed, tmp_path):
    other = Run(tmp_path / "other").begin("2026-01-01T00:00:00+00:00").path
    stuff = tmp_path / "stuff"
    stuff.mkdir()
    (stuff / "thesis.txt").write_text("mine")
    file = tmp_path / "file"
    file.write_text("mine")
    for folder, why in ((stuff, "not empty"), (other, "another run"), (file, "no folder")):
        before = contents(folder)
        with pytest.raises(UserError, match=why):
            pull_run(pushed.url, "a", folder, checkpoints="all")
        assert contents(folder) == before
    run.save(50)
    with pytest.raises(UserError, match="ahead of"):
        pull_run(pushed.url, "a", run.path, checkpoints="newest")


def test_a_pull_or_a_run_that_was_killed_at_its_very_beginning_is_no_obstacle(pushed, tmp_path):
    for name, text in (("nothing", None), ("half", '{"from": "fi'), ("empty", "")):
        into = tmp_path / name
        (into / "checkpoints").mkdir(parents=True)
        if text is not None:
            (into / ".pull.json").write_text(text)

        assert pull_run(pushed.url, "a", into, checkpoints="newest").steps == (20, 40)

    (tmp_path / "other/checkpoints" / folder_of(10)).mkdir(parents=True)
    with pytest.raises(UserError, match="not empty"):
        pull_run(pushed.url, "a", tmp_path / "other", checkpoints="newest")


@pytest.mark.parametrize("key", ["run_id", "beginning"])  # the second is that of earlier code
def test_a_pull_that_was_cut_off_before_run_json_goes_on(run, pushed, tmp_path, key):
    run_id = run_id_of((run.path / "run.json").read_text())
    assert run_id is not None
    into = tmp_path / "cut"
    (into / "tensorboard").mkdir(parents=True)
    (into / ".pull.json").write_text(json.dumps({"from": f"{pushed.url}/runs/a", key: run_id}))

    assert pull_run(pushed.url, "a", into, checkpoints="newest").steps == (20, 40)

    (into / "run.json").unlink()
    (into / ".pull.json").write_text(json.dumps({"from": f"{pushed.url}/runs/a", key: "another"}))
    with pytest.raises(UserError, match="not empty, and holds no run"):
        pull_run(pushed.url, "a", into, checkpoints="newest")


def test_a_run_that_the_bucket_does_not_have_is_refused(pushed, tmp_path):
    with pytest.raises(UserError, match="it has no run b"):
        pull_run(pushed.url, "b", tmp_path / "fresh", checkpoints="newest")
    assert not (tmp_path / "fresh").exists()


def test_a_pull_that_was_killed_goes_on(run, folder_place, tmp_path):
    run.begin()
    for step in (10, 20):
        run.save(step, size=30_000_000)
    push(run, folder_place)
    into = tmp_path / "fresh"
    code = "import sys; from pathlib import Path; from training.runner.mirror.pull import pull_run; " + (
        "pull_run(sys.argv[1], 'a', Path(sys.argv[2]), checkpoints='all')"
    )
    for after in ("run.json", ".pull.json", f"checkpoints/.{folder_of(20)}.partial", f"checkpoints/{folder_of(20)}"):
        process = subprocess.Popen([sys.executable, "-c", code, folder_place.url, str(into)], cwd=Path(__file__).parents[4])
        end = time.monotonic() + 20
        while not (into / after).exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert set(true_steps(into / "checkpoints")) <= {10, 20}

    assert pull_run(folder_place.url, "a", into, checkpoints="all").steps == (10, 20)
    found = contents(into)
    del found["job/job.json"]
    assert found == contents(run.path)


def test_a_machine_that_goes_on_keeps_the_best_of_the_one_before(run, pushed, tmp_path):
    fresh = Run(tmp_path / "fresh")
    pull_run(pushed.url, "a", fresh.path, checkpoints="newest")
    release(pushed.url, "a", json.loads((pushed.run() / "lease.json").read_text())["holder"])
    shutil.rmtree(run.path)
    fresh.save(50, 0.2)

    push(fresh, pushed)

    assert pushed.steps() == [20, 40, 50]
    assert [c.step for c in complete_checkpoints(fresh.path / "checkpoints")] == [20, 40, 50]


def test_a_lease_is_one_holders_until_it_is_given_back_or_stale(place):
    claim(place.url, "a", "one")
    claim(place.url, "a", "one")
    with pytest.raises(UserError, match=r"runs/a: one writes this run, and was heard of at .* UTC: stop the run there"):
        claim(place.url, "a", "two")
    release(place.url, "a", "two")  # is not two's to give
    lease = place.run() / "lease.json"
    assert json.loads(lease.read_text())["holder"] == "one"

    release(place.url, "a", "one")
    assert not lease.exists()
    claim(place.url, "a", "two")

    assert json.loads(lease.read_text())["holder"] == "two"


def test_a_stale_lease_or_a_broken_one_can_be_taken(folder_place):
    lease = folder_place.run() / "lease.json"
    lease.parent.mkdir(parents=True)
    long_ago = (datetime.now(UTC) - timedelta(minutes=16)).isoformat()
    next_year = (datetime.now(UTC) + timedelta(days=365)).isoformat()  # by a clock that was wrong
    for renewed in (long_ago, next_year, datetime.now().isoformat(), "9999-12-31T23:59:59-12:00"):
        lease.write_text(json.dumps({"holder": "one", "renewed": renewed}))

        claim(folder_place.url, "a", "two")

        assert json.loads(lease.read_text())["holder"] == "two"
    for text in ("half of a le", "[]"):
        lease.write_text(text)

        claim(folder_place.url, "a", "two")

        assert json.loads(lease.read_text())["holder"] == "two"
