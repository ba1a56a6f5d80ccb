import json
import os
import shutil
import threading
import time

import pytest

from tests.training.runner.mirror.conftest import Run
from training.checkpoints.manifest import MANIFEST, complete_checkpoints, folder_of
from training.runner.mirror import push as module
from training.runner.mirror.lease import RENEW_SECONDS, STALE_AFTER, claim, holder_of
from training.runner.mirror.push import Pusher, PushFailed, prune_local, read_push_state


def pusher(run, place, interval=60.0):
    return Pusher(run.path, run.job, place.url, interval)


def state_of(run):
    state = read_push_state(run.job)
    assert state is not None
    return state


def names(place, run="a"):
    """Small files of a run in the bucket."""
    root = place.run(run)
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith("checkpoints/")}


def test_a_machine_that_is_lost_after_a_checkpoint_has_left_the_configuration_too(run, place, monkeypatch):
    """Without config.yaml nobody could go on from it."""
    run.begin().save(10)
    monkeypatch.setattr(Pusher, "_push_files", lambda *_: pytest.fail("lost before it"))

    with pytest.raises(pytest.fail.Exception):
        pusher(run, place).once()

    assert place.steps() == [10]
    assert names(place) == {"lease.json", "config.yaml", "run.json"}


def test_a_life_of_a_run_as_the_bucket_sees_it(run, place):
    """Begin, push, rotate, go on, push again."""
    push = pusher(run, place)
    push.once()  # before the run directory exists
    assert names(place) == {"lease.json", "job/job.json"}
    run.begin()
    for step in (10, 20):
        run.save(step)
    (run.path / ".run.json.partial").write_text("half")
    partial = run.path / "checkpoints/.step=000000030.partial"
    partial.mkdir()
    (partial / "trainer.ckpt").write_bytes(b"half")

    push.once()

    assert place.steps() == [10, 20]
    assert names(place) == {"lease.json", "job/job.json", "config.yaml", "metrics.jsonl", "run.json"}
    state = state_of(run)
    assert (state.safe_steps, state.complete, state.lag_seconds, state.failures, state.error) == ((10, 20), True, 0.0, 0, None)

    partial.rename(run.path / "elsewhere")
    shutil.rmtree(run.path / "elsewhere")
    run.save(30)
    run.rotate(10)
    run.log("more\n")
    (run.path / "tensorboard").mkdir()
    (run.path / "tensorboard/events.1").write_bytes(b"event")
    assert not state_of(run).complete
    push.once()

    assert place.steps() == [20, 30]
    assert (place.run() / "metrics.jsonl").read_text() == "begun\nmore\n"
    assert (place.run() / "tensorboard/events.1").read_bytes() == b"event"
    assert not list((place.run() / "checkpoints").rglob("*partial*"))
    assert [path for path in (place.run() / "checkpoints" / folder_of(10)).rglob("*") if path.is_file()] == []


def test_a_second_change_of_the_same_length_within_a_second_is_sent(run, place):
    run.begin()
    push = pusher(run, place)
    for text in ("step 1\n", "step 2\n"):
        (run.job / "state.json").write_text(text)
        os.utime(run.job / "state.json", (1_800_000_000, 1_800_000_000.2 if text == "step 1\n" else 1_800_000_000.7))
        push.once()

    assert (place.run() / "job/state.json").read_text() == "step 2\n"


def test_a_new_process_compares_with_the_bucket_and_sends_what_is_missing(run, folder_place):
    run.begin().save(10)
    pusher(run, folder_place).once()
    (folder_place.run() / "config.yaml").unlink()
    (folder_place.run() / "checkpoints" / folder_of(10) / "trainer.ckpt").unlink()

    pusher(run, folder_place).once()

    assert folder_place.steps() == [10]
    assert (folder_place.run() / "config.yaml").exists()


def test_a_run_begun_anew_is_not_mistaken_for_its_earlier_beginning(run, place):
    run.begin("2026-11-20T10:00:00+00:00")
    run.save(40)
    (run.path / "model.pt").write_bytes(b"earlier")
    push = pusher(run, place)
    push.once()
    shutil.rmtree(run.path)
    run.begin("2026-11-21T10:00:00+00:00").save(10)

    push.once()

    assert place.steps() == [10]
    assert "model.pt" not in names(place)
    assert place.steps("a.begun-20261120T100000") == [40]
    assert (place.run("a.begun-20261120T100000") / "model.pt").read_bytes() == b"earlier"
    assert state_of(run).complete


