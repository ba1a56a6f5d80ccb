"""The verbs, as a laptop says them, over real `training fit`: killed, rebooted, stopped and gone on with, to the bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.end_to_end.conftest import SETTINGS, SMALL
from tests.training.runner.conftest import REPOSITORY, until
from training.checkpoints.manifest import complete_checkpoints
from training.checkpoints.model_file import load_model
from training.checkpoints.progress_file import read_progress
from training.config_loader import load_config
from training.config_text import commented_yaml
from training.data.simulation import simulate
from training.runner.job import JobPaths
from training.runner.processes import living
from training.runner.state import read_state

pytestmark = pytest.mark.cloud  # they take minutes

STEPS = 100_000  # no end, until the test knows how far it came
LIMIT = 300


@pytest.fixture
def machine(root, bucket, monkeypatch):
    """ROOT with simulated cells and the job `job`."""
    monkeypatch.chdir(root / "code")
    (root / "code" / "data").symlink_to("../data")
    simulate(SETTINGS, Path("data/cells.h5ad"))
    words = ("name=job", "data.split=data/cells_split.toml", "data.control=control", f"trainer.max_steps={STEPS}")
    features = ("data.perturbation_features_file=data/cells_features.npz",)
    cadence = ("trainer.val_every_steps=1000", "trainer.log_every_steps=2", "checkpoints.every_steps=10")
    small = [word for word in SMALL if word.split("=")[0] not in {w.split("=")[0] for w in cadence}]
    paths = JobPaths(root, "job")
    paths.folder.mkdir()
    paths.run_file.write_text(commented_yaml(load_config(None, [*small, *words, *features, *cadence])))
    paths.job_file.write_text(json.dumps({"name": "job", "bucket": bucket, "push_interval_seconds": 1.0, "min_free_gib": 0.0}))
    yield paths
    for pid in filter(None, map(living, (paths.pid_file, paths.run_pid_file, paths.pusher_pid_file))):
        os.kill(pid, signal.SIGKILL)


def verb(paths, *words, code=0):
    command = [sys.executable, "-m", "training.runner", "--root", str(paths.root), *words]
    done = subprocess.run(command, cwd=paths.code, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}\n{paths.log.read_text() if paths.log.exists() else ''}"
    return done.stdout


def train(paths):
    """As the laptop starts it: nohup, a session of its own, all streams in job.log."""
    words = ["nohup", sys.executable, "-m", "training.runner", "--root", str(paths.root), "supervise", "job"]
    with paths.log.open("ab") as log:
        return subprocess.Popen(
            words, cwd=paths.code, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def newest(paths):
    found = complete_checkpoints(paths.checkpoints)
    return found[-1].step if found else 0


def weights(run):
    checkpoint = complete_checkpoints(run / "checkpoints")[-1]
    return torch.load(checkpoint.folder / "trainer.ckpt", weights_only=True)["state_dict"]


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def status(paths):
    return json.loads(verb(paths, "status", "job"))["jobs"][0]


def become_a_fresh_machine(paths, other, steps):
    """Nothing is left but what the laptop sends, which asks for `steps` now."""
    shutil.rmtree(paths.run)
    paths.folder.rename(other)
    paths.folder.mkdir()
    for name in ("job.json", "run.yaml"):
        shutil.copy(other / name, paths.folder / name)
    paths.run_file.write_text(paths.run_file.read_text().replace(f"max_steps: {STEPS}", f"max_steps: {steps}"))


def test_killed_rebooted_stopped_and_trained_again_it_ends_where_an_uninterrupted_run_does(machine, root, bucket):
    paths = machine
    first = train(paths)
    assert verb(paths, "wait", "job").startswith("job: step ")
    until(lambda: newest(paths) >= 20)
    os.kill(living(paths.run_pid_file) or 0, signal.SIGKILL)  # the run: its supervisor starts it again
    killed = newest(paths)
    until(lambda: (s := read_state(paths)) is not None and len(s.starts) == 2 and s.phase == "running")
    until(lambda: newest(paths) > killed)
    told = status(paths)
    assert (told["phase"], told["restarts"], told["total_steps"], told["activity"]) == ("running", 1, STEPS, "train")
    assert told["cells_per_second"] > 0

    os.killpg(living(paths.run_pid_file) or 0, signal.SIGKILL)  # everything at once, as a machine that is gone
    first.kill()
    first.wait()
    assert status(paths)["phase"] == "dead"
    assert "started: job" in verb(paths, "boot")
    until(lambda: living(paths.pid_file) is not None)
    assert "started: nothing" in verb(paths, "boot")
    assert verb(paths, "wait", "job").startswith("job: step ")

    said = verb(paths, "stop", "job")
    assert f"everything is in {bucket}/runs/job: safe to destroy" in said
    assert verb(paths, "stop", "job") == said
    told = status(paths)
    assert (told["phase"], told["reason"], told["is_safe"], told["run_pid"]) == ("stopped", "by the user", True, None)
    assert 0 < told["checkpoint_step"] < STEPS
    assert "started: nothing" in verb(paths, "boot")
    assert verb(paths, "last-sync").startswith("everything of 1 jobs")

    steps = told["checkpoint_step"] + 6
    become_a_fresh_machine(paths, root / "other", steps)
    last = train(paths)
    assert last.wait(timeout=LIMIT) == 0
    told = status(paths)
    assert (told["phase"], told["step"], told["is_safe"], told["eta_seconds"]) == ("finished", steps, True, None)
    assert verb(paths, "wait", "job") == f"job: finished at step {steps}\n"

    subprocess.run(
        [sys.executable, "-m", "training", "fit", paths.run_file, "name=whole"],
        cwd=paths.code, check=True, capture_output=True, timeout=LIMIT,
    )  # fmt: skip
    whole = paths.code / "runs" / "whole"
    assert equal(weights(paths.run), weights(whole))
    assert equal(load_model(paths.run / "model.pt").weights, load_model(whole / "model.pt").weights)
    mirror = Path(bucket.removeprefix("file://")) / "runs" / "job"
    assert equal(weights(mirror), weights(whole))


def test_a_run_that_dies_at_step_0_is_told_with_the_end_of_its_log(machine):
    paths = machine
    paths.run_file.write_text(paths.run_file.read_text().replace("data/cells_split.toml", "data/cells_splt.toml"))
    supervisor = train(paths)
    command = [sys.executable, "-m", "training.runner", "--root", str(paths.root), "wait", "job"]
    waited = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=LIMIT)

    assert waited.returncode == 1
    assert "did you mean" in waited.stderr
    assert supervisor.wait(timeout=LIMIT) == 1
    told = status(paths)
    assert (told["phase"], told["restarts"]) == ("failed", 0)
    assert "cells_splt.toml" in told["error_tail"]


def test_sigusr1_makes_a_real_run_write_its_stacks(machine):
    paths = machine
    supervisor = train(paths)
    verb(paths, "wait", "job")
    pid = living(paths.run_pid_file) or 0
    os.kill(pid, signal.SIGUSR1)
    until(lambda: "training/run.py" in paths.log.read_text())
    supervisor.terminate()  # and it goes on: the run saves when it is told to end

    assert supervisor.wait(timeout=LIMIT) == 0
    progress = read_progress(paths.run)
    assert progress is not None
    assert (progress.pid, progress.step) == (pid, newest(paths))
    assert "SIGTERM: interrupted at step" in paths.log.read_text()
