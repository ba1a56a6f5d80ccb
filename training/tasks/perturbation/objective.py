"""Predict perturbed sets from control sets: which loss on which output, and what is logged.

Names of logged values. `train/` is the mean over the micro-steps of a logged step, `val/` over all validation sets.

    loss_embedding   distance of predicted and observed sets in the input representation, where that is an `obsm` key
    loss_genes       the same over genes: of the gene decoder, or of the model itself where genes are its input
    loss_total       what is minimised: loss_embedding + decoder_weight x loss_genes (+ the shift penalty)
    ..._floor        the value that "no change" (the controls themselves) gets on the same sets
    energy_..._unbiased  the energy distance without self-pairs: 0 for two samples of one distribution (val only)
"""

import torch
from torch import Tensor

from training.cells import CellSetBatch, RunLength
from training.config import OptimConfig, PerturbationConfig
from training.losses.energy import energy_distance_unbiased
from training.losses.set_loss import set_loss
from training.models.state_transition import Prediction, StateTransition
from training.tasks.perturbation.spec import PerturbationSpec
from training.trainer.objective import Objective


class Perturbation(Objective):
    """The transition model with its set loss."""

    rate = "cells_per_second"

    def __init__(
        self,
        model: StateTransition,
        spec: PerturbationSpec,
        config: PerturbationConfig,
        optim: OptimConfig,
        length: RunLength,
        *,
        seed: int,
    ) -> None:
        super().__init__(model, spec, optim, length, seed=seed)
        self.config = config
        own_output_is_genes = spec.input_is_genes and spec.sizes.num_decoder_genes is None
        self.input_head = "genes" if own_output_is_genes else "embedding"
        self.set_loss = set_loss(config)

    def items_in(self, batch: CellSetBatch) -> int:
        """Perturbed cells."""
        return batch.num_cells

    def line(self, stage: str, values: dict[str, float]) -> str:
        """`val  total 0.21 (no change 0.25)  genes ...`."""
        words = []
        for head in ("total", "embedding", "genes"):
            if (name := f"{stage}/loss_{head}") in values:
                words.append(f"{head} {values[name]:.5g} (no change {values[f'{name}_floor']:.5g})")
        if stage == "train":
            speed, waiting = values["train/cells_per_second"], values["train/data_wait_fraction"]
            words.append(f"{speed:,.0f} cells/s, {waiting:.0%} of the time waiting for data")
        return f"{stage:<5}  " + "  ".join(words)

    def training_step(self, batch: CellSetBatch, batch_idx: int) -> Tensor:
        """Loss of one micro-step, averaged over its sets."""
        prediction = self._predict(batch)
        heads = self._heads(prediction, batch)
        penalty = (prediction.cells - batch.control).abs().mean() if self.config.shift_penalty else None
        total = self._total(heads, penalty)
        self.train_means.add({"loss_total": total.detach(), **{f"loss_{name}": loss.detach() for name, loss in heads.items()}})
        if self.length.is_logged(batch_idx):
            self.train_means.add(self._floors(batch))
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
        self.val_means.add(values | self._floors(batch), weight=batch.control.shape[0])

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