def test_a_wiped_disk_does_not_empty_the_bucket(run, folder_place, pushed):
    shutil.rmtree(run.path / "checkpoints")
    pushed.once()
    pusher(run, folder_place).once()
    assert folder_place.steps() == [10, 20]

    shutil.rmtree(run.path)
    pushed.once()
    pusher(run, folder_place).once()

    assert folder_place.steps() == [10, 20]
    assert {"run.json", "config.yaml", "metrics.jsonl"} <= names(folder_place)


def test_what_is_newer_in_the_bucket_than_here_stays(run, folder_place, pushed):
    run.rotate(20)

    pusher(run, folder_place).once()

    assert folder_place.steps() == [10, 20]


def test_half_of_an_upload_is_removed_when_it_is_old_and_left_when_it_is_new(run, folder_place, pushed):
    for step in (15, 25):
        folder = folder_place.run() / "checkpoints" / folder_of(step)
        folder.mkdir()
        (folder / "trainer.ckpt").write_bytes(b"half")

    pusher(run, folder_place).once()

    assert sorted(path.name for path in (folder_place.run() / "checkpoints").iterdir()) == [folder_of(s) for s in (10, 20, 25)]


def test_a_damaged_byte_in_the_bucket_is_mended_by_the_next_process(run, folder_place, pushed):
    payload = folder_place.run() / "checkpoints" / folder_of(20) / "trainer.ckpt"
    payload.write_bytes(b"x" + payload.read_bytes()[1:])

    pusher(run, folder_place).once()

    assert folder_place.steps() == [10, 20]


def test_a_step_that_was_trained_again_replaces_that_in_the_bucket(run, folder_place, pushed):
    run.rotate(20)
    again = run.save(20)

    pushed.once()

    assert complete_checkpoints(folder_place.run() / "checkpoints")[-1].manifest == again.manifest
    assert folder_place.steps() == [10, 20]


def test_a_checkpoint_damaged_here_is_not_sent_and_nothing_waits_for_it(run, folder_place):
    run.begin().save(10)
    payload = run.save(20).folder / "trainer.ckpt"
    payload.write_bytes(b"x" + payload.read_bytes()[1:])

    pusher(run, folder_place).once()

    assert folder_place.steps() == [10]
    state = state_of(run)
    assert (state.safe_steps, state.complete) == ((10,), True)


def test_what_the_run_has_removed_leaves_the_bucket(run, folder_place):
    run.begin().save(10)
    (run.path / "model.pt").write_bytes(b"of the last weights, until the run goes on")
    push = pusher(run, folder_place)
    push.once()
    (run.path / "model.pt").unlink()

    push.once()

    assert "model.pt" not in names(folder_place)


def test_a_log_that_grows_all_the_while_fails_no_round(run, place):
    run.begin()
    log, ended = run.job / "job.log", threading.Event()

    def grow():
        with log.open("ab") as file:
            while not ended.is_set():
                file.write(b"a line of some length\n" * 1000)
                file.flush()
                time.sleep(0.002)

    log.touch()
    thread = threading.Thread(target=grow)
    thread.start()
    try:
        pusher(run, place).once()
    finally:
        ended.set()
        thread.join()

    arrived = (place.run() / "job/job.log").read_bytes()
    assert arrived
    assert log.read_bytes().startswith(arrived)


def test_room_is_made_with_what_the_bucket_keeps(run, folder_place):
    run.begin()
    for step, value in ((10, 0.5), (20, 0.1), (30, 0.4), (40, 0.3)):
        run.save(step, value)
    push = pusher(run, folder_place)
    push.once()
    run.save(50, 0.2)

    assert prune_local(run.path, state_of(run)) == 3 * 3100

    assert [c.step for c in complete_checkpoints(run.path / "checkpoints")] == [20, 50]  # the best, and the newest
    push.once()
    assert folder_place.steps() == [10, 20, 30, 40, 50]
    assert state_of(run).safe_steps == (10, 20, 30, 40, 50)


def test_lag_is_the_age_of_the_oldest_change_that_is_not_in_the_bucket(run, folder_place):
    assert read_push_state(run.job) is None
    run.begin()
    push = pusher(run, folder_place)
    push.once()
    assert state_of(run).lag_seconds == 0
    checkpoint = run.save(10)
    os.utime(checkpoint.folder / MANIFEST, (time.time() - 100, time.time() - 100))
    assert 100 <= state_of(run).lag_seconds < 110
    push.once()
    record = json.loads((run.job / "push.json").read_text())
    (run.job / "push.json").write_text(json.dumps(record | {"sent_at": time.time() - 1000}))

    run.log("more\n")

    assert 1000 <= state_of(run).lag_seconds < 1010
    assert not state_of(run).complete


