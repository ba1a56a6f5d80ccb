"""Classify rows: the loss, and what is logged.

Names of logged values:

    train/loss_total     binary cross-entropy of all training rows, before the step
    train/gradient_norm  L2 norm of the gradient, before clipping
    val/loss_total       binary cross-entropy of all validation rows, after the step
    val/accuracy         share of validation rows whose more probable class is theirs

Nothing is random but the first weights, which are a function of the seed.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy

from training.cells import RunLength
from training.errors import RunError
from training.tasks.tabular.arrays import Float64Array, Rows
from training.tasks.tabular.batches import Batch, batch_of
from training.tasks.tabular.config import TabularConfig
from training.tasks.tabular.model import Mlp, TabularSpec
from training.trainer.objective import Objective

MONITORED = "val/loss_total"
"""The logged value that chooses the best epoch; lower is better."""


class Classification(Objective):
    """The classifier with its loss and optimizer; a step is one full batch, and every step validates."""

    def __init__(self, model: Mlp, spec: TabularSpec, config: TabularConfig) -> None:
        length = RunLength(config.trainer.max_epochs, 1, config.trainer.log_every_steps)
        super().__init__(model, spec, config.optim, length, seed=config.seed)
        self.model: Mlp = model
        self.config = config
        self.trained: dict[str, Tensor] = {}
        """Values of the latest step, by logged name."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of all training rows."""
        loss = binary_cross_entropy(_finite(self.model(batch.x)), batch.y)
        self.trained["train/loss_total"] = loss.detach()
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and accuracy of all validation rows: to the loggers, to the checkpoints, and to whoever reads `validated`."""
        loss, accuracy = _measured(self.model, batch)
        self.validated = {MONITORED: loss, "val/accuracy": accuracy}
        self._refuse_nan(self.validated)
        self.log(MONITORED, loss, logger=False, prog_bar=True)
        for logger in self.trainer.loggers:
            logger.log_metrics(self.validated, self.trainer.global_step)

    def on_validation_epoch_end(self) -> None:
        """All was said by the one validation batch; `PrintEpochs` prints it."""

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log every `log_every_steps`-th step, and the last."""
        step = self.trainer.global_step
        if step % self.config.trainer.log_every_steps and step != self.config.trainer.max_epochs:
            return
        values = {name: float(value) for name, value in self.trained.items()}
        self._refuse_nan(values)
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip by the L2 norm of all gradients, and keep the norm before clipping for the log."""
        limit = self.config.optim.gradient_clip_norm or float("inf")
        self.trained["train/gradient_norm"] = nn.utils.clip_grad_norm_(self.model.parameters(), limit)

    def _refuse_nan(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            if not np.isfinite(value):
                raise RunError(
                    f"step {self.trainer.global_step}: {name} is {value}; training cannot go on from here. Start a new run with a "
                    "lower optim.lr, and look at the scale of the columns of X_train."
                )


def build_objective(config: TabularConfig, spec: TabularSpec) -> Classification:
    """The untrained model with its loss; its weights are a function of the seed."""
    torch.manual_seed(config.seed)
    return Classification(spec.build(), spec, config)


def measured(model: Mlp, rows: Rows) -> tuple[float, float]:
    """Loss and accuracy of rows, as a validation measures them."""
    return _measured(model, batch_of(rows, next(model.parameters()).device))


def probabilities(model: Mlp, rows: Rows) -> Float64Array:
    """The predicted probability of class 1. Shape: (n,)."""
    with torch.no_grad():
        predicted = model(batch_of(rows, next(model.parameters()).device).x)
    return predicted[:, 0].double().cpu().numpy()  # type: ignore[no-any-return]


def _finite(predicted: Tensor) -> Tensor:
    """Probabilities. Raises: RunError where they are none: the weights have diverged."""
    if not bool(torch.isfinite(predicted).all()):
        raise RunError(
            "a predicted probability is not a number; training cannot go on from here. Start a new run with a lower optim.lr, and "
            "look at the scale of the columns of X_train."
        )
    return predicted


@torch.no_grad()
def _measured(model: Mlp, batch: Batch) -> tuple[float, float]:
    predicted = _finite(model(batch.x))
    loss = binary_cross_entropy(predicted, batch.y)
    return loss.item(), (predicted.round() == batch.y).float().mean().item()
