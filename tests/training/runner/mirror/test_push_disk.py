"""Pushing from a disk that is full, or that is two disks."""

import errno
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from training.checkpoints.manifest import complete_checkpoints, folder_of
from training.runner.mirror import push as module
from training.runner.mirror import push_state
from training.runner.mirror.push import Pusher, prune_local, read_push_state


def pusher(run, place):
    return Pusher(run.path, run.job, place.url, 60.0)


def local_steps(run):
    return [checkpoint.step for checkpoint in complete_checkpoints(run.path / "checkpoints")]


def fill(run, *names):
    """No room for these files of the job's folder: a write through a link to /dev/full says what a full disk says."""
    for name in names:
        (run.job / name).parent.mkdir(parents=True, exist_ok=True)
        (run.job / name).symlink_to("/dev/full")


@contextmanager
def no_room_for_the_record(monkeypatch):
    """push.json cannot be written: a write to /dev/full says what a full disk says."""
    with monkeypatch.context() as patch:
        patch.setattr(push_state, "write_json", lambda *_: Path("/dev/full").write_text("no room", encoding="utf-8"))
        yield


def test_a_disk_guard_that_frees_the_disk_during_a_round_loses_nothing(run, folder_place, pushed, monkeypatch):
    run.save(30)
    marks, state = push_state.steps_left_to_bucket, read_push_state(run.job)
    assert state is not None

    def guarded(path):
        found = marks(path)
        prune_local(run.path, state)
        return found

    monkeypatch.setattr(module, "steps_left_to_bucket", guarded)
    pushed.once()

    assert local_steps(run) == [30]
    assert folder_place.steps() == [10, 20, 30]


def test_a_full_disk_stops_no_push_and_what_was_pushed_makes_room(run, folder_place, tmp_path, monkeypatch):
    run.begin()
    for step in (10, 20, 30):
        run.save(step)
    (tmp_path / "outgoing").mkdir()
    (run.job / ".outgoing").symlink_to(tmp_path / "outgoing")  # survives the clearing of the round
    fill(run, ".outgoing/config.yaml", ".outgoing/metrics.jsonl")
    (run.job / ".held").write_text("no folder can be made here")

    with no_room_for_the_record(monkeypatch):
        pusher(run, folder_place).once()

    assert folder_place.steps() == [10, 20, 30]
    assert (folder_place.run() / "config.yaml").read_text() == "name: a\n"
    assert (folder_place.run() / "metrics.jsonl").read_text() == "begun\n"
    assert local_steps(run) == [30]
    pusher(run, folder_place).once()
    state = read_push_state(run.job)
    assert state is not None
    assert (state.safe_steps, state.complete) == ((10, 20, 30), True)


def test_a_full_disk_frees_nothing_on_the_word_of_an_earlier_process(run, folder_place, pushed, monkeypatch):
    """The bucket has lost what push.json says it has; what is compared first must not cost the disk the rest."""
    shutil.rmtree(folder_place.run() / "checkpoints" / folder_of(10))
    run.save(30)

    with no_room_for_the_record(monkeypatch):
        pusher(run, folder_place).once()

    assert folder_place.steps() == [10, 20, 30]


def test_a_record_that_cannot_be_written_for_another_reason_frees_nothing(run, folder_place):
    run.begin()
    for step in (10, 20):
        run.save(step)
    (run.job / ".push.json.partial").mkdir()

    pusher(run, folder_place).once()

    assert folder_place.steps() == [10, 20]
    assert local_steps(run) == [10, 20]


def test_checkpoints_on_another_disk_than_the_jobs_folder_are_pushed(run, folder_place, monkeypatch):
    """Such a disk is rare where tests run: the link is refused as the kernel refuses it."""

    def refuse(*_):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    run.begin().save(10)

    pusher(run, folder_place).once()

    assert folder_place.steps() == [10]
