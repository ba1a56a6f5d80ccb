"""Predict perturbed sets from control sets: which loss on which output, and what is logged.

Names of logged values. `train/` is the mean over the micro-steps of a logged step, `val/` over all validation sets.

    loss_embedding   distance of predicted and observed sets in the input representation, where that is an `obsm` key
    loss_genes       the same over genes: of the gene decoder, or of the model itself where genes are its input
    loss_total       what is minimised: loss_embedding + decoder_weight x loss_genes (+ the shift penalty)
    ..._floor        the value that "no change" (the controls themselves) gets on the same sets
    energy_..._unbiased  the energy distance without self-pairs: 0 for two samples of one distribution (val only)
"""

import logging
import time
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from training.cells import CellSetBatch, RunLength
from training.checkpoints.model_file import CARD, ModelCard
from training.config import OptimConfig, PerturbationConfig
from training.errors import RunError
from training.losses.energy import energy_distance_unbiased
from training.losses.set_loss import set_loss
from training.models.state_transition import Prediction, StateTransition
from training.objectives.data_wait import DataWait
from training.optim.param_groups import build_optimizer
from training.optim.schedule import lr_multiplier

log = logging.getLogger(__name__)


class Perturbation(L.LightningModule):
    """The transition model with its set loss; `seed` makes dropout a function of (seed, micro-step, rank)."""

    def __init__(
        self,
        model: StateTransition,
        card: ModelCard,
        config: PerturbationConfig,
        optim: OptimConfig,
        length: RunLength,
        *,
        seed: int,
    ) -> None:
        super().__init__()
        self.model, self.card = model, card
        self.config, self.optim, self.length, self.seed = config, optim, length, seed
        own_output_is_genes = card.input_is_genes and card.sizes.num_decoder_genes is None
        self.input_head = "genes" if own_output_is_genes else "embedding"
        self.set_loss = set_loss(config)
        self.data_wait = DataWait()
        """The trainer's profiler."""
        self.gradient_norm = torch.tensor(float("nan"))
        self._train, self._val = Means(), Means()
        self._lr_used: dict[str, float] = {}
        self._cells, self._since, self._paused = 0, 0.0, 0.0
        self.validated: dict[str, float] = {}
        """Values of the latest validation, by logged name."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let a checkpoint say what its weights are."""
        checkpoint[CARD] = self.card.to_plain()

    def on_train_start(self) -> None:
        """Start the clock of `train/cells_per_second`, and take the learning rate of this step in a run of this length.

        A checkpoint brings the rate that its step had in the length of then.
        """
        multiplier = lr_multiplier(self.trainer.global_step, self.length.total_steps, self.optim)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = group["initial_lr"] * multiplier
        self._cells, self._since, self._paused = 0, time.perf_counter(), 0.0

    def on_validation_start(self) -> None:
        """Stop the clock."""
        self._paused -= time.perf_counter()

    def on_validation_end(self) -> None:
        """Let the clock go on."""
        self._paused += time.perf_counter()

    def on_train_batch_start(self, batch: CellSetBatch, batch_idx: int) -> None:
        """Tie dropout to the position in the run, so that an interruption cannot change it."""
        torch.manual_seed(int(np.random.SeedSequence([self.seed, batch_idx, self.global_rank]).generate_state(1)[0]))

    def training_step(self, batch: CellSetBatch, batch_idx: int) -> Tensor:
        """Loss of one micro-step, averaged over its sets."""
        self._cells += batch.num_cells
        prediction = self._predict(batch)
        heads = self._heads(prediction, batch)
        penalty = (prediction.cells - batch.control).abs().mean() if self.config.shift_penalty else None
        total = self._total(heads, penalty)
        self._train.add({"loss_total": total.detach(), **{f"loss_{name}": loss.detach() for name, loss in heads.items()}})
        if self.length.is_logged(batch_idx):
            self._train.add(self._floors(batch))
        return total

    def validation_step(self, batch: CellSetBatch, batch_idx: int) -> None:
        """Losses, floors and unbiased energy distances of fixed sets."""
        prediction = self._predict(batch)
        heads = self._heads(prediction, batch)
        penalty = (prediction.cells - batch.control).abs().mean() if self.config.shift_penalty else None
        values = {"loss_total": self._total(heads, penalty), **{f"loss_{name}": loss for name, loss in heads.items()}}
        for name, (predicted, control, target) in self._pairs(prediction, batch).items():
            values[f"energy_{name}_unbiased"] = energy_distance_unbiased(predicted, target).mean()
            values[f"energy_{name}_unbiased_floor"] = energy_distance_unbiased(control, target).mean()
        self._val.add(values | self._floors(batch), weight=batch.control.shape[0])

    def on_validation_epoch_end(self) -> None:
        """Publish the validation: to the loggers, to the checkpoints, and to whoever reads `validated`."""
        self.validated = self._finite(self._val.take("val/"))
        self.log("val/loss_total", self.validated["val/loss_total"], logger=False, prog_bar=True)
        self._write(self.validated)

    def on_train_batch_end(self, outputs: Any, batch: CellSetBatch, batch_idx: int) -> None:
        """Log at the last micro-step of every `log_every_steps`-th step."""
        if (batch_idx + 1) % self.length.accumulate_micro_steps:
            return
        if not self.length.is_logged(batch_idx):
            self._train.clear()
            return
        norm = {"train/gradient_norm": float(self.gradient_norm)}
        values = self._finite(self._train.take("train/") | norm)
        for group in self.trainer.optimizers[0].param_groups:
            values[f"lr/{group['name']}"] = self._lr_used[group["name"]]
        self.log("train/loss_total", values["train/loss_total"], logger=False, prog_bar=True)
        values |= self._speed()
        self._write(values)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip by the L2 norm of all gradients, and keep the norm before clipping for the log."""
        self._lr_used = {
            group["name"]: float(group["lr"]) for group in optimizer.param_groups
        }  # the scheduler moves on at step's end
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
        speed = {"train/cells_per_second": self._cells / seconds, "train/data_wait_fraction": min(1.0, waited / seconds)}
        self._cells, self._since, self._paused = 0, time.perf_counter(), 0.0
        return speed

    def _predict(self, batch: CellSetBatch) -> Prediction:
        prediction: Prediction = self.model(
            batch.control, batch.perturbation, batch.gem_group, detach_decoder=self.config.detach_decoder
        )
        return prediction

    def _pairs(self, prediction: Prediction, batch: CellSetBatch) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """Head -> (predicted, control, target), for the heads whose controls are at hand."""
        pairs = {self.input_head: (prediction.cells, batch.control, batch.target)}
        if prediction.genes is not None and batch.control_genes is not None and batch.target_genes is not None:
            pairs["genes"] = (prediction.genes, batch.control_genes, batch.target_genes)
        return pairs

    def _heads(self, prediction: Prediction, batch: CellSetBatch) -> dict[str, Tensor]:
        heads = {self.input_head: self.set_loss(prediction.cells, batch.target).mean()}
        if prediction.genes is not None:
            assert batch.target_genes is not None
            heads["genes"] = self.set_loss(prediction.genes, batch.target_genes).mean()
        return heads

    def _total(self, heads: dict[str, Tensor], penalty: Tensor | None) -> Tensor:
        total = heads[self.input_head]
        if len(heads) == 2:
            total = total + self.config.decoder_weight * heads["genes"]
        return total if penalty is None else total + self.config.shift_penalty * penalty

    @torch.no_grad()
    def _floors(self, batch: CellSetBatch) -> dict[str, Tensor]:
        heads = {self.input_head: self.set_loss(batch.control, batch.target).mean()}
        if batch.control_genes is not None and batch.target_genes is not None:
            heads["genes"] = self.set_loss(batch.control_genes, batch.target_genes).mean()
        floors = {"loss_total_floor": self._total(heads, None)}
        return floors | {f"loss_{name}_floor": loss for name, loss in heads.items()}

    def _finite(self, values: dict[str, float]) -> dict[str, float]:
        for name, value in values.items():
            if not np.isfinite(value):
                raise RunError(
                    f"step {self.trainer.global_step}: {name} is {value}; training cannot go on from here. Start a new run with a "
                    "lower optim.lr or optim.gradient_clip_norm; the checkpoints that are there have finite weights."
                )
        return values

    def _write(self, values: dict[str, float]) -> None:
        step = self.trainer.global_step
        log.info("step %d/%d  %s", step, self.length.total_steps, _line(values))
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step)


def _line(values: dict[str, float]) -> str:
    """Logged values for people: `val  total 0.21 (no change 0.25)  genes ...`."""
    stage = "val" if "val/loss_total" in values else "train"
    words = []
    for head in ("total", "embedding", "genes"):
        if (name := f"{stage}/loss_{head}") in values:
            words.append(f"{head} {values[name]:.5g} (no change {values[f'{name}_floor']:.5g})")
    if stage == "train":
        speed, waiting = values["train/cells_per_second"], values["train/data_wait_fraction"]
        words.append(f"{speed:,.0f} cells/s, {waiting:.0%} of the time waiting for data")
    return f"{stage:<5}  " + "  ".join(words)


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
