"""SIGTERM to a real `training fit`: it saves, says so, and the resume ends where an uninterrupted run does, to the bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training.checkpoints.manifest import complete_checkpoints
from training.checkpoints.model_file import load_model
from training.checkpoints.progress_file import read_progress

# Sends itself the signal at a moment that no outsider could hit: a hook of the objective is the clock.
STOPS_ITSELF = """
import os, signal, sys
from training.__main__ import main
from training.tasks.perturbation.objective import Perturbation

hook, step, place = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
original = getattr(Perturbation, hook)

def stops(self, batch, batch_idx):
    if self.trainer.global_step == step and batch_idx == place:
        os.kill(os.getpid(), signal.SIGTERM)
    return original(self, batch, batch_idx)

setattr(Perturbation, hook, stops)
sys.exit(main(sys.argv[4:]))
"""
ACCUMULATED = (
    "trainer.accumulate_micro_steps=2",
    "optim.schedule=cosine",
    "optim.warmup_fraction=0.3",
    "trainer.log_every_steps=1",
    "checkpoints.every_steps=3",
    "checkpoints.keep_last=9",
    "data.batch_size=1",
)
# Where the signal falls -> (hook, steps done, batch), the step of the checkpoint, what is said of it.
MOMENTS = {
    "in the first micro-step of a step": (("training_step", 4, 8), 5, "at step 5, checkpoint saved;"),
    "in the step before a validation": (("training_step", 3, 7), 4, "at step 4, checkpoint saved, its validation is left to"),
    "in a validation of an unsaved step": (("validation_step", 4, 1), 4, "at step 4, checkpoint saved, its validation is left to"),
    "in the last validation": (("validation_step", 8, 1), 8, "at step 8, checkpoint saved, its validation is left to"),
}


def logged(run):
    """Logged values by (step, stage), without timings; of lines for the same step the last counts."""
    lines = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    timings = {"train/cells_per_second", "train/data_wait_fraction"}
    return {(line["step"], "val/loss_total" in line): {k: v for k, v in line.items() if k not in timings} for line in lines}


def state(run):
    newest = complete_checkpoints(Path(run) / "checkpoints")[-1]
    return newest.step, torch.load(newest.folder / "trainer.ckpt", weights_only=True)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_is_told_to_end_saves_and_a_resume_changes_nothing(training, settings, moment):
    (hook, *place), saved_step, said = MOMENTS[moment]
    training("fit", *settings(*ACCUMULATED, "name=whole"))

    words = [sys.executable, "-c", STOPS_ITSELF, hook, *map(str, place), "fit", *settings(*ACCUMULATED)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)

    assert done.returncode == 1, done.stderr
    assert f"interrupted {said}" in done.stderr
    assert "Traceback" not in done.stderr + Path("run/training.log").read_text()
    assert "SIGTERM: interrupted" in Path("run/training.log").read_text()
    assert state("run")[0] == saved_step
    assert not Path("run/model.pt").exists()
    assert training("fit", *settings(*ACCUMULATED, "resume=true")).code == 0
    assert equal(state("run")[1]["state_dict"], state("whole")[1]["state_dict"])
    assert equal(load_model(Path("run/model.pt")).weights, load_model(Path("whole/model.pt")).weights)
    assert logged("run") == logged("whole")
    assert Path("run/eval_history.csv").read_text() == Path("whole/eval_history.csv").read_text()
    values = {c.step: c.manifest.val_loss_total for c in complete_checkpoints(Path("run/checkpoints"))}
    whole = {c.step: c.manifest.val_loss_total for c in complete_checkpoints(Path("whole/checkpoints"))}
    assert {step: values[step] for step in whole} == whole


def test_progress_is_written_at_the_first_step_and_at_the_last(training, settings):
    training("fit", *settings())

    progress = read_progress(Path("run"))
    assert progress is not None
    assert (progress.pid, progress.step, progress.total_steps, progress.phase) == (os.getpid(), 8, 8, "train")
    assert progress.loss is not None
    assert progress.median_step_seconds is not None
    assert progress.median_step_seconds > 0
