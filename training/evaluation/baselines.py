"""What a model has to beat: predictors that add a mean shift of training cells to the control cells."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import groupby

import numpy as np

from training.cells import Condition, ControlCells, FloatArray, Predictor
from training.data.assemble import Cells
from training.evaluation.draws import control_halves, mean_cell

log = logging.getLogger(__name__)

SEPARATOR = "+"
"""Joins the parts of a combination, as in `KLF1+TGFBR2`."""

Shifts = Mapping[Condition, FloatArray]
"""Training condition -> mean of its cells minus mean of controls, (J,) in the judged representation."""

Context = tuple[str, str]
"""Data set and cell type."""


class NoChange:
    """The control cells themselves."""

    name = "no_change"

    def predict(self, condition: Condition, controls: ControlCells) -> FloatArray:
        """The controls.

        Shape: controls of N cells -> (N, J).
        """
        return controls.judged


class MeanShiftPerCellType:
    """Controls plus the mean shift of the cell type's training perturbations.

    Where none was trained in the cell type, the mean over all training conditions. Every condition counts once.
    """

    name = "mean_shift_per_cell_type"

    def __init__(self, shifts: Shifts) -> None:
        by_context: dict[Context, list[FloatArray]] = defaultdict(list)
        for condition, shift in shifts.items():
            by_context[_context(condition)].append(shift)
        self._by_context = {context: _mean(found) for context, found in by_context.items()}
        self._overall = _mean(shifts.values()) if shifts else None

    def predict(self, condition: Condition, controls: ControlCells) -> FloatArray | None:
        """Shifted controls; None where nothing was trained at all.

        Shape: controls of N cells -> (N, J).
        """
        return _shifted(controls, self._by_context.get(_context(condition), self._overall))


class MeanShiftPerPerturbation:
    """Controls plus the mean shift that the perturbation has in the other cell types and data sets of the training cells."""

    name = "mean_shift_per_perturbation"

    def __init__(self, shifts: Shifts) -> None:
        self._by_perturbation: dict[str, dict[Context, FloatArray]] = defaultdict(dict)
        for condition, shift in shifts.items():
            self._by_perturbation[condition.perturbation][_context(condition)] = shift

    def predict(self, condition: Condition, controls: ControlCells) -> FloatArray | None:
        """Shifted controls; None where the perturbation was trained nowhere else.

        Shape: controls of N cells -> (N, J).
        """
        contexts = self._by_perturbation.get(condition.perturbation, {})
        elsewhere = [shift for context, shift in contexts.items() if context != _context(condition)]
        return _shifted(controls, _mean(elsewhere) if elsewhere else None)


class Additive:
    """For a combination such as `A+B`: controls plus the sum of the shifts of `A` and `B` in the same cell type.

    Parts equal to the control's label count for nothing, so `A+control` is `A`.
    """

    name = "additive"

    def __init__(self, shifts: Shifts, control: str) -> None:
        self._control = control
        self._singles: dict[tuple[Context, str], FloatArray] = {}
        for condition, shift in shifts.items():
            parts = self._parts(condition.perturbation)
            if len(parts) == 1:
                self._singles[_context(condition), parts[0]] = shift

    def predict(self, condition: Condition, controls: ControlCells) -> FloatArray | None:
        """Shifted controls; None for anything but a combination whose parts were all trained alone in the cell type.

        Shape: controls of N cells -> (N, J).
        """
        parts = self._parts(condition.perturbation)
        shifts = [self._singles.get((_context(condition), part)) for part in parts]
        known = [shift for shift in shifts if shift is not None]
        is_answered = len(parts) >= 2 and len(known) == len(parts)
        return _shifted(controls, np.sum(known, axis=0) if is_answered else None)

    def _parts(self, label: str) -> list[str]:
        return [part for part in label.split(SEPARATOR) if part != self._control]


def fit_baselines(cells: Cells) -> list[Predictor]:
    """All baselines, from the training cells and their controls alone.

    Cells are read block by block; what stays in memory is one shift of 4 J bytes for each training condition.
    """
    shifts = training_shifts(cells)
    return [NoChange(), MeanShiftPerCellType(shifts), MeanShiftPerPerturbation(shifts), Additive(shifts, cells.table.control)]


def training_shifts(cells: Cells) -> dict[Condition, FloatArray]:
    """Mean shift of every training condition, from the half of the controls that nothing is judged by."""
    conditions = cells.conditions("train")
    log.info("baselines: mean shifts of %d training conditions", len(conditions))
    shifts: dict[Condition, FloatArray] = {}
    for _, group in groupby(conditions, key=_context):
        members = list(group)
        start, _ = control_halves(cells.controls_of(members[0]), seed=cells.seed, condition=members[0])
        control_mean = mean_cell(cells.reader, cells.judged, start)
        for condition in members:
            cell_mean = mean_cell(cells.reader, cells.judged, cells.cells_of(condition, "train"))
            shifts[condition] = (cell_mean - control_mean).astype(np.float32)
    return shifts


def _context(condition: Condition) -> Context:
    return condition.dataset, condition.cell_type


def _mean(shifts: Iterable[FloatArray]) -> FloatArray:
    total, n = np.zeros(()), 0
    for shift in shifts:  # one running sum: stacked, all training conditions would be in memory once more
        total, n = total + shift, n + 1
    return np.asarray(total / n, np.float32)


def _shifted(controls: ControlCells, shift: FloatArray | None) -> FloatArray | None:
    return None if shift is None else controls.judged + shift
