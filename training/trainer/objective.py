"""What every task's objective shares: the optimizer, reproducible randomness, the clock, and how values are logged."""

import logging
import time
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from training.cells import RunLength
from training.checkpoints.model_file import SPEC
from training.config import OptimConfig
from training.errors import RunError
from training.models.spec import ModelSpec
from training.optim.param_groups import build_optimizer
from training.optim.schedule import lr_multiplier
from training.trainer.data_wait import DataWait

log = logging.getLogger(__name__)

MONITORED = "val/loss_total"
"""The logged value that chooses the best checkpoint and ends a run early, in every task; lower is better."""


class Objective(L.LightningModule):
    """A model with what is minimised. A task adds `training_step`, `validation_step`, `items_in` and `line`.

    A training step puts named values into `train_means`, a validation step into `val_means`; `loss_total` is among both, and is
    what is minimised. `seed` makes dropout a function of (seed, micro-step, rank).
    """

    rate = "items_per_second"
    """Name of the logged throughput."""

    def __init__(self, model: nn.Module, spec: ModelSpec, optim: OptimConfig, length: RunLength, *, seed: int) -> None:
        super().__init__()
        self.model, self.spec = model, spec
        self.optim, self.length, self.seed = optim, length, seed
        self.data_wait = DataWait()
        """The trainer's profiler."""
        self.gradient_norm = torch.tensor(float("nan"))
        self.train_means, self.val_means = Means(), Means()
        self._lr_used: dict[str, float] = {}
        self._items, self._since, self._paused = 0, 0.0, 0.0
        self.validated: dict[str, float] = {}
        """Values of the latest validation, by logged name."""

    def items_in(self, batch: Any) -> int:
        """What throughput counts in a batch: cells, rows or tokens."""
        raise NotImplementedError

    def line(self, stage: str, values: dict[str, float]) -> str:
        """Logged values of `train` or `val` for people, in one line."""
        raise NotImplementedError

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let a checkpoint say what its weights are."""
        checkpoint[SPEC] = self.spec.to_plain()

    def on_train_start(self) -> None:
        """Start the clock of the throughput, and take the learning rate of this step in a run of this length.

        The scheduler state in a checkpoint was computed for the length of then.
        """
        multiplier = lr_multiplier(self.trainer.global_step, self.length.total_steps, self.optim)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = group["initial_lr"] * multiplier
        self._items, self._since, self._paused = 0, time.perf_counter(), 0.0

    def on_validation_start(self) -> None:
        """Stop the clock."""
        self._paused -= time.perf_counter()

    def on_validation_end(self) -> None:
        """Let the clock go on."""
        self._paused += time.perf_counter()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Tie dropout to the position in the run, so that an interruption cannot change it."""
        torch.manual_seed(int(np.random.SeedSequence([self.seed, batch_idx, self.global_rank]).generate_state(1)[0]))

    def on_validation_epoch_end(self) -> None:
        """Publish the validation: to the loggers, to the checkpoints, and to whoever reads `validated`."""
        self.validated = self._finite(self.val_means.take("val/"))
        self.log("val/loss_total", self.validated["val/loss_total"], logger=False, prog_bar=True)
        self._write("val", self.validated)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log at the last micro-step of every `log_every_steps`-th step."""
        self._items += self.items_in(batch)
        if (batch_idx + 1) % self.length.accumulate_micro_steps:
            return
        if not self.length.is_logged(batch_idx):
            self.train_means.clear()
            return
        norm = {"train/gradient_norm": float(self.gradient_norm)}
        values = self._finite(self.train_means.take("train/") | norm)
        for group in self.trainer.optimizers[0].param_groups:
            values[f"lr/{group['name']}"] = self._lr_used[group["name"]]
        self.log("train/loss_total", values["train/loss_total"], logger=False, prog_bar=True)
        values |= self._speed()
        self._write("train", values)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip by the L2 norm of all gradients, and keep the norm before clipping for the log."""
        # The rates of this step: the scheduler moves on at its end.
        self._lr_used = {group["name"]: float(group["lr"]) for group in optimizer.param_groups}
        limit = self.optim.gradient_clip_norm or float("inf")
        self.gradient_norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)

    def configure_optimizers(self) -> Any:
        """AdamW with a learning rate that is a function of the step alone."""
        optimizer = build_optimizer(self.model, self.optim)
        scheduler = LambdaLR(optimizer, lambda step: lr_multiplier(step, self.length.total_steps, self.optim))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _speed(self) -> dict[str, float]:
        """Throughput since the last logged step, validations left out, and the share of that time spent waiting for data."""
        seconds = time.perf_counter() - self._since - self._paused
        waited = self.data_wait.take_seconds()
        speed = {f"train/{self.rate}": self._items / seconds, "train/data_wait_fraction": min(1.0, waited / seconds)}
        self._items, self._since, self._paused = 0, time.perf_counter(), 0.0
        return speed

    def _finite(self, values: dict[str, float]) -> dict[str, float]:
        for name, value in values.items():
            if not np.isfinite(value):
                raise RunError(
                    f"step {self.trainer.global_step}: {name} is {value}; training cannot go on from here. Start a new run with a "
                    "lower optim.lr or optim.gradient_clip_norm; the checkpoints that are there have finite weights."
                )
        return values

    def _write(self, stage: str, values: dict[str, float]) -> None:
        step = self.trainer.global_step
        log.info("step %d/%d  %s", step, self.length.total_steps, self.line(stage, values))
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step)


class Means:
    """Weighted means of named values since the last `take`; sums stay on the device until then."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def add(self, values: dict[str, Tensor], weight: int = 1) -> None:
        """Count each value `weight` times."""
        for name, value in values.items():
            total, count = self._sums.get(name, (torch.zeros((), device=value.device), 0))
            self._sums[name] = (total + weight * value.detach().float(), count + weight)

    def take(self, prefix: str) -> dict[str, float]:
        """The means by `prefix` + name; starts anew."""
        means = {f"{prefix}{name}": float(total / count) for name, (total, count) in self._sums.items()}
        self.clear()
        return means

    def clear(self) -> None:
        """Forget everything."""
        self._sums = {}
