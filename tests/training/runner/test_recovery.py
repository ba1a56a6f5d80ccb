"""What a job survives: a bucket that is away, a disk that is full, files that are lost."""

import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.runner.conftest import HURRY, stand_in, until
from training.errors import RunError, UserError
from training.runner.admission import supervise
from training.runner.processes import boot_seconds, living
from training.runner.state import write_state
from training.runner.stopped import say_stopped

pytestmark = pytest.mark.cloud  # a process or more for each: together minutes

RESUME, ANEW = "resume=true overwrite=false", "resume=false overwrite=true"


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Path:
    """A folder that is first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def write_program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def lose(site, how):
    for folder in site.paths.checkpoints.glob("step=*"):
        if how == "gone":
            shutil.rmtree(folder)
        else:
            (folder / "trainer.ckpt").write_text("w" * (folder / "trainer.ckpt").stat().st_size)


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_checkpoints_that_only_the_bucket_has_are_brought_before_anything_begins_anew(site, bucket, how):
    site.write_job(bucket=bucket, max_restarts=0)
    assert site.supervise("crash@5").phase == "failed"
    lose(site, how)

    state = site.supervise("ok")

    assert (state.phase, site.words[-1]) == ("finished", RESUME)
    assert state.starts[-1].from_step == 4
    assert not list(Path(bucket.removeprefix("file://")).glob("runs/job.begun-*"))


def test_a_bucket_of_another_beginning_is_not_brought_over_this_one(site, bucket):
    site.write_job(bucket=bucket, max_restarts=0)
    site.supervise("crash@5")
    lose(site, "gone")
    run_json = site.paths.run / "run.json"
    run_json.write_text(run_json.read_text().replace("2026-11-21", "2026-11-22"))

    assert site.supervise("ok").phase == "finished"
    assert site.words[-1] == ANEW


def test_after_a_boot_a_fresh_machine_waits_for_a_bucket_that_does_not_let_it_in(site, bucket):
    site.write_job(bucket=bucket)
    folder = Path(bucket.removeprefix("file://"))
    folder.rmdir()
    threading.Timer(1.5, folder.mkdir).start()  # longer than all the attempts of a hurry

    assert site.supervise(by_boot=True).phase == "finished"


def test_with_its_own_checkpoints_a_run_goes_on_without_the_bucket(site, bucket):
    site.write_job(max_restarts=0)
    site.supervise("crash@5")
    site.write_job(bucket=bucket)
    folder = Path(bucket.removeprefix("file://"))
    folder.rmdir()
    threading.Timer(2.0, folder.mkdir).start()
    write_state(site.paths, replace(site.state, phase="running"))

    assert site.supervise("ok", by_boot=True).phase == "finished"
    assert (folder / "runs/job/model.pt").exists()


def test_a_bucket_that_stays_away_after_a_boot_is_no_end_for_good(site, bucket):
    site.write_job(bucket=f"{bucket}/none")

    with pytest.raises(RunError, match="none"):
        site.supervise(by_boot=True, timing=replace(HURRY, patience=0.2))
    assert site.state.phase == "interrupted"
    with pytest.raises(UserError, match="none"):  # to a person it is told at once, and nothing changes
        site.supervise()
    assert site.state.phase == "interrupted"


def test_a_shutdown_while_the_bucket_is_away_is_no_failure(site, bucket):
    site.write_job(bucket=f"{bucket}/none")
    supervisor = site.start("ok", "--boot")
    until(lambda: site.paths.pid_file.exists() and (site.paths.folder / "state.json").exists())
    supervisor.terminate()

    assert supervisor.wait(timeout=60) == 1
    assert site.state.phase == "interrupted"


def test_a_secret_that_is_not_handed_out_at_once_is_asked_for_again(site, login):
    login.secrets["hf-token"] = "token"
    login.late = login.busy = 1
    site.write_job(secrets=["hf-token"])

    assert site.start("ok").wait(timeout=60) == 0
    assert site.state.phase == "finished"


def test_a_secret_that_is_not_there_is_said_with_the_role(site, login):
    site.write_job(secrets=["hf-token"])

    site.start("ok").wait(timeout=60)

    assert site.state.phase == "failed"
    assert (
        "secret hf-token: there is no such secret in demo-project, or the machine's account lacks the role Secret"
        in site.state.reason
    )


def test_a_run_that_was_on_a_gpu_does_not_go_on_without_its_driver(site, programs):
    site.write_job(max_restarts=0)
    starts = site.supervise("crash@5").starts
    run_json = site.paths.run / "run.json"
    facts = json.loads(run_json.read_text())
    facts["starts"][-1]["device"] = "gpu"
    run_json.write_text(json.dumps(facts))
    write_program(programs / "nvidia-smi", "echo 'no driver' >&2; exit 9")

    state = site.supervise("ok")

    assert (state.phase, state.starts) == ("failed", starts)
    assert "nvidia-smi ends with exit code 9: no driver" in state.reason


def test_more_epochs_after_the_end_are_a_new_start_and_the_same_are_none(site):
    text = site.paths.run_file.read_text().replace("max_steps: 8", "max_epochs: 2")
    site.paths.run_file.write_text(text)
    assert site.supervise().phase == "finished"
    assert site.supervise().phase == "finished"
    assert site.words == [""]

    site.paths.run_file.write_text(text.replace("max_epochs: 2", "max_epochs: 3"))
    assert site.supervise().phase == "finished"
    assert site.words == ["", RESUME]


def test_a_state_that_was_lost_leaves_a_run_of_the_same_settings_the_jobs_own(site):
    site.write_job(max_restarts=0)
    assert site.supervise("crash@1").phase == "failed"
    (site.paths.folder / "state.json").unlink()

    assert site.supervise("ok").phase == "finished"
    assert site.words == ["", ANEW]


def test_a_supervisor_survives_that_it_can_write_nothing_of_its_own(site):
    for name in ("state", "supervisor", "run", "pusher"):  # as on a full disk
        (site.paths.folder / f".{name}.json.partial").mkdir()

    code = supervise(site.paths.root, "job", command=stand_in("crash@5,ok", 8), timing=HURRY)

    assert code == 0
    assert site.saved[-1] == 8
    assert not (site.paths.folder / "state.json").exists()


def test_a_run_that_a_shutdown_ends_before_its_supervisor_looks_has_not_crashed(site):
    supervisor = site.start("deaf@3")
    until(lambda: site.step == 3)
    os.kill(supervisor.pid, signal.SIGSTOP)
    os.kill(living(site.paths.run_pid_file) or 0, signal.SIGKILL)
    os.kill(supervisor.pid, signal.SIGTERM)
    os.kill(supervisor.pid, signal.SIGCONT)

    assert supervisor.wait(timeout=60) == 0
    assert (site.state.phase, [start.ended for start in site.state.starts]) == ("interrupted", ["stopped"])


def test_a_stop_that_was_said_after_the_word_to_train_holds(site):
    say_stopped(site.paths)

    supervise(site.paths.root, "job", command=stand_in("ok", 8), timing=HURRY, since=boot_seconds() - 60)

    assert (site.state.phase, site.state.reason) == ("stopped", "by the user")
    assert not site.paths.run.exists()


def test_a_stop_of_before_does_not_hold_whatever_the_clock_of_the_machine_said(site):
    """A clock that was ahead by an hour when the run was stopped, and is right again."""
    for text in (site.paths.folder / "stopped", None):
        say_stopped(site.paths)
        if text is None:
            site.paths.stopped.write_text("")  # as on a full disk, or by older code: only the time of the file is left
        later = time.time() + 3600
        os.utime(site.paths.stopped, (later, later))

        assert site.supervise().phase == "finished"
        assert not site.paths.stopped.exists()


def test_an_empty_folder_of_checkpoints_is_no_run(site):
    site.paths.checkpoints.mkdir(parents=True)
    supervise(site.paths.root, "job", command=lambda paths, words: ["rmdir", str(paths.run)], timing=HURRY)

    assert not site.paths.run.exists()  # as `fit` wants it: empty or not there
    assert site.state.begun
