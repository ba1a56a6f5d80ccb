"""The supervisor's own logic, with a stand-in for the run. Real runs are in test_real_runs.py."""

import json
import os
import shutil
import signal
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.runner.conftest import HURRY, until
from training.checkpoints.manifest import complete_checkpoints
from training.errors import UserError
from training.runner.mirror.lease import claim
from training.runner.processes import boot_id, living
from training.runner.state import MAX_REBOOTS, Start, State, write_state

pytestmark = pytest.mark.cloud  # a process or more for each: together minutes


def ended(state):
    return [start.ended for start in state.starts]


def test_a_run_that_goes_well_is_finished_after_one_start(site):
    state = site.supervise()

    assert (state.phase, state.reason, ended(state)) == ("finished", "", ["finished"])
    assert [(s.from_step, s.reached_step, s.saved_step) for s in state.starts] == [(0, 8, 8)]
    assert site.words == [""]


def test_a_finished_job_is_not_started_again(site):
    site.supervise()
    state = site.supervise()

    assert (state.phase, len(site.words)) == ("finished", 1)


def test_a_crash_goes_on_from_the_newest_checkpoint(site):
    state = site.supervise("crash@5,ok")

    assert (state.phase, ended(state)) == ("finished", ["crashed", "finished"])
    assert [(s.from_step, s.reached_step, s.saved_step) for s in state.starts] == [(0, 5, 4), (4, 8, 8)]
    assert site.words == ["", "resume=true overwrite=false"]


def test_a_crash_before_the_first_checkpoint_starts_anew_what_is_its_own(site):
    state = site.supervise("crash@1,ok")

    assert state.phase == "finished"
    assert site.words == ["", "resume=false overwrite=true"]


def test_a_run_that_dies_before_its_first_step_has_failed_with_the_end_of_its_log(site):
    state = site.supervise("crash@0")

    assert (state.phase, ended(state)) == ("failed", ["crashed"])
    assert state.reason == "it ended before its first step (exit code 1)"
    assert state.tail == "a bug"


def test_a_refused_run_has_failed(site):
    state = site.supervise("crash@5,refuse")

    assert (state.phase, ended(state)) == ("failed", ["crashed", "refused"])
    assert "refused: the run" in state.tail


def test_a_run_directory_of_someone_else_is_left_to_fit_to_refuse(site):
    site.paths.run.mkdir()
    (site.paths.run / "notes.txt").write_text("mine")

    for _ in range(2):
        assert site.supervise().phase == "failed"
    assert site.words == ["", ""]
    assert (site.paths.run / "notes.txt").read_text() == "mine"


def test_crashes_without_a_new_checkpoint_have_a_limit(site):
    site.write_job(max_restarts=2)

    state = site.supervise("crash@5")

    assert (state.phase, ended(state)) == ("failed", ["crashed"] * 4)  # the first one had a new checkpoint
    assert state.reason == "it crashed 3 times without a new checkpoint (max_restarts: 2)"
    assert site.supervise("ok").phase == "finished"  # `train` said again counts anew


def test_a_run_that_hangs_leaves_its_stacks_and_is_started_again_once(site):
    site.write_job(hang_factor=1e-6, hang_minutes=0.5 / 60)

    state = site.supervise("hang@5,hang@5")

    assert (state.phase, ended(state)) == ("failed", ["hung", "hung", "hung"])  # the first one had a new checkpoint
    assert state.reason == "it hung 2 times without a new checkpoint between"
    assert site.paths.log.read_text().count("stacks of all threads") == 3


def test_a_run_that_is_frozen_is_killed(site):
    site.write_job(hang_factor=1e-6, hang_minutes=1 / 60)
    supervisor = site.start("hang@5,ok")
    until(lambda: site.paths.run.exists() and site.saved)
    os.kill(living(site.paths.run_pid_file) or 0, signal.SIGSTOP)

    assert supervisor.wait(timeout=60) == 0
    assert (site.state.phase, ended(site.state)) == ("finished", ["hung", "finished"])


