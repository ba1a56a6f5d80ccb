import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from training.checkpoints.progress_file import read_progress
from training.trainer.progress import WriteProgress

NOBODY: Any = None


def trainer(step: int) -> Any:
    return SimpleNamespace(global_step=step, accumulate_grad_batches=2, callback_metrics={"train/loss_total": torch.tensor(0.5)})


def test_the_first_step_and_the_last_are_written_and_little_in_between(tmp_path):
    callback = WriteProgress(tmp_path, total_steps=100)
    written = []
    for step in range(1, 101):
        for micro_step in (2 * step - 2, 2 * step - 1):
            callback.on_train_batch_end(trainer(step), NOBODY, None, None, micro_step)
        progress = read_progress(tmp_path)
        assert progress is not None
        written.append(progress.step)

    assert (written[0], written[-1]) == (1, 100)
    assert len(set(written)) <= 4  # 100 of these steps take no second
    assert progress is not None
    assert progress.loss == 0.5


def test_it_costs_next_to_nothing(tmp_path):
    """A step of the real model takes 0.3 seconds: a thousandth of it is 300 microseconds."""
    callback = WriteProgress(tmp_path, total_steps=10**6)
    began = time.perf_counter()
    for step in range(1, 5001):
        callback.on_train_batch_end(trainer(step), NOBODY, None, None, 2 * step - 1)

    assert (time.perf_counter() - began) / 5000 < 300e-6


def test_a_validation_is_progress_and_no_step(tmp_path, monkeypatch):
    clock = iter([0.0, 0.0, 2.0, 2.0, 100.0, 100.0, 102.0, 102.0])
    callback = WriteProgress(tmp_path, total_steps=100)
    monkeypatch.setattr("training.trainer.progress.time.monotonic", lambda: next(clock))
    callback.on_train_batch_end(trainer(1), NOBODY, None, None, 1)
    callback.on_validation_batch_end(trainer(1), NOBODY, None, None, 0)
    progress = read_progress(tmp_path)
    assert progress is not None
    assert (progress.phase, progress.median_step_seconds) == ("validate", None)

    callback.on_validation_end(trainer(1), NOBODY)
    callback.on_train_batch_end(trainer(2), NOBODY, None, None, 3)
    callback.on_train_batch_end(trainer(3), NOBODY, None, None, 5)
    progress = read_progress(tmp_path)
    assert progress is not None
    assert (progress.phase, progress.step, progress.median_step_seconds) == ("train", 3, 2.0)


@pytest.mark.parametrize("text", ["", "{", json.dumps({"step": "x"}), "[]"])
def test_what_is_no_progress_is_none(tmp_path, text):
    (tmp_path / "progress.json").write_text(text)

    assert read_progress(tmp_path) is None
