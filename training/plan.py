"""A run, resolved once: its configuration, its data, its length, its model's spec and its device."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from training.cells import RunLength
from training.config import Run
from training.errors import UserError
from training.models.spec import ModelSpec
from training.text import some

Config = TypeVar("Config", bound=Run)
Data = TypeVar("Data")


@dataclass(frozen=True)
class Prepared(Generic[Config, Data]):
    """What a task has made of a configuration, before anything is trained."""

    config: Config
    data: Data
    fingerprint: str
    """Of the data's content."""
    length: RunLength
    spec: ModelSpec
    device: str
    """`cpu` or `gpu`."""


def device_of(config: Run) -> str:
    """`gpu` or `cpu`.

    Raises: UserError if the run asks for a GPU that is not there.
    """
    if config.trainer.device == "gpu" and not torch.cuda.is_available():
        raise UserError("trainer.device: gpu: torch sees no CUDA device here (accepted here: cpu, auto)")
    return "gpu" if torch.cuda.is_available() and config.trainer.device != "cpu" else "cpu"


def plan_text(rows: Iterable[tuple[str, str]]) -> str:
    """What the settings come to on these data, as text."""
    return "Plan\n" + "\n".join(f"  {name:<21}{value}" for name, value in rows)


def one_pass(module: Any, batch: Any) -> str:
    """One forward and backward pass of an objective on the CPU, in 32 bit: its loss and the memory of a step.

    Raises: UserError if a weight gets no gradient.
    """
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = module.training_step(batch, 0)
    loss.backward()
    idle = [name for name, parameter in module.model.named_parameters() if parameter.grad is None]
    if idle:
        raise UserError(f"model: no gradient reaches {some(idle)}")
    weights = list(module.model.parameters())
    size = sum(weight.nbytes for weight in weights)
    activations = sum(saved.values()) - sum(saved.get(weight.data_ptr(), 0) for weight in weights)
    return (
        f"One forward and backward pass: loss {float(loss.detach()):.5g}. Memory of a step: weights, gradients and AdamW "
        f"{mebibytes(4 * size)} + activations {mebibytes(activations)} (in 32 bit)"
    )


def mebibytes(size: int) -> str:
    """A size in bytes as text."""
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"
