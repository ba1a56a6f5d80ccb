import signal
from typing import Any

import pytest

from training.checkpoints.interruption import EndOnInterrupt

NOBODY: Any = None  # the callback asks nothing of its trainer


@pytest.fixture
def listening():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    callback = EndOnInterrupt()
    callback.on_fit_start(NOBODY, NOBODY)
    yield callback
    signal.signal(signal.SIGINT, before)


def test_a_first_interrupt_waits_for_the_end_of_the_batch(listening):
    signal.raise_signal(signal.SIGINT)  # raises nothing here

    with pytest.raises(KeyboardInterrupt):
        listening.on_train_batch_end(None, None, None, None, 0)


def test_validation_is_ended_too(listening):
    signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        listening.on_validation_batch_end(None, None, None, None, 0)


def test_a_second_interrupt_acts_at_once(listening):
    signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_nothing_heard_ends_nothing_and_the_handler_before_comes_back(listening):
    listening.on_train_batch_end(None, None, None, None, 0)
    listening.on_fit_end(None, None)

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_who_ignores_ctrl_c_goes_on_ignoring_it():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        EndOnInterrupt().on_fit_start(NOBODY, NOBODY)

        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
