"""Full batches for Lightning: each step sees all training rows, each validation all validation rows."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor

from training.tasks.tabular.arrays import Rows, TabularData


class Batch(NamedTuple):
    """Rows and their labels. Shape: x (n, d), y (n, 1), both float32."""

    x: Tensor
    y: Tensor


class FullBatches:
    """The same batch for every step from `start` to the end of the run.

    Its length is that of the whole run: Lightning restores its count of batches when it resumes, and compares it with this.
    """

    def __init__(self, batch: Batch, start: int, total: int) -> None:
        self._batch, self._start, self._total = batch, start, total

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self._start, self._total):
            yield self._batch

    def __len__(self) -> int:
        return self._total

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the place in the data is the step. Lightning warns where a loader has no such method."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do: the loader starts at the step."""


class TabularBatches(L.LightningDataModule):
    """Batches of a run from step `start_step` to its end. The rows are copied to the device once."""

    def __init__(self, data: TabularData, total_steps: int, *, start_step: int = 0) -> None:
        super().__init__()
        self._rows, self._total, self._start = data, total_steps, start_step

    def train_dataloader(self) -> FullBatches:
        """All training rows, once a step."""
        return FullBatches(self._on_device(self._rows.train), self._start, self._total)

    def val_dataloader(self) -> FullBatches:
        """All validation rows, once."""
        return FullBatches(self._on_device(self._rows.val), 0, 1)

    def _on_device(self, rows: Rows) -> Batch:
        return batch_of(rows, torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device)


def batch_of(rows: Rows, device: torch.device) -> Batch:
    """All rows as tensors of a device."""
    y = torch.from_numpy(rows.y).to(torch.float32).view(-1, 1)
    return Batch(torch.from_numpy(rows.x).to(device), y.to(device))