def test_an_outage_is_counted_and_told_and_over_when_it_is_over(run, folder_place):
    run.begin().save(10)
    away = folder_place.folder.rename(folder_place.folder.with_name("away"))
    push = pusher(run, folder_place)
    for failures in (1, 2):
        with pytest.raises(PushFailed, match="there is no such folder"):
            push.once()
        state = state_of(run)
        assert (state.failures, state.last_success, state.complete, state.safe_steps) == (failures, None, False, ())
        assert "there is no such folder" in state.error
    away.rename(folder_place.folder)

    push.once()

    state = state_of(run)
    assert (state.failures, state.error, state.complete) == (0, None, True)


def test_a_bucket_that_is_missing_or_forbidden_is_said_plainly(run, server):
    server.make_bucket("mine")
    server.forbidden.add("mine")
    for url, message in (("gs://none", r"gs://none: there is no such bucket"), ("gs://mine", r"gs://mine: forbidden: .* role")):
        with pytest.raises(PushFailed, match=message):
            Pusher(run.path, run.job, url, 60).once()
        assert state_of(run).error


def test_two_machines_do_not_write_one_run(run, folder_place, tmp_path):
    run.begin()
    other = Run(tmp_path / "other").begin()
    pusher(run, folder_place).once()

    with pytest.raises(PushFailed, match="writes this run"):
        pusher(other, folder_place).once()

    claim(folder_place.url, "a", holder_of(run.job))  # it is this one's still


def test_checkpoints_that_rotate_faster_than_they_are_sent_arrive_all_the_same(run, folder_place, monkeypatch):
    run.begin().save(10)
    push = pusher(run, folder_place)
    send, seen = push.bucket.send, []

    def slowly(folder, prefix, skip=()):
        send(folder, prefix, skip)
        if folder.name == folder_of(10):
            run.save(20)
            run.rotate(10)
        seen.append(folder.name)

    monkeypatch.setattr(push.bucket, "send", slowly)
    push.once()

    assert seen[0] == folder_of(10)
    assert folder_place.steps() == [10]
    push.once()
    assert folder_place.steps() == [20]
    assert not (run.job / ".held").exists()


def test_a_machine_that_has_lost_its_lease_during_an_upload_stops_there(run, folder_place, monkeypatch):
    run.begin().save(10)
    push = pusher(run, folder_place)
    send = push.bucket.send

    def slowly(folder, prefix, skip=()):
        send(folder, prefix, skip)
        (folder_place.run() / "lease.json").unlink()
        claim(folder_place.url, "a", "another machine")

    monkeypatch.setattr(module, "RENEW_SECONDS", -1.0)
    monkeypatch.setattr(push.bucket, "send", slowly)
    with pytest.raises(PushFailed, match="another machine writes this run"):
        push.once()

    assert folder_place.steps() == []


def test_rounds_are_near_enough_to_each_other_to_keep_the_lease(run, folder_place):
    assert pusher(run, folder_place, 4000).interval_seconds + RENEW_SECONDS <= STALE_AFTER.total_seconds()


def test_a_link_to_a_file_is_pushed_as_the_file(run, folder_place, tmp_path):
    run.begin()
    (tmp_path / "best.csv").write_text("1,2\n")
    (run.path / "evaluation.csv").symlink_to(tmp_path / "best.csv")
    (run.path / "dangling").symlink_to(tmp_path / "none")

    pusher(run, folder_place).once()

    assert (folder_place.run() / "evaluation.csv").read_text() == "1,2\n"
    assert not (folder_place.run() / "evaluation.csv").is_symlink()
    assert state_of(run).complete


def test_a_name_that_no_bucket_takes_is_told_and_stops_nothing(run, place, caplog):
    run.begin().save(10)
    (run.path / "a\nb.txt").write_text("x")

    pusher(run, place).once()

    assert place.steps() == [10]
    assert r"a\nb.txt: a bucket cannot have a file of this name: it is not sent" in caplog.text
    assert state_of(run).complete


def test_an_object_of_such_a_name_that_somebody_has_put_there_stops_no_push(run, gs_place, server):
    run.begin().save(10)
    pusher(run, gs_place).once()
    server.renames["runs/a/config.yaml"] = "runs/a/some\nthing"
    run.save(20)

    pusher(run, gs_place).once()

    assert gs_place.steps() == [10, 20]
    assert state_of(run).complete
