"""No vector function of MKL is called by several threads before one thread has called it: see training/mkl.py."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from training.mkl import FUNCTIONS


class Calls(TorchDispatchMode):
    """How many values each function had, call by call; `sqrt_` is a `sqrt`."""

    def __init__(self):
        super().__init__()
        self.sizes = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__.rstrip("_")
        if name in FUNCTIONS:
            self.sizes.setdefault((name, args[0].dtype), []).append(args[0].numel())
        return func(*args, **(kwargs or {}))


def first_calls(training, *words):
    with Calls() as calls:
        done = training(*words)
    assert done.code == 0, done.err
    return calls.sizes


@pytest.mark.slow
def test_every_verb_that_computes_calls_each_function_on_one_value_first(training, settings):
    for words in (
        ("check", *settings()),
        ("fit", *settings("objective.loss=energy_sinkhorn", "objective.blur=1")),
        ("fit", *settings("objective.loss=energy_sinkhorn", "objective.blur=1", "resume=true", "trainer.max_steps=12")),
        ("evaluate", "run"),
        ("predict", "run", "--output", "predicted.h5ad"),
    ):
        sizes = first_calls(training, *words)
        assert {call: of[0] for call, of in sizes.items()} == dict.fromkeys(sizes, 1), words
        assert {name for name, _ in sizes} == set(FUNCTIONS)
        if words[0] in {"check", "fit"}:
            assert max(sizes["sqrt", torch.float32]) > 1  # the distances of the energy loss: this test sees them
