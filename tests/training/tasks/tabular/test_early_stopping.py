"""When a run ends, which weights it keeps, and that a resume knows it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.training.tasks.tabular.conftest import config_of, fit
from training.tasks.tabular.config import TabularEarlyStoppingConfig
from training.trainer.early_stopping import EarlyStopping


def watched(values: list[float], **settings: Any) -> tuple[EarlyStopping, int]:
    """A callback that saw these values, and the step at which it asked for the end (0: never)."""
    config = TabularEarlyStoppingConfig(**settings)
    stopping = EarlyStopping(config, "val/loss_total", keeps_weights=config.restore_best)
    trainer: Any = SimpleNamespace(sanity_checking=False, should_stop=False)
    for step, value in enumerate(values, 1):
        trainer.callback_metrics, trainer.global_step = {"val/loss_total": torch.tensor(value, dtype=torch.float64)}, step
        stopping.on_validation_end(trainer, torch.nn.Linear(1, 1))  # type: ignore[arg-type]
        if trainer.should_stop:
            return stopping, step
    return stopping, 0


def test_patience_counts_validations_since_the_best():
    stopping, end = watched([3.0, 2.0, 2.5, 1.0, 1.5, 1.4, 1.3], patience=3, min_delta=0.0)

    assert (end, stopping.best_step, stopping.best_value) == (7, 4, 1.0)


def test_a_run_that_improves_does_not_end():
    assert watched([3.0, 2.0, 1.0, 0.5], patience=1, min_delta=0.0)[1] == 0


def test_an_improvement_of_exactly_min_delta_is_none():
    stopping, end = watched([1.0, 0.75, 0.75], patience=2, min_delta=0.25)

    assert (end, stopping.best_step) == (3, 1)


def test_small_steps_add_up_against_the_best():
    stopping, _ = watched([1.0, 0.9, 0.8, 0.7], patience=9, min_delta=0.25)

    assert (stopping.best_step, stopping.best_value) == (4, 0.7)


def test_weights_are_remembered_only_where_they_are_wanted():
    assert watched([1.0], restore_best=False)[0].weights is None
    assert set(watched([1.0])[0].weights or {}) == {"weight", "bias"}


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_resumed_run_has_the_history_the_weights_and_the_end_of_one_that_nobody_disturbed(passengers, tmp_path, cut):
    settings: dict[str, Any] = {
        "optim": {"lr": 1e-2},
        "trainer": {"device": "cpu", "max_epochs": 300},
        "early_stopping": {"patience": 8},
    }
    whole = fit(config_of(passengers, tmp_path / "whole", **settings))
    ended = whole.trainer.global_step
    cut = min(cut, ended - 1)
    config = config_of(passengers, tmp_path / "cut", **settings)
    first = fit(config, steps=cut)
    first.trainer.save_checkpoint(tmp_path / "cut.ckpt")
    with (config.directory / "eval_history.csv").open("a") as file:
        file.write(f"{cut + 1},0.5\n")  # of an epoch that no checkpoint holds

    second = fit(config, checkpoint=tmp_path / "cut.ckpt", start=cut)

    assert 8 < ended < 300
    assert second.trainer.global_step == ended
    assert second.history == whole.history
    assert second.stopping.best_step == whole.stopping.best_step
    for one in (whole, second):
        one.stopping.restore(one.module)
    ours, theirs = whole.module.state_dict(), second.module.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_that_has_ended_by_itself_is_not_trained_further(passengers, tmp_path):
    settings: dict[str, Any] = {
        "optim": {"lr": 1e-2},
        "trainer": {"device": "cpu", "max_epochs": 300},
        "early_stopping": {"patience": 8},
    }
    config = config_of(passengers, tmp_path, **settings)
    whole = fit(config)
    ended = whole.trainer.global_step
    whole.trainer.save_checkpoint(tmp_path / "end.ckpt")

    again = fit(config, checkpoint=tmp_path / "end.ckpt", start=ended)

    assert again.trainer.global_step == ended
    assert again.history == whole.history