def test_sigterm_ends_the_run_with_a_checkpoint_and_a_boot_goes_on(site):
    site = replace(site, steps=400)
    site.write_job()
    supervisor = site.start("ok")
    until(lambda: site.saved)
    supervisor.send_signal(signal.SIGTERM)

    assert supervisor.wait(timeout=60) == 0
    assert (site.state.phase, ended(site.state)) == ("interrupted", ["stopped"])
    assert living(site.paths.run_pid_file) is None
    stopped_at = site.saved[-1]
    other = replace(site, steps=stopped_at + 2)
    other.write_job()
    assert other.supervise(by_boot=True).phase == "finished"
    assert other.state.starts[-1].from_step == stopped_at


def test_a_run_that_does_not_listen_is_killed(site):
    supervisor = site.start("deaf@3")
    until(lambda: site.step == 3)
    supervisor.send_signal(signal.SIGTERM)

    assert supervisor.wait(timeout=60) == 0
    assert (site.state.phase, site.saved) == ("interrupted", [2])
    assert living(site.paths.run_pid_file) is None


def test_a_second_supervisor_is_refused_while_the_first_lives(site):
    supervisor = site.start("deaf@3")
    until(lambda: site.step == 3)

    with pytest.raises(UserError, match=f"job: has a living supervisor already, pid {supervisor.pid}"):
        site.supervise()
    supervisor.terminate()
    supervisor.wait(timeout=60)


def test_what_a_dead_supervisor_left_is_no_obstacle(site):
    site.paths.lock.write_text("")
    site.paths.pid_file.write_text(json.dumps({"pid": os.getpid(), "started": 1, "boot": boot_id()}))
    site.paths.run_pid_file.write_text(json.dumps({"pid": os.getpid(), "started": 1, "boot": boot_id()}))

    assert site.supervise().phase == "finished"


def test_a_run_that_outlived_its_supervisor_is_ended_before_another_is_started(site):
    supervisor = site.start("deaf@3,ok")
    until(lambda: site.step == 3)
    orphan = living(site.paths.run_pid_file)
    supervisor.kill()
    supervisor.wait()
    assert living(site.paths.run_pid_file) == orphan  # SIGTERM came when its parent died, and it is deaf

    state = site.supervise("deaf@3,ok", by_boot=True)

    assert (state.phase, ended(state)) == ("finished", ["unsupervised", "finished"])
    assert [(s.from_step, s.reached_step, s.saved_step) for s in state.starts] == [(0, 3, 2), (2, 8, 8)]


def test_a_reboot_is_no_crash_and_has_a_limit_of_its_own(site):
    start = Start("2026-11-21T00:00:00+00:00", "another boot", 0, 0, 0)
    write_state(site.paths, State("running", starts=(start,) * MAX_REBOOTS, begun=True))
    rebooted = [replace(s, ended="rebooted") for s in site.state.starts]
    write_state(site.paths, State("running", starts=(*rebooted[1:], start), begun=True))

    assert site.supervise(by_boot=True).phase == "finished"

    write_state(site.paths, State("running", starts=(*rebooted, start), begun=True))
    shutil.rmtree(site.paths.run)
    state = site.supervise(by_boot=True)
    assert (state.phase, len(state.starts)) == ("failed", MAX_REBOOTS + 1)
    assert "reboots without a new checkpoint" in state.reason


def test_a_job_that_the_user_stopped_is_not_started_by_a_boot_but_by_train(site):
    site.paths.stopped.touch()

    assert site.supervise(by_boot=True).phase == "stopped"
    assert not site.paths.run.exists()
    assert site.supervise().phase == "finished"
    assert not site.paths.stopped.exists()


def test_a_full_disk_ends_the_run_and_says_so(site):
    site.write_job(min_free_gib=1e9)

    state = site.supervise("deaf@3")

    assert (state.phase, ended(state)) == ("stopped", ["no space"])
    assert "min_free_gib is 1e+09" in state.reason


def test_without_a_driver_a_run_on_a_gpu_is_not_started(site, tmp_path, monkeypatch):
    site.paths.run_file.write_text(site.paths.run_file.read_text().replace("max_steps: 8", "max_steps: 8, device: gpu"))
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed: make sure that the driver is running' >&2\nexit 9\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    state = site.supervise()
    assert state.phase == "failed"
    assert "nvidia-smi ends with exit code 9: NVIDIA-SMI has failed" in state.reason

    program.write_text("#!/bin/sh\n")
    assert site.supervise().phase == "finished"


