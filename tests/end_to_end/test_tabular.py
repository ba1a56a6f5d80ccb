"""The tabular task by the command line: from a run file and by the lesson's own command."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from training.checkpoints.manifest import complete_checkpoints
from training.run_facts import read_facts
from training.runner.job import JobPaths
from training.runner.state import is_finished

ROOT = Path(__file__).parents[2]
DATA = ROOT / "configs" / "data" / "passengers"
FILES = (f"data.train={DATA / 'train_data.npz'}", f"data.val={DATA / 'val_data.npz'}")
RUN = ("task=tabular", *FILES, "optim.lr=1e-3", "trainer.device=cpu")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as the tests have it: another number of threads gives other last digits
    return tmp_path


def weights(run):
    return torch.load(Path("runs") / run / "model.pt", weights_only=True)["weights"]


def test_the_run_file_of_the_repository_trains_ends_early_and_is_judged(training, here):
    (here / "configs").symlink_to(ROOT / "configs")
    assert training("fit", "configs/runs/titanic.yaml").code == 0

    run = here / "runs" / "titanic"
    metrics = json.loads((run / "metrics.json").read_text())
    with (run / "eval_history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["iter", "val_loss"]
    assert int(rows[-1]["iter"]) == metrics["stopped_epoch"] < 500
    assert float(rows[metrics["best_epoch"] - 1]["val_loss"]) == metrics["best_val_loss"] == metrics["final_val_loss"]
    bare = torch.load(run / "state_dict.pt", weights_only=True)
    assert all(torch.equal(weight, bare[name]) for name, weight in weights("titanic").items())
    assert "beats majority class" in metrics["verdict"]
    log = (run / "training.log").read_text()
    assert f"validation_loss: {metrics['final_val_loss']:.6f}\n" in log
    assert f"validation_accuracy: {metrics['final_val_accuracy']:.6f}\n" in log
    facts = read_facts(run)
    assert facts is not None
    assert facts.finished_step == metrics["stopped_epoch"]
    assert is_finished(JobPaths(here, "titanic"), 500, "patience 10, min_delta 0.001")
    assert not is_finished(
        JobPaths(here, "titanic"), 1000, "patience 10, min_delta 0.001"
    )  # more was asked for than the run was for
    assert not is_finished(JobPaths(here, "titanic"), 500, "patience 20, min_delta 0.001")

    judged = training("evaluate", "runs/titanic")
    assert (judged.code, judged.out.strip().endswith("nothing is won")) == (0, True)
    assert "true probabilities" in (run / "report.html").read_text()
    assert json.loads((run / "metrics.json").read_text()) == metrics
    refused = training("evaluate", "runs/titanic", "optim.lr=1")
    assert (refused.code, refused.err) == (
        2, "refused: command line: optim.lr: 1.0 would have no effect: the model is trained (accepted: data.train, data.val)\n"
    )  # fmt: skip
    refused = training("predict", "runs/titanic", "--output", "cells.h5ad")
    assert (refused.code, refused.err) == (2, "refused: training predict: task tabular has no such verb\n")


def test_a_run_that_ended_by_itself_is_not_trained_further(training, here):
    assert training("fit", *RUN, "name=a").code == 0
    before, step = weights("a"), complete_checkpoints(here / "runs/a/checkpoints")[-1].step

    assert training("fit", *RUN, "name=a", "resume=true").code == 0

    assert complete_checkpoints(here / "runs/a/checkpoints")[-1].step == step
    assert all(torch.equal(weight, before[name]) for name, weight in weights("a").items())


# Longer than any test waits: a run that is ended from outside must not be quicker.
ENDLESS = ("trainer.max_epochs=1000000", "early_stopping.patience=999999")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "told to end"])
def test_a_run_that_was_ended_from_outside_goes_on_to_the_bit(training, here, number):
    words = (*RUN, "checkpoints.every_steps=50")
    command = [sys.executable, "-m", "training", "fit", *words, *ENDLESS, "name=ended"]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL) as process:
        while not complete_checkpoints(here / "runs/ended/checkpoints"):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
    newest = complete_checkpoints(here / "runs/ended/checkpoints")[-1]
    if number == signal.SIGTERM:
        assert newest.manifest.val_loss_total is None  # the resume validates first
    length = (f"trainer.max_epochs={newest.step + 50}", f"early_stopping.patience={newest.step + 49}")

    assert training("fit", *words, *length, "name=ended", "resume=true").code == 0
    assert training("fit", *words, *length, "name=whole").code == 0

    ended, whole = weights("ended"), weights("whole")
    assert all(torch.equal(weight, whole[name]) for name, weight in ended.items())
    assert (here / "runs/ended/eval_history.csv").read_bytes() == (here / "runs/whole/eval_history.csv").read_bytes()
    told, undisturbed = (json.loads((here / f"runs/{name}/metrics.json").read_text()) for name in ("ended", "whole"))
    assert told | {"model_uri": ""} == undisturbed | {"model_uri": ""}


def test_the_lessons_command_leaves_its_files_where_it_says(training, here, monkeypatch):
    monkeypatch.setenv("AIP_MODEL_DIR", str(here / "out"))
    words = [f"--train={DATA / 'train_data.npz'}", "--val", str(DATA / "val_data.npz"), "--epochs=30", "--learning_rate", "0.001"]

    assert training("fit", *words).code == 0

    names = {"model.pt", "metrics.json", "eval_history.csv", "training.log", "state_dict.pt"}
    assert {path.name for path in (here / "out").iterdir()} == names
    metrics = json.loads((here / "out/metrics.json").read_text())
    assert (metrics["max_epochs_requested"], metrics["learning_rate"], metrics["patience"]) == (30, 0.001, 10)
    assert training("fit", *words, "--patience=0").code == 2


@pytest.mark.slow
def test_reproduce_trains_again_and_compares_to_the_bit(training, here):
    assert training("fit", *RUN, "name=a", "trainer.max_epochs=20").code == 0

    done = training("reproduce", "runs/a")

    assert (done.code, done.out.splitlines()[-1]) == (0, "a: reproduced to the bit: 6 weights of step 20, 20 validations")
    assert training("reproduce", "runs/a").code == 2  # the new folder is there by now
    content = torch.load("runs/a/model.pt", weights_only=True)
    content["weights"]["net.0.bias"][0] += 1e-7
    torch.save(content, "runs/a/model.pt")
    failed = training("reproduce", "runs/a", "--output", "runs/b")
    assert failed.code == 1
    assert failed.err.startswith("failed: a: not reproduced: weights (runs/a/model.pt and runs/b/model.pt) differ")


def test_check_overfits_one_batch_and_refuses_what_cannot_learn(training, here):
    assert "loss 0.69" in training("check", *RUN, "name=a", "--overfit").out
    assert not (here / "runs").exists()

    refused = training("check", *RUN, "name=a", "model.hidden_dims=[]", "--overfit")

    assert refused.code == 2
    assert "it does not fall to half" in refused.err


def test_weights_that_diverge_end_in_one_sentence(training, here):
    failed = training("fit", *RUN[:-2], "optim.lr=1e30", "trainer.device=cpu", "name=a", "early_stopping.patience=50")

    assert (failed.code, failed.err[:52]) == (1, "failed: a predicted probability is not a number; tra")
