"""The toy task: fit a line."""

from collections.abc import Iterator, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor
from training.tasks.toy.config import ToyConfig
from training.tasks.toy.spec import ToySpec

from training.cells import RunLength
from training.plan import Prepared
from training.reporting.curves import Panel
from training.tasks.task import Task
from training.trainer.objective import Objective

Batch = tuple[Tensor, Tensor]


class Line(Objective):
    """Squared error."""

    def items_in(self, batch: Batch) -> int:
        """Points."""
        return len(batch[0])

    def line(self, stage: str, values: dict[str, float]) -> str:
        """The loss."""
        return f"{stage} {values[f'{stage}/loss_total']:.5g}"

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean over the points."""
        loss = ((self.model(batch[0]) - batch[1]) ** 2).mean()
        self.train_means.add({"loss_total": loss.detach()})
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The same."""
        self.val_means.add({"loss_total": ((self.model(batch[0]) - batch[1]) ** 2).mean()})


class Batches(L.LightningDataModule):
    """A batch is a function of its index."""

    def __init__(self, config: ToyConfig, start: int, total: int) -> None:
        super().__init__()
        self.config, self.start, self.total = config, start, total

    def batch(self, index: int) -> Batch:
        """Points of the line."""
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + index)
        x = torch.randn(self.config.data.n_points, 1, generator=generator)
        return x, self.config.data.slope * x

    def train_dataloader(self) -> "Stream":
        """From the first step that is left."""
        return Stream(self, self.start, self.total)

    def val_dataloader(self) -> "Stream":
        """One fixed batch."""
        return Stream(self, 0, 1)


class Stream:
    """Batches of the whole run; the index is the only state."""

    def __init__(self, batches: Batches, start: int, total: int) -> None:
        self.batches, self.start, self.total = batches, start, total

    def __iter__(self) -> Iterator[Batch]:
        return (self.batches.batch(index) for index in range(self.start, self.total))

    def __len__(self) -> int:
        return self.total

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


class ToyTask(Task[ToyConfig, int]):
    """Fit a line."""

    name = "toy"
    panels = (Panel("Loss", ("*/loss_total",)),)

    def open(self, config: ToyConfig) -> int:
        """How many points."""
        return int(config.data.n_points)

    def fingerprint(self, data: int) -> str:
        """The number."""
        return f"{data:064d}"

    def summary(self, data: int) -> str:
        """The number."""
        return f"{data} points"

    def record(self, data: int) -> dict[str, Any]:
        """The number."""
        return {"n_points": data}

    def length(self, config: ToyConfig, data: int) -> RunLength:
        """As the run file says."""
        return RunLength(config.trainer.max_steps or 1, 1, config.trainer.log_every_steps)

    def spec(self, config: ToyConfig, data: int) -> ToySpec:
        """With dropout, so that randomness has to be resumed too."""
        return ToySpec(0.25)

    def plan(self, prepared: Prepared[ToyConfig, int]) -> Sequence[tuple[str, str]]:
        """The points."""
        return [("points per step", str(prepared.data))]

    def objective(self, prepared: Prepared[ToyConfig, int]) -> Line:
        """The untrained line."""
        config = prepared.config
        torch.manual_seed(config.seed)
        return Line(prepared.spec.build(), prepared.spec, config.optim, prepared.length, seed=config.seed)

    def batches(self, prepared: Prepared[ToyConfig, int], start_step: int) -> Batches:
        """From a step on."""
        return Batches(prepared.config, start_step, prepared.length.total_steps)

    def first_batch(self, prepared: Prepared[ToyConfig, int]) -> Batch:
        """The first."""
        return self.batches(prepared, 0).batch(0)


TASK = ToyTask()