def test_a_run_file_of_another_job_is_refused(site):
    site.paths.run_file.write_text(site.paths.run_file.read_text().replace("name: job", "name: other"))

    state = site.supervise()

    assert state.phase == "failed"
    assert "name: other (accepted: job" in state.reason


def test_tokens_reach_the_run_and_nothing_else(site, login):
    """Neither a file nor a command line has them, but ROOT/env."""
    site.paths.environment_file.write_text("# tokens\nWANDB_API_KEY=token-of-the-file\n")
    site.paths.environment_file.chmod(0o600)
    login.secrets["hf-token"] = "token-of-the-secret-manager\n"
    site.write_job(secrets=["hf-token"])
    supervisor = site.start("deaf@3")
    until(lambda: site.step == 3)

    run = living(site.paths.run_pid_file)
    environment = Path(f"/proc/{run}/environ").read_bytes().split(b"\0")
    shown = b"".join(path.read_bytes() for path in (Path(f"/proc/{pid}/cmdline") for pid in (run, supervisor.pid)))
    own = Path(f"/proc/{supervisor.pid}/environ").read_bytes()
    supervisor.terminate()
    supervisor.wait(timeout=60)

    assert {b"HF_TOKEN=token-of-the-secret-manager", b"WANDB_API_KEY=token-of-the-file"} <= set(environment)
    assert b"token-of" not in shown + own
    for path in site.paths.root.rglob("*"):
        if path.is_file() and path != site.paths.environment_file:
            assert b"token-of" not in path.read_bytes(), path


def test_tokens_that_others_may_read_are_refused(site):
    site.paths.environment_file.write_text("HF_TOKEN=secret\n")
    site.paths.environment_file.chmod(0o640)

    state = site.supervise()

    assert state.phase == "failed"
    assert "its mode 0640 lets others at them" in state.reason
    assert "secret" not in (site.paths.folder / "state.json").read_text()


@pytest.mark.parametrize(
    "text", ["{", '{"name": "job", "bukket": null}', '{"name": "other"}', '{"name": "job", "max_restarts": "3"}']
)
def test_a_job_file_that_is_none_is_refused(site, text):
    site.paths.job_file.write_text(text)

    with pytest.raises(UserError, match=r"job\.json"):
        site.supervise()


def test_everything_is_in_the_bucket_when_the_supervisor_ends(site, bucket, tmp_path):
    site.write_job(bucket=bucket)

    state = site.supervise("crash@5,ok")

    mirror = tmp_path / "bucket" / "runs" / "job"
    assert state.phase == "finished"
    assert [c.step for c in complete_checkpoints(mirror / "checkpoints")] == [2, 4, 6, 8]
    for name in ("state.json", "job.log", "job.json", "run.yaml"):
        assert (mirror / "job" / name).read_bytes() == (site.paths.folder / name).read_bytes()
    assert not (mirror / "lease.json").exists()


def test_a_fresh_machine_goes_on_where_the_old_one_was(site, bucket):
    site.write_job(bucket=bucket, max_restarts=0)
    site.supervise("crash@5")
    shutil.rmtree(site.paths.run)
    shutil.rmtree(site.paths.folder)
    site.write_job(bucket=bucket)

    state = site.supervise("ok")

    assert state.phase == "finished"
    assert state.starts[0].from_step == 4
    assert site.words[-1] == "resume=true overwrite=false"


def test_a_run_that_another_machine_writes_is_refused(site, bucket):
    site.write_job(bucket=bucket)
    claim(bucket, "job", "another machine")

    with pytest.raises(UserError, match="another machine writes this run"):
        site.supervise()
    assert not (site.paths.folder / "state.json").exists()
    assert not site.paths.run.exists()


def test_checkpoints_that_are_safe_go_before_the_run_does(site, bucket, tmp_path):
    site.write_job(bucket=bucket)
    site.supervise()
    site.write_job(bucket=bucket, min_free_gib=1e9)
    (site.paths.run / "model.pt").unlink()

    site.supervise("ok", timing=replace(HURRY, disk=0.0))

    assert site.saved == [8]
    assert stat.S_ISREG((tmp_path / "bucket/runs/job/checkpoints/step=000000002/MANIFEST.json").stat().st_mode)
