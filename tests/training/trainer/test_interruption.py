import signal
from types import SimpleNamespace
from typing import Any

import pytest

from training.trainer.interruption import EndOnInterrupt

NOBODY: Any = None


class Saves:
    """In place of SaveCheckpoints: what it is asked."""

    total_steps = 10

    def __init__(self) -> None:
        self.saved: list[int] = []

    def save_now(self, trainer: Any) -> None:
        self.saved.append(trainer.global_step)


def trainer(step: int) -> Any:
    return SimpleNamespace(global_step=step, accumulate_grad_batches=2)


@pytest.fixture
def listening():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    save: Any = Saves()
    callback = EndOnInterrupt(save)
    callback.on_train_start(NOBODY, NOBODY)
    yield callback
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_waits_for_the_end_of_the_step_and_for_its_log_line(listening, number):
    signal.raise_signal(number)  # raises nothing here
    listening.on_train_batch_end(trainer(3), NOBODY, None, None, 6)
    assert listening.save.saved == []  # in the middle of an accumulation

    listening.on_train_batch_end(trainer(4), NOBODY, None, None, 7)
    assert listening.save.saved == [4]
    with pytest.raises(KeyboardInterrupt):
        listening.on_train_batch_start(trainer(4), NOBODY, None, 8)
    assert listening.outcome == "at step 4, checkpoint saved"


def test_a_signal_between_two_steps_waits_for_the_end_of_the_next(listening):
    signal.raise_signal(signal.SIGTERM)

    listening.on_train_batch_start(trainer(4), NOBODY, None, 8)  # that step was not saved


def test_validation_is_ended_too(listening):
    listening.on_validation_batch_end(trainer(4), NOBODY)
    signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        listening.on_validation_batch_end(trainer(4), NOBODY)
    assert listening.save.saved == [4]


def test_the_last_step_is_saved_in_its_validation(listening):
    signal.raise_signal(signal.SIGTERM)
    listening.on_train_batch_end(trainer(10), NOBODY, None, None, 19)
    assert listening.save.saved == []  # its validation is about to begin

    with pytest.raises(KeyboardInterrupt):
        listening.on_validation_batch_end(trainer(10), NOBODY)
    assert listening.save.saved == [10]


def test_a_second_ctrl_c_acts_at_once_and_a_second_sigterm_does_not(listening):
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_nothing_heard_ends_nothing_and_the_handlers_before_come_back(listening):
    listening.on_train_batch_end(trainer(1), NOBODY, None, None, 1)
    listening.on_train_batch_start(trainer(1), NOBODY, None, 2)
    listening.on_fit_end(NOBODY, NOBODY)

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is listening.before[signal.SIGTERM]


def test_who_ignores_ctrl_c_goes_on_ignoring_it(listening):
    listening.on_fit_end(NOBODY, NOBODY)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listening.on_train_start(NOBODY, NOBODY)

    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
