import json
import os
import time

import pytest

from training.checkpoints.progress_file import Progress, write_progress
from training.errors import UserError
from training.runner.processes import boot_id, write_pid_file
from training.runner.report import as_json, from_json
from training.runner.state import Start, State, now, write_state
from training.runner.status import machine_status, status


def job(site):
    return json.loads(as_json(status(site.paths.root, "job")))["jobs"][0]


def test_a_job_that_never_started_is_new(site):
    told = job(site)
    found = status(site.paths.root)

    assert from_json(as_json(found)) == found
    assert (told["phase"], told["step"], told["total_steps"], told["bucket"], told["is_safe"]) == ("new", 0, None, None, False)


def test_a_living_run_is_told_with_what_it_logged_last_though_the_last_line_is_torn(site):
    site.paths.run.mkdir()
    write_state(site.paths, State("running", starts=(Start(now(), boot_id(), 0, 0, 0),), supervisor=os.getpid()))
    write_pid_file(site.paths.pid_file, os.getpid())
    write_pid_file(site.paths.run_pid_file, os.getpid())
    write_progress(site.paths.run, Progress(os.getpid(), 40, 100, "validate", time.time(), 0.5, 0.25))
    lines = [
        {"step": 20, "train/loss_total": 0.9, "train/cells_per_second": 10.0, "train/data_wait_fraction": 0.5},
        {"step": 40, "train/loss_total": 0.2, "train/cells_per_second": 50.0, "train/data_wait_fraction": 0.1},
        {"step": 40, "val/loss_total": 0.3},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 60, "train/loss_t'
    (site.paths.run / "metrics.jsonl").write_text(text)

    told = job(site)

    assert (told["phase"], told["activity"], told["step"], told["total_steps"]) == ("running", "validate", 40, 100)
    assert (told["loss"], told["cells_per_second"], told["data_wait_fraction"], told["eta_seconds"]) == (0.2, 50.0, 0.1, 30.0)
    assert told["restarts"] == 0


def test_a_job_whose_supervisor_is_gone_is_dead_and_says_what_restarts_it(site):
    write_state(site.paths, State("running", starts=(Start(now(), boot_id(), 0, 0, 0),)))

    told = job(site)
    assert told["phase"] == "dead"
    assert "the next boot, or `train`, goes on" in told["reason"]

    site.paths.stopped.touch()
    assert "nothing starts it but `train`" in job(site)["reason"]


def test_a_job_that_has_ended_and_whose_supervisor_lives_is_pushing(site):
    write_state(site.paths, State("finished", supervisor=os.getpid()))
    write_pid_file(site.paths.pid_file, os.getpid())
    assert (job(site)["phase"], job(site)["reason"]) == ("pushing", "finished")

    site.paths.pid_file.unlink()
    assert job(site)["phase"] == "finished"
    site.write_job(bucket="file:///nowhere")
    assert "not everything is in the bucket" in job(site)["reason"]


def test_a_finished_job_is_told_whole(site, bucket):
    site.write_job(bucket=bucket)
    site.supervise("crash@5,ok")

    told = job(site)

    assert (told["phase"], told["step"], told["restarts"], told["checkpoint_step"]) == ("finished", 8, 1, 8)
    assert (told["is_safe"], told["safe_steps"], told["push_lag_seconds"]) == (True, [2, 4, 6, 8], 0.0)
    assert told["run_seconds"] > 0


def test_an_unknown_job_is_refused_with_the_known_ones(site):
    with pytest.raises(UserError, match=r"no such job \(jobs here: job\)"):
        status(site.paths.root, "jab")
    with pytest.raises(UserError, match="not the name of a job"):
        status(site.paths.root, "../job")


def test_gpus_are_told_as_the_driver_tells_them(root, tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA L4, 97, 18432, 23034'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    gpus = machine_status(root).gpus
    assert gpus is not None
    assert (gpus[0].name, gpus[0].utilisation_fraction, gpus[0].memory_used_gib) == ("NVIDIA L4", 0.97, 18.0)

    program.write_text("#!/bin/sh\nexit 9\n")
    assert machine_status(root).gpus is None
