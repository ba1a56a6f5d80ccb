"""A disk that comes back behind its bucket: the run went on elsewhere, and nothing there goes backwards."""

import json
import shutil

import pytest

from tests.training.runner.mirror.conftest import Run
from training.run_facts import RunFacts, Start, facts_of
from training.runner.bucket.bucket import open_bucket
from training.runner.mirror.lease import claim, claim_in, release
from training.runner.mirror.push import Pusher, PushFailed, read_push_state
from training.runner.mirror.reach import Reach, set_aside
from training.untrusted import single_name


def push(run, place):
    pusher = Pusher(run.path, run.job, place.url, 60.0)
    pusher.once()
    release(place.url, "a", pusher.holder)
    return pusher


def go_on(run, *steps):
    facts = json.loads((run.path / "run.json").read_text())
    facts["starts"].append({"time": "2026-11-22T10:00:00+00:00", "step": 20})
    (run.path / "run.json").write_text(json.dumps(facts))
    for step in steps:
        run.save(step)
        run.log(f"{step}\n")


def is_complete(run):
    state = read_push_state(run.job)
    return state is not None and state.complete


def contents(place):
    root = place.run()
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def gone_on_elsewhere(run, place, folder, *steps):
    """Pushed at step 20; from there another machine has gone on."""
    run.begin().save(20)
    push(run, place)
    copy = Run(folder)
    shutil.copytree(run.path, copy.path)
    go_on(copy, *steps)
    return copy


@pytest.fixture
def gone_on(run, place, tmp_path):
    """A bucket in which another machine is at step 50; this one is at 20."""
    copy = gone_on_elsewhere(run, place, tmp_path / "other", 30, 40, 50)
    (copy.path / "model.pt").write_bytes(b"of step 50")
    push(copy, place)
    return place


def test_a_disk_that_is_behind_sends_nothing_and_everything_is_safe(run, gone_on):
    before = contents(gone_on)
    (run.job / "job.log").write_text("of the machine that came back\n")
    run.log("25, which was never saved\n")

    push(run, gone_on)

    assert contents(gone_on) == before
    state = read_push_state(run.job)
    assert state is not None
    assert (state.complete, state.lag_seconds, state.error, state.safe_steps[-1]) == (True, 0.0, None, 50)


def test_a_disk_that_has_come_further_than_the_bucket_is_sent_again(run, gone_on):
    pusher = push(run, gone_on)
    go_on(run, 30, 40)
    pusher.once()
    assert gone_on.steps() == [20, 30, 40, 50]
    assert (gone_on.run() / "metrics.jsonl").read_text() == "begun\n30\n40\n50\n"

    run.save(60)
    run.log("60\n")
    assert not is_complete(run)
    pusher.once()

    assert 60 in gone_on.steps()
    assert (gone_on.run() / "metrics.jsonl").read_bytes() == (run.path / "metrics.jsonl").read_bytes()
    assert "model.pt" in contents(gone_on)  # this disk never had it, and says nothing of it
    assert is_complete(run)


def test_of_two_copies_at_one_step_the_one_with_more_starts_went_on(run, folder_place, other_at_20):
    before = contents(folder_place)

    push(run, folder_place)

    assert contents(folder_place) == before


@pytest.fixture
def other_at_20(run, folder_place, tmp_path):
    copy = gone_on_elsewhere(run, folder_place, tmp_path / "other")
    copy.log("25, which was never saved\n")
    push(copy, folder_place)


def test_an_older_beginning_takes_nobodys_place(run, place, tmp_path):
    run.begin("2026-11-20T10:00:00+00:00").save(90)
    newer = Run(tmp_path / "other").begin("2026-11-21T10:00:00+00:00")
    newer.save(10)
    push(newer, place)
    before = contents(place)

    with pytest.raises(
        PushFailed, match=r"was begun anew elsewhere at 2026-11-21 10:00 UTC and is at step 10; the run in .* is older"
    ):
        push(run, place)

    assert {name: text for name, text in contents(place).items() if name != "lease.json"} == before
    assert [path.name for path in (place.folder / "runs").iterdir()] == ["a"]


def test_who_was_frozen_and_lost_the_lease_meanwhile_looks_at_the_bucket_again(run, folder_place, tmp_path, monkeypatch):
    run.begin().save(20)
    pusher = Pusher(run.path, run.job, folder_place.url, 60.0)
    pusher.once()
    copy = Run(tmp_path / "other")
    shutil.copytree(run.path, copy.path)
    go_on(copy, 30, 40)
    claim(folder_place.url, "a", "the other", take_over=True)  # as after 15 minutes
    release(folder_place.url, "a", "the other")
    push(copy, folder_place)  # it has ended, and given the lease back
    before = contents(folder_place)
    run.log("25\n")
    monkeypatch.setattr(pusher, "_renewed", float("-inf"))  # as much later

    with pytest.raises(PushFailed, match="the lease was lost meanwhile"):
        pusher.once()
    pusher.once()

    assert {name: text for name, text in contents(folder_place).items() if name != "lease.json"} == before


@pytest.mark.parametrize("left", [None, {"holder": "another", "renewed": "2026-11-20T10:00:00+00:00"}])
def test_a_lease_that_goes_while_it_is_renewed_is_written_again(tmp_path, monkeypatch, left):
    bucket = open_bucket(f"file://{tmp_path}")
    claim_in(bucket, "a", "me")
    write, lease = bucket.write, tmp_path / "runs/a/lease.json"

    def write_late(name, content, replaces=None):
        monkeypatch.setattr(bucket, "write", write)
        lease.unlink()
        if left is not None:
            lease.write_text(json.dumps(left))
        write(name, content, replaces)

    monkeypatch.setattr(bucket, "write", write_late)

    was_ours = claim_in(bucket, "a", "me")

    assert json.loads(lease.read_text())["holder"] == "me"
    assert not was_ours


def test_a_run_of_the_longest_name_is_set_aside_under_a_name_of_a_run(tmp_path):
    bucket, names = open_bucket(f"file://{tmp_path}"), ["x" * 100, "x" * 99 + "y", "short"]
    for name in names:
        bucket.write(f"runs/{name}/run.json", b"{}")
        listed = bucket.listing(f"runs/{name}")
        set_aside(bucket, f"runs/{name}", RunFacts((Start("2026-11-20T10:00:00+00:00"),)), listed)

    found = [single_name(name.split("/")[1], "bucket") for name in bucket.listing("runs")]

    assert len(found) == 3
    assert "short.begun-20261120T100000" in found


@pytest.mark.parametrize("time", [None, 7, "x", ["a"], "2026-11-20T10:00:00", "2026-11-20T10:00:00+00:00"])
def test_a_time_that_is_none_is_long_ago(time):
    earlier, later = (facts_of(json.dumps({"starts": [{"time": each}]})) for each in (time, "2026-11-21T00:00:00+00:00"))
    assert earlier is not None
    assert later is not None
    before, after = Reach(earlier.run_id, earlier.begun, 5, 1), Reach(later.run_id, later.begun, 1, 1)

    assert before.is_older_than(after)
    assert not after.is_older_than(before)
    assert not before.is_behind(after)
