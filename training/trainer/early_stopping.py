"""Ends a run whose validation no longer improves, and remembers the weights of its best validation."""

import logging
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from training.config import EarlyStoppingConfig

log = logging.getLogger(__name__)


class EarlyStopping(Callback):
    """Counts validations without an improvement of more than `min_delta`, and ends the run at the `patience`-th.

    All of its state is in each checkpoint, so that a resumed run ends where it would have ended. It must stand before what saves
    checkpoints in the list of callbacks, or they have its state of the validation before.

    Args:
        config: When to end.
        monitored: Name of the logged value; lower is better.
        keeps_weights: Whether it remembers the weights of the best validation, where the best checkpoint is not what is wanted.
    """

    def __init__(self, config: EarlyStoppingConfig, monitored: str, *, keeps_weights: bool = False) -> None:
        self.config, self.monitored, self.keeps_weights = config, monitored, keeps_weights
        self.best_value, self.best_step = float("inf"), 0
        self.n_without_improvement = 0
        """Validations since the best."""
        self.weights: dict[str, Tensor] | None = None
        """Of the module at its best validation, on the CPU; None where they are not kept."""

    @property
    def ends(self) -> bool:
        """Whether patience has run out."""
        return self.config.patience is not None and self.n_without_improvement >= self.config.patience

    @property
    def improved(self) -> bool:
        """Whether the latest validation is the best."""
        return self.n_without_improvement == 0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """End a run at once that goes on from the checkpoint of its end."""
        trainer.should_stop = trainer.should_stop or self.ends

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Compare with the best."""
        if trainer.sanity_checking:
            return
        value = float(trainer.callback_metrics[self.monitored])
        if self.best_value - value > self.config.min_delta:
            self.best_value, self.best_step, self.n_without_improvement = value, trainer.global_step, 0
            if self.keeps_weights:
                self.weights = {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}
            return
        self.n_without_improvement += 1
        if self.ends:
            trainer.should_stop = True
            log.info(
                "step %d: %s has not improved by more than %g for %d validations (best: %.6g at step %d); the run ends",
                *(trainer.global_step, self.monitored, self.config.min_delta),
                *(self.n_without_improvement, self.best_value, self.best_step),
            )

    def restore(self, module: L.LightningModule) -> None:
        """Give the module the weights of its best validation, if they were kept and there was one."""
        if self.keeps_weights and self.weights is not None:
            module.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """Numbers and tensors, for the checkpoint."""
        return {
            "best_value": self.best_value, "best_step": self.best_step, "n_without_improvement": self.n_without_improvement,
            "weights": self.weights,
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As a checkpoint has it."""
        self.best_value, self.best_step = float(state_dict["best_value"]), int(state_dict["best_step"])
        self.n_without_improvement, self.weights = int(state_dict["n_without_improvement"]), state_dict["weights"]
