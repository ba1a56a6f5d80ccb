"""What is done to jobs from outside."""

import json
import os
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.runner.conftest import REPOSITORY, until
from training.errors import RunError, UserError
from training.runner import control, ending
from training.runner.control import last_sync, stop, wait
from training.runner.going_on import boot
from training.runner.guards.idle import used_by
from training.runner.job import own_command
from training.runner.mirror.push import Pusher
from training.runner.processes import held, living, process_of, write_pid_file
from training.runner.report import as_json, from_json
from training.runner.state import State, write_state
from training.runner.status import status


def test_a_job_without_a_bucket_is_never_said_to_be_safe(site):
    site.supervise()

    assert "NOT safe if the disk is destroyed" in stop(site.paths.root, "job")
    with pytest.raises(RunError, match="job: has no bucket"):
        last_sync(site.paths.root)


def test_a_machine_without_a_job_is_safe_and_one_with_a_run_of_no_job_is_not(root):
    (root / "runs" / "demo_data").mkdir()
    (root / "runs" / "demo_data" / ".brought").touch()  # from a laptop, which has it
    assert last_sync(root) == "no job was ever started here"
    (root / "runs" / "by_hand").mkdir()
    (root / "runs" / "notes.txt").touch()
    with pytest.raises(RunError, match=r"(?s)by_hand: belongs to no job.*notes\.txt: belongs to no job"):
        last_sync(root)


def test_what_is_not_pushed_is_pushed_by_the_last_sync_and_a_lost_bucket_is_told(site, bucket, monkeypatch):
    monkeypatch.setattr(control, "PUSH_PAUSE_SECONDS", 0.01)
    site.supervise()
    site.write_job(bucket=bucket)
    folder = Path(bucket.removeprefix("file://"))

    folder.rmdir()
    with pytest.raises(RunError, match="job: not everything is in"):
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

    told = stop(site.paths.root, "job")

    assert told.startswith("job: stopped at step 2 of 8 (it had reached 3, and was killed before it could save that)")
    assert living(site.paths.run_pid_file) is None
    assert (site.state.phase, site.state.reason) == ("stopped", "by the user")
    assert boot(site.paths.root) == []


def test_waiting_tells_of_a_failure_with_the_end_of_the_log_and_of_an_end_that_was(site):
    supervisor = site.start("crash@0")
    with pytest.raises(RunError, match=r"(?s)failed: it ended before its first step \(exit code 1\).*a bug"):
        wait(site.paths.root, "job", 60)
    supervisor.wait(timeout=60)

    supervisor = site.start("ok")
    assert wait(site.paths.root, "job", 60).startswith("job: ")
    supervisor.wait(timeout=60)
    assert wait(site.paths.root, "job", 60) == "job: finished at step 8"


def test_waiting_says_what_the_supervisor_waits_for(site, caplog):
    caplog.set_level("INFO")
    write_pid_file(site.paths.pid_file, os.getpid())
    write_state(site.paths, State("starting", supervisor=os.getpid()))
    said = "supervisor: could not claim the run in its bucket: gs://cells: cannot be reached"
    site.paths.log.write_text(f"supervisor: starting\n{said}\n")

    with pytest.raises(RunError, match="no step within"):
        wait(site.paths.root, "job", 0.5)

    assert [record.message for record in caplog.records] == [said]


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


def test_a_supervisor_that_has_no_pid_file_yet_is_not_overlooked(site, monkeypatch):
    monkeypatch.setattr(ending, "GIVE_UP_SECONDS", 0.1)
    with held(site.paths.lock, ""):
        with pytest.raises(RunError, match="NOT safe"):
            stop(site.paths.root, "job", 0.3)
        with pytest.raises(RunError, match="its supervisor has not ended"):
            last_sync(site.paths.root, 0.3)


def test_nobody_starts_a_job_while_it_is_stopped(site, bucket, monkeypatch):
    site.supervise()
    site.write_job(bucket=bucket)
    seen = []
    once = Pusher.once

    def noted(pusher):
        seen.append(is_held(site.paths.lock))
        once(pusher)

    monkeypatch.setattr(Pusher, "once", noted)
    stop(site.paths.root, "job")

    assert seen == [True]
    assert not is_held(site.paths.lock)


