"""A run of cells that ends early: it is whole, is not trained further, and goes on to the bit where it is asked to."""

from pathlib import Path

import pytest
import torch

from training.checkpoints.manifest import complete_checkpoints
from training.run_facts import read_facts
from training.runner.job import JobPaths
from training.runner.state import is_finished

# The first validation improves on nothing at all, and no later one by so much: the second ends the run, at step 8 of 24.
ENDS_EARLY = ("early_stopping.patience=1", "early_stopping.min_delta=1e9", "trainer.max_steps=24")


def checkpoint_weights(run):
    newest = complete_checkpoints(Path(run) / "checkpoints")[-1]
    return newest, torch.load(newest.folder / "trainer.ckpt", weights_only=True)["state_dict"]


@pytest.fixture
def ended(training, settings):
    assert training("fit", *settings("output_dir=runs", *ENDS_EARLY)).code == 0
    return Path("runs/run")


def test_it_is_whole_where_it_ended(ended, training, screen):
    newest, _ = checkpoint_weights(ended)
    facts = read_facts(ended)

    assert facts is not None
    assert (newest.step, facts.finished_step, facts.latest.total_steps) == (8, 8, 24)
    assert newest.manifest.val_loss_total is not None  # the resume owes no validation
    assert "has not improved by more than 1e+09 for 1 validations" in (ended / "training.log").read_text()
    assert training("evaluate", "runs/run").code == 0
    assert is_finished(JobPaths(screen, "run"), 24, "patience 1, min_delta 1000000000.0")
    assert not is_finished(JobPaths(screen, "run"), 24, None)


def test_it_is_not_trained_further_and_validates_no_more(ended, training, settings):
    assert training("evaluate", "runs/run").code == 0
    history, figures = (ended / "eval_history.csv").read_text(), (ended / "metrics.json").read_text()

    assert training("fit", *settings("output_dir=runs", *ENDS_EARLY, "resume=true")).code == 0

    assert checkpoint_weights(ended)[0].step == 8
    assert (ended / "eval_history.csv").read_text() == history
    assert (ended / "metrics.json").read_text() == figures


def test_without_the_limit_it_goes_on_as_if_it_had_never_ended(ended, training, settings):
    whole = ("output_dir=runs", "trainer.max_steps=24")
    assert training("fit", *settings(*whole, "resume=true")).code == 0
    assert training("fit", *settings(*whole, "name=whole")).code == 0

    one, other = checkpoint_weights(ended)[1], checkpoint_weights("runs/whole")[1]
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())
    assert (ended / "eval_history.csv").read_bytes() == Path("runs/whole/eval_history.csv").read_bytes()
