"""The nouns that the rooms share, and the legend of shapes.

Letters in `Shape:` sections, everywhere below `training/`:

    B  sets in a batch                      S  cells in a set
    D  width of the input representation (genes of `X`, of `X_hvg`, or an embedding)
    G  genes of the gene decoder            P  width of a perturbation's vector
    H  width of the transformer             N  cells, where they are not arranged in sets
"""

from dataclasses import dataclass, fields
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

Split = Literal["train", "val", "test"]
Representation = Literal["input", "genes"]
"""`input`: what the model reads and writes (D wide). `genes`: what the gene decoder writes (G wide)."""


@dataclass(frozen=True)
class Sizes:
    """Widths that the data dictate to a model."""

    input_dim: int
    """D"""
    perturbation_dim: int
    """P"""
    num_decoder_genes: int | None
    """G, or None where the run has no gene decoder."""
    num_gem_groups: int
    """Known GEM groups; 0 where the run names no such column."""


@dataclass(frozen=True, order=True)
class Condition:
    """Cells that were treated alike: the unit that is predicted and judged."""

    dataset: str
    cell_type: str
    perturbation: str

    def __str__(self) -> str:
        """As people are told of it."""
        return f"{self.perturbation} in {self.dataset}.{self.cell_type}"


@dataclass(frozen=True)
class CellSet:
    """One set, as integers: indices into the table of cells, no values.

    Shape: cells (S,), controls (S,); `controls[i]` is an independent draw, not a partner of `cells[i]`.
    """

    cells: IntArray
    controls: IntArray


@dataclass(frozen=True)
class CellSetBatch:
    """Sets of equal size, as the model and the losses see them. Values are float32."""

    control: Tensor
    """(B, S, D) control cells."""
    target: Tensor
    """(B, S, D) perturbed cells."""
    perturbation: Tensor
    """(B, P) one vector a set."""
    gem_group: Tensor | None
    """(B, S) int64 codes of the perturbed cells' GEM groups, where the run names that column."""
    target_genes: Tensor | None
    """(B, S, G) genes of the perturbed cells, where the run has a gene decoder."""
    control_genes: Tensor | None
    """(B, S, G) genes of the controls, on batches whose "no change" floor is wanted."""

    def to(self, device: torch.device | str, non_blocking: bool = True) -> "CellSetBatch":
        """The same batch on `device`. Lightning calls this, and lets the host wait for the copy only with tensors of its own."""
        moved = {name: None if t is None else t.to(device, non_blocking=non_blocking) for name, t in self._tensors()}
        return CellSetBatch(**moved)  # type: ignore[arg-type]

    def pin_memory(self) -> "CellSetBatch":
        """The same batch in page-locked memory; the DataLoader calls this."""
        return CellSetBatch(**{name: None if t is None else t.pin_memory() for name, t in self._tensors()})  # type: ignore[arg-type]

    @property
    def num_cells(self) -> int:
        """Perturbed cells in the batch: B x S."""
        return self.target.shape[0] * self.target.shape[1]

    def _tensors(self) -> list[tuple[str, Tensor | None]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]


@dataclass(frozen=True)
class RunLength:
    """How long a run is and how it is cut. A micro-step is one batch; a step, one update of the weights."""

    total_steps: int
    accumulate_micro_steps: int
    """Micro-steps per step."""
    log_every_steps: int
    """Steps per logged value."""

    @property
    def total_micro_steps(self) -> int:
        """Batches of a rank in the whole run."""
        return self.total_steps * self.accumulate_micro_steps

    def is_logged(self, micro_step: int) -> bool:
        """Whether a micro-step (0 is the first) belongs to a step that is logged: every `log_every_steps`-th, and the last."""
        step = micro_step // self.accumulate_micro_steps + 1
        return step % self.log_every_steps == 0 or step == self.total_steps


class CellReader(Protocol):
    """Values of cells by their index in the table of cells; the one thing that touches the files."""

    def read(self, representation: Representation, cells: IntArray) -> FloatArray:
        """Values in the order asked for, repeated where an index repeats.

        Shape: cells (N,) -> (N, D) for `input`, (N, G) for `genes`.
        Raises: UserError if a value is NaN, infinite or (for genes) negative, naming file, row and column.
        """
        ...


@dataclass(frozen=True)
class ControlCells:
    """Control cells from which a predictor starts.

    Shape: input (N, D); judged (N, J), the representation that metrics compare; gem_group (N,) or None.
    """

    input: FloatArray
    judged: FloatArray
    gem_group: IntArray | None


class Predictor(Protocol):
    """Anything that predicts perturbed cells: the model, and the baselines that it has to beat."""

    name: str

    def predict(self, condition: Condition, controls: ControlCells) -> FloatArray | None:
        """Predicted cells, one for each control, in the judged representation; None where it has no answer.

        Shape: controls of N cells -> (N, J).
        """
        ...
