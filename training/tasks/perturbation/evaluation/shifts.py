"""Mean shifts of the training conditions: all that a baseline knows."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
import numpy.typing as npt

from training.cells import Condition, FloatArray
from training.tasks.perturbation.cells import Cells
from training.tasks.perturbation.evaluation.draws import mean_cell

Context = tuple[str, str]
"""Data set and cell type: what shares controls."""


def context_of(condition: Condition) -> Context:
    """Data set and cell type of a condition."""
    return condition.dataset, condition.cell_type


@dataclass(frozen=True)
class TrainingShifts:
    """Mean of a training condition's cells minus mean of the training controls of its cell type, in the judged representation.

    Shape: values (conditions, J), in the order of `conditions`.
    """

    conditions: tuple[Condition, ...]
    values: FloatArray

    @cached_property
    def row(self) -> dict[Condition, int]:
        """Row of a condition in `values`."""
        return {condition: row for row, condition in enumerate(self.conditions)}

    @cached_property
    def rows_of(self) -> dict[Context, npt.NDArray[np.int64]]:
        """Rows of a cell type."""
        rows: dict[Context, list[int]] = {}
        for row, condition in enumerate(self.conditions):
            rows.setdefault(context_of(condition), []).append(row)
        return {context: np.array(own) for context, own in rows.items()}

    def mean(self) -> FloatArray | None:
        """Mean shift of all conditions, each of which counts once; None of none. Shape: (J,)."""
        return self.mean_of(np.arange(len(self.conditions))) if self.conditions else None

    def mean_of(self, rows: npt.NDArray[np.int64]) -> FloatArray:
        """Mean of some rows; as a product, so that they are not copied.

        Shape: rows (n,), n > 0 -> (J,).
        """
        weights = np.zeros(len(self.conditions), np.float32)
        weights[rows] = 1 / len(rows)
        return np.asarray(weights @ self.values, np.float32)


def training_shifts(cells: Cells) -> TrainingShifts:
    """Shifts of every training condition, from all of its cells and all training controls of its cell type.

    Controls that are set aside to measure with are not among them: neither shifts nor starting cells share cells with the judge.
    """
    conditions = cells.conditions("train")
    return TrainingShifts(conditions, np.stack([*_shifts(cells, conditions)]) if conditions else np.zeros((0, 0), np.float32))


def _shifts(cells: Cells, conditions: tuple[Condition, ...]) -> Iterator[FloatArray]:
    for _, group in groupby(conditions, key=context_of):
        members = list(group)
        control = mean_cell(cells.reader, cells.judged, cells.controls_of(members[0]))
        for condition in members:
            mean = mean_cell(cells.reader, cells.judged, cells.cells_of(condition, "train"))
            yield np.asarray(mean - control, np.float32)
