"""Before a run: what its settings come to on its data, and the objects that follow from both."""

import torch

from training.cells import RunLength
from training.checkpoints.model_file import ModelCard
from training.config import RunConfig
from training.data.assemble import Cells
from training.data.datamodule import CellSetsDataModule
from training.errors import UserError
from training.objectives.perturbation import Perturbation
from training.text import some


def length_of(config: RunConfig, cells: Cells) -> RunLength:
    """The run's length in optimizer steps; an epoch is rounded up to whole steps."""
    accumulate = config.trainer.accumulate_micro_steps
    batches = cells.plan(config.data.batch_size).batches_per_epoch
    total = config.trainer.max_steps or -(-batches * (config.trainer.max_epochs or 1) // accumulate)
    return RunLength(total, accumulate, config.trainer.log_every_steps)


def build_objective(config: RunConfig, cells: Cells, length: RunLength) -> Perturbation:
    """The untrained model with its loss and optimizer; its weights are a function of the seed."""
    card = card_of(config, cells)
    torch.manual_seed(config.seed)
    return Perturbation(card.build(), card, config.objective, config.optim, length, seed=config.seed)


def card_of(config: RunConfig, cells: Cells) -> ModelCard:
    """What the model of this run is, without weights."""
    return ModelCard(
        config=config.model,
        sizes=cells.sizes,
        output_space=config.data.output_space,
        input_is_genes=config.data.input_is_genes,
        embed_key=config.data.embed_key,
        input_names=cells.input_names,
        judged_names=cells.judged_names,
        perturbation_names=cells.features.names,
        perturbation_vectors=torch.from_numpy(cells.features.vectors),
        gem_group_names=cells.gem_group_names,
        trained_conditions=tuple(sorted({(c.cell_type, c.perturbation) for c in cells.trained_on})),
        set_aside=cells.set_aside,
    )


def plan_text(config: RunConfig, cells: Cells) -> str:
    """What the settings come to on these data."""
    length = length_of(config, cells)
    batches = cells.plan(config.data.batch_size).batches_per_epoch
    per_micro_step = config.data.batch_size * config.model.set_size
    with torch.device("meta"):
        model = card_of(config, cells).build()
    parameters = sum(p.numel() for p in model.parameters())
    decoder = 0 if model.gene_decoder is None else sum(p.numel() for p in model.gene_decoder.parameters())
    rows = [
        ("cells per micro-step", f"{per_micro_step:,} (at most: {config.data.batch_size} sets of {config.model.set_size})"),
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
    return "Plan\n" + "\n".join(f"  {name:<21}{value}" for name, value in rows)


def one_pass(config: RunConfig, cells: Cells) -> str:
    """One forward and backward pass on the CPU, in 32 bit, over the first batch: its loss and the memory of a step.

    Raises: UserError if a weight gets no gradient.
    """
    length = length_of(config, cells)
    module = build_objective(config, cells, length)
    batch = CellSetsDataModule(cells, config.data, length).first_batch()
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = module.training_step(batch, 0)
    loss.backward()  # type: ignore[no-untyped-call]
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


def _in_flight(config: RunConfig, cells: Cells) -> str:
    """Host memory of the batches that workers keep ready; controls' genes travel with logged steps only."""
    data, sizes = config.data, cells.sizes
    per_cell = 4 * (2 * sizes.input_dim + (sizes.num_decoder_genes or 0))
    batch = data.batch_size * (config.model.set_size * per_cell + 4 * sizes.perturbation_dim)
    number = max(1, data.num_workers * data.prefetch_batches)
    return f"up to {mebibytes(number * batch)} of host memory ({number} x {mebibytes(batch)})"


def mebibytes(size: int) -> str:
    """A size in bytes as text."""
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"
