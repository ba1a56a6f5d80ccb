"""What was trained is saved whatever its validation does, and a resume ends where an uninterrupted run does."""

from pathlib import Path

import pytest
import torch

from training.checkpoints.manifest import complete_checkpoints
from training.checkpoints.model_file import load_model
from training.errors import RunError
from training.tasks.perturbation.batches import ValidationBatches
from training.tasks.perturbation.objective import Perturbation
from training.trainer.checkpointing import SaveCheckpoints


def values(run):
    return {c.step: c.manifest.val_loss_total for c in complete_checkpoints(Path(run) / "checkpoints")}


def last_weights(run):
    newest = complete_checkpoints(Path(run) / "checkpoints")[-1]
    return torch.load(newest.folder / "trainer.ckpt", weights_only=True)["state_dict"]


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def fails_at(step):
    original = Perturbation.validation_step

    def validation_step(self, batch, batch_idx):
        if self.trainer.global_step == step:
            raise RunError(f"the validation of step {step} fails")
        return original(self, batch, batch_idx)

    return validation_step


@pytest.mark.parametrize(("step", "every_steps", "last_step"), [(8, 4, 8), (4, 4, 8), (4, 8, 8), (7, 4, 7)])
def test_a_step_whose_validation_fails_is_saved_and_a_resume_validates_it(
    training, settings, monkeypatch, step, every_steps, last_step
):
    cadence = (f"checkpoints.every_steps={every_steps}", f"trainer.max_steps={last_step}")
    training("fit", *settings(*cadence, "name=whole"))
    with monkeypatch.context() as patch:
        patch.setattr(Perturbation, "validation_step", fails_at(step))
        done = training("fit", *settings(*cadence))
    assert done.code == 1
    assert done.err == f"failed: the validation of step {step} fails\n"
    assert values("run") == ({4: values("whole")[4]} if step == last_step else {}) | {step: None}
    assert not Path("run/model.pt").exists()

    done = training("fit", *settings(*cadence, "resume=true"))

    assert done.code == 0, done.err
    assert values("run") == values("whole")
    assert equal(last_weights("run"), last_weights("whole"))
    assert equal(load_model(Path("run/model.pt")).weights, load_model(Path("whole/model.pt")).weights)
    assert Path("run/eval_history.csv").read_text() == Path("whole/eval_history.csv").read_text()


@pytest.mark.filterwarnings("ignore:Total length of `RefusingLoader`")
def test_a_validation_that_gives_nothing_costs_no_checkpoint(training, settings, monkeypatch):
    monkeypatch.setattr(ValidationBatches, "__len__", lambda self: 0)

    done = training("fit", *settings())

    assert done.code == 0, done.err
    assert values("run") == {4: None, 8: None}
    assert load_model(Path("run/model.pt")).step == 8


def test_the_last_step_is_saved_even_if_nobody_called_for_it(training, settings, monkeypatch):
    """No hook before the end of the training is needed for that."""
    for hook in ("on_train_batch_end", "on_validation_end"):
        monkeypatch.setattr(SaveCheckpoints, hook, lambda *_: None)

    done = training("fit", *settings())

    assert done.code == 0, done.err
    assert values("run") == {8: None}


def test_a_failed_save_does_not_hide_why_the_run_ended(training, settings, monkeypatch):
    def full_disk(*_):
        raise RunError("the disk is full")

    monkeypatch.setattr(SaveCheckpoints, "_save", full_disk)
    monkeypatch.setattr(Perturbation, "validation_step", fails_at(4))

    done = training("fit", *settings())

    assert done.code == 1
    assert "the disk is full" in done.out
    assert done.err.endswith("failed: the validation of step 4 fails\n")
