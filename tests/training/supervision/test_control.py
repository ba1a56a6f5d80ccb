"""What is done to jobs from outside."""

import os
import signal
from pathlib import Path

import pytest

from tests.training.supervision.conftest import until
from training.refusal import Failed
from training.supervision import control
from training.supervision.control import boot, last_sync, stop, wait
from training.supervision.processes import living, process_of, write_pid_file


def test_a_job_without_a_bucket_is_never_said_to_be_safe(site):
    site.supervise()
    site.paths.pid_file.unlink()  # this process was its supervisor, and lives

    assert "NOT safe if the disk is destroyed" in stop(site.paths.root, "job")
    with pytest.raises(Failed, match="job: has no bucket"):
        last_sync(site.paths.root)


def test_a_machine_without_a_job_is_safe_and_one_with_a_run_of_no_job_is_not(root):
    assert last_sync(root) == "no job was ever started here"
    (root / "runs" / "by_hand").mkdir()
    with pytest.raises(Failed, match="by_hand: belongs to no job"):
        last_sync(root)


def test_what_is_not_pushed_is_pushed_by_the_last_sync_and_a_lost_bucket_is_told(site, bucket, monkeypatch):
    monkeypatch.setattr(control, "PUSH_PAUSE_SECONDS", 0.01)
    site.supervise()
    site.paths.pid_file.unlink()
    site.write_job(bucket=bucket)
    folder = Path(bucket.removeprefix("file://"))

    folder.rmdir()
    with pytest.raises(Failed, match="job: not everything is in"):
        last_sync(site.paths.root)
    folder.mkdir()
    assert last_sync(site.paths.root) == "everything of 1 jobs is in its bucket"
    assert (folder / "runs/job/checkpoints/step=000000008/MANIFEST.json").exists()


def test_the_last_sync_interrupts_a_living_run_and_does_not_mark_it_stopped(site, bucket):
    site.write_job(bucket=bucket)
    supervisor = site.start("deaf@3")
    until(lambda: site.step == 3)

    assert last_sync(site.paths.root) == "everything of 1 jobs is in its bucket"
    supervisor.wait(timeout=60)
    assert site.state.phase == "interrupted"
    assert not site.paths.stopped.exists()


def test_stop_ends_a_run_that_has_lost_its_supervisor(site):
    supervisor = site.start("hang@3")
    until(lambda: site.step == 3)
    os.kill(living(site.paths.run_pid_file) or 0, signal.SIGSTOP)  # the word of its parent's death does not reach it
    supervisor.kill()
    supervisor.wait()
    os.kill(living(site.paths.run_pid_file) or 0, signal.SIGCONT)

    stop(site.paths.root, "job")

    assert living(site.paths.run_pid_file) is None
    assert boot(site.paths.root) == []


def test_waiting_tells_of_a_failure_with_the_end_of_the_log_and_of_an_end_that_was(site):
    supervisor = site.start("crash@0")
    with pytest.raises(Failed, match=r"(?s)failed: it ended before its first step \(exit code 1\).*a bug"):
        wait(site.paths.root, "job", 60)
    supervisor.wait(timeout=60)

    supervisor = site.start("ok")
    assert wait(site.paths.root, "job", 60).startswith("job: ")
    supervisor.wait(timeout=60)
    assert wait(site.paths.root, "job", 60) == "job: finished at step 8"


def test_a_pid_that_another_process_has_got_is_not_taken_for_the_first(tmp_path):
    path = tmp_path / "pid.json"
    write_pid_file(path, os.getpid())
    assert living(path) == os.getpid()

    own = process_of(os.getpid())
    assert own is not None
    path.write_text(path.read_text().replace(f'"started": {own.started}', '"started": 1'))
    assert living(path) is None
    path.write_text("torn")
    assert living(path) is None