def is_held(lock):
    try:
        with held(lock, "taken"):
            return False
    except UserError:
        return True


def test_a_stop_does_not_wait_for_ever_for_a_bucket_that_is_gone(site, bucket):
    site.write_job(bucket=bucket)
    shutil.rmtree(bucket.removeprefix("file://"))
    site.paths.checkpoints.mkdir(parents=True)
    write_state(site.paths, State("finished"))
    supervisor = site.start("ok", "--boot")  # it has nothing to do but to push
    until(lambda: living(site.paths.pusher_pid_file))

    with pytest.raises(RunError, match=r"NOT safe to destroy: its bucket has not got everything in 1 s"):
        stop(site.paths.root, "job", 1.0)
    assert supervisor.wait(timeout=20) == 1
    assert living(site.paths.pusher_pid_file) is None
    assert not site.paths.given_up.exists()


@pytest.mark.parametrize("how", ["stop", "last_sync", "push"])
def test_who_pushes_without_a_supervisor_gives_the_lease_back_and_closes_the_state(site, bucket, how):
    site.supervise()
    write_state(site.paths, replace(site.state, phase="running"))  # it was killed
    site.write_job(bucket=bucket)
    if how == "push":
        subprocess.run(own_command(site.paths.root, "push", "job", "--rest"), check=True, cwd=REPOSITORY)
    elif how == "stop":
        stop(site.paths.root, "job")
    else:
        last_sync(site.paths.root)

    mirror = Path(bucket.removeprefix("file://")) / "runs/job"
    phase = json.loads((mirror / "job/state.json").read_text())["phase"]
    assert phase == {"stop": "stopped", "last_sync": "interrupted", "push": "running"}[how]
    assert not (mirror / "lease.json").exists()


def test_a_neighbours_slip_is_told_and_stops_nobody_else(site, bucket):
    site.supervise()
    site.write_job(bucket=bucket)
    jobs = site.paths.root / "jobs"
    for name, text in (("job (copy)", "{}"), (".job.bak", "{}"), ("torn", "{")):
        (jobs / name).mkdir()
        (jobs / name / "job.json").write_text(text)
    write_pid_file(site.paths.pid_file, os.getpid())
    assert boot(site.paths.root) == []
    assert used_by(site.paths.root) == "job job"
    site.paths.pid_file.unlink()

    told = {job.name: job for job in from_json(as_json(status(site.paths.root))).jobs}
    assert {name: job.phase for name, job in told.items()} == {"job": "finished", "job--copy-": "broken", "torn": "broken"}
    assert "job (copy)" in told["job--copy-"].reason
    assert "job.json" in told["torn"].reason
    with pytest.raises(RunError, match=r"(?s)job \(copy\): not the name of a job.*torn/job\.json") as failed:
        last_sync(site.paths.root)
    assert "everything" not in str(failed.value)
    assert (Path(bucket.removeprefix("file://")) / "runs/job/model.pt").exists()


@pytest.mark.slow
def test_a_stop_says_what_it_waits_for(site, bucket, caplog):
    caplog.set_level("INFO")
    site.write_job(bucket=bucket)
    supervisor = site.start("hang@3")
    until(lambda: site.step == 3)
    os.kill(living(site.paths.run_pid_file) or 0, signal.SIGSTOP)
    shutil.rmtree(bucket.removeprefix("file://"))

    with pytest.raises(
        RunError, match=r"NOT safe to destroy: .* say stop again when the bucket answers, or train with another --bucket"
    ):
        stop(site.paths.root, "job", 12.0)
    supervisor.wait(timeout=20)

    said = [record.message for record in caplog.records if "waiting for" in record.message]
    assert said[0].startswith("job: waiting for the run to save a checkpoint, after step 2 (at most 1")
    assert any(f"waiting for {bucket} to have everything: " in line and "there is no such folder" in line for line in said)
