"""The perturbation task: sets of perturbed cells are predicted from sets of controls."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch

from training.cells import CellSetBatch, RunLength
from training.config import RunConfig
from training.data.perturbations import write_perturbed_genes
from training.models.state_transition import StateTransition
from training.plan import Prepared, mebibytes
from training.reporting.curves import Panel
from training.tasks.perturbation import page, trained
from training.tasks.perturbation.batches import CellSetsDataModule
from training.tasks.perturbation.cells import Cells, open_cells, perturbations_of
from training.tasks.perturbation.objective import Perturbation
from training.tasks.perturbation.spec import PerturbationSpec
from training.tasks.task import Task


class PerturbationTask(Task[RunConfig, Cells]):
    """Predict perturbed sets from control sets."""

    name = "perturbation"
    panels = (
        Panel("Loss, embedding head", ("*/loss_embedding", "*/loss_embedding_floor")),
        Panel("Loss, gene head", ("*/loss_genes", "*/loss_genes_floor")),
        Panel("Loss, total: what is minimised", ("*/loss_total", "*/loss_total_floor")),
        Panel("Unbiased energy distance, validation", ("val/energy_*_unbiased", "val/energy_*_unbiased_floor"), False),
        Panel("Learning rate", ("lr/*",), False),
        Panel("Norm of the gradient, before clipping", ("train/gradient_norm",)),
    )

    def open(self, config: RunConfig) -> Cells:
        """The cells of the split file. Raises: UserError for data that cannot be trained on."""
        cells = open_cells(config.data, config.data.set_size, config.seed, config.evaluation)
        cells.check_trainable()
        return cells

    def fingerprint(self, data: Cells) -> str:
        """Of the files' content, the split and the perturbation vectors."""
        return data.fingerprint

    def summary(self, data: Cells) -> str:
        """Cells per split."""
        return data.summary()

    def record(self, data: Cells) -> dict[str, Any]:
        """The report of cells, sets and leaks per split."""
        return asdict(data.report)

    def length(self, config: RunConfig, data: Cells) -> RunLength:
        """The run's length in optimizer steps; an epoch is rounded up to whole steps."""
        accumulate = config.trainer.accumulate_micro_steps
        batches = data.plan(config.data.batch_size).batches_per_epoch
        total = config.trainer.max_steps or -(-batches * (config.trainer.max_epochs or 1) // accumulate)
        return RunLength(total, accumulate, config.trainer.log_every_steps)

    def spec(self, config: RunConfig, data: Cells) -> PerturbationSpec:
        """Sizes and names of these data, and the model's settings."""
        return PerturbationSpec(
            config=config.model,
            set_size=config.data.set_size,
            sizes=data.sizes,
            output_space=config.data.output_space,
            input_is_genes=config.data.input_is_genes,
            embed_key=config.data.embed_key,
            input_names=data.input_names,
            judged_names=data.judged_names,
            perturbation_names=data.features.names,
            perturbation_vectors=torch.from_numpy(data.features.vectors),
            gem_group_names=data.gem_group_names,
            trained_conditions=tuple(sorted({(c.cell_type, c.perturbation) for c in data.trained_on})),
            set_aside=data.set_aside,
        )

    def plan(self, prepared: Prepared[RunConfig, Cells]) -> Sequence[tuple[str, str]]:
        """Cells per step, epochs, widths, parameters and memory."""
        config, cells, length = prepared.config, prepared.data, prepared.length
        batches = cells.plan(config.data.batch_size).batches_per_epoch
        per_micro_step = config.data.batch_size * config.data.set_size
        with torch.device("meta"):
            model = _built(prepared)
        parameters = sum(p.numel() for p in model.parameters())
        decoder = 0 if model.gene_decoder is None else sum(p.numel() for p in model.gene_decoder.parameters())
        return [
            ("cells per micro-step", f"{per_micro_step:,} (at most: {config.data.batch_size} sets of {config.data.set_size})"),
            ("effective batch", f"{per_micro_step * length.accumulate_micro_steps:,} cells per optimizer step"),
            ("steps per epoch", f"{batches / length.accumulate_micro_steps:,.1f}"),
            ("steps", f"{length.total_steps:,} ({length.total_steps * length.accumulate_micro_steps / batches:,.2f} epochs)"),
            ("input and output", f"{cells.sizes.input_dim:,} columns of {config.data.embed_key or 'X'}"),
            ("decoder", f"{cells.sizes.num_decoder_genes:,} genes" if cells.sizes.num_decoder_genes else "none"),
            ("perturbation vector", f"{cells.sizes.perturbation_dim:,} columns"),
            ("parameters", f"{parameters:,}" + (f", {decoder:,} of them in the gene decoder" if decoder else "")),
            ("checkpoint", f"{mebibytes(12 * parameters)} (weights and the two moments of AdamW)"),
            ("batches in flight", _in_flight(config, cells)),
        ]

    def objective(self, prepared: Prepared[RunConfig, Cells]) -> Perturbation:
        """The untrained model with its set loss."""
        config = prepared.config
        torch.manual_seed(config.seed)
        spec = cast(PerturbationSpec, prepared.spec)
        return Perturbation(_built(prepared), spec, config.objective, config.optim, prepared.length, seed=config.seed)

    def batches(self, prepared: Prepared[RunConfig, Cells], start_step: int) -> CellSetsDataModule:
        """Sets of cells."""
        pin = prepared.device == "gpu"
        return CellSetsDataModule(prepared.data, prepared.config.data, prepared.length, start_step=start_step, pin_memory=pin)

    def first_batch(self, prepared: Prepared[RunConfig, Cells]) -> CellSetBatch:
        """The first training batch."""
        return CellSetsDataModule(prepared.data, prepared.config.data, prepared.length).first_batch()

    def validates(self, config: RunConfig) -> bool:
        """Unless `data.validation` is none."""
        return config.data.validation != "none"

    def sections(self, run: Path) -> Sequence[tuple[str, str]]:
        """Metrics and conditions."""
        return page.sections(run)

    def check_first(self, config: RunConfig, write_features: Path) -> None:
        """Write a file of which genes each perturbation of the data names."""
        write_perturbed_genes(write_features, perturbations_of(config.data), config.data.control, config.data.separator)

    def predict(
        self, run: Path, overrides: list[str], output: Path, split: str | None, table: Path | None, which: str | None
    ) -> None:
        """Write predicted cells of a split's conditions, or of the rows of a table."""
        trained.predict(run, overrides, output, split, table, which)

    def evaluate(self, run: Path, overrides: list[str], split: str | None, which: str | None) -> str:
        """Judge the model beside the baselines on the cells of a split. Returns: the verdict."""
        return trained.evaluate(run, overrides, split, which)


def _built(prepared: Prepared[RunConfig, Cells]) -> StateTransition:
    return cast(PerturbationSpec, prepared.spec).build()


def _in_flight(config: RunConfig, cells: Cells) -> str:
    """Host memory of the batches that workers keep ready; controls' genes travel with logged steps only."""
    data, sizes = config.data, cells.sizes
    per_cell = 4 * (2 * sizes.input_dim + (sizes.num_decoder_genes or 0))
    batch = data.batch_size * (config.data.set_size * per_cell + 4 * sizes.perturbation_dim)
    number = max(1, data.num_workers * data.prefetch_batches)
    return f"up to {mebibytes(number * batch)} of host memory ({number} x {mebibytes(batch)})"


TASK = PerturbationTask()
