"""Predictors against the real cells of a split: one row for each condition, predictor and metric.

For every condition each predictor starts from the same drawn control cells and is judged against the same real cells, in the
judged representation of the run. Beside them stands the ceiling: one half of the real cells as a "prediction" of the other.
Predicted and real shifts are measured from different halves of the real controls (README: why).
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from training.cells import Condition, ControlCells, FloatArray, IntArray, Predictor, Split
from training.data.assemble import Cells
from training.evaluation import metrics
from training.evaluation.draws import control_halves, drawn, mean_cell
from training.evaluation.metrics import METRICS
from training.refusal import Refused

log = logging.getLogger(__name__)

CEILING = "ceiling"
MAX_CELLS = 500
"""Cells of a condition that are predicted and compared, at most: the energy distance costs their square (README)."""
NO_ANSWER = (float("nan"),) * len(METRICS)

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """One figure: a metric of a predictor for a condition; `n_cells` real cells were compared."""

    condition: Condition
    predictor: str
    metric: str
    value: float
    n_cells: int


def evaluate(cells: Cells, split: Split, predictors: Sequence[Predictor], max_cells: int = MAX_CELLS) -> list[Score]:
    """Judge predictors on every condition of a split.

    A value is NaN where a predictor has no answer (as the ceiling has none below four cells), and where a metric is undefined: a
    discrimination score where a cell type has a single perturbation, an energy distance of a single cell. In memory are the
    directions of one cell type's real shifts (float32) and the cells of one condition.

    Raises: Refused if the split has no perturbed cells.
    """
    conditions = cells.conditions(split)
    if not conditions:
        having = [name for name in ("train", "val", "test") if cells.conditions(name)]
        raise Refused(f"{cells.config.split}: no perturbed cells are in split {split} (splits with some: {', '.join(having)})")
    log.info("evaluate: %d conditions of split %s, %d predictors", len(conditions), split, len(predictors))
    scores: list[Score] = []
    for context, group in groupby(conditions, key=lambda condition: (condition.dataset, condition.cell_type)):
        judge = _ContextJudge(cells, split, list(group), max_cells)
        for row in range(len(judge.conditions)):
            scores += judge.scores(row, predictors)
        log.info("evaluate: %s of %s: %d conditions done", context[1], context[0], len(judge.conditions))
    return scores


class _ContextJudge:
    """Judges the conditions of one cell type of one data set, which share their controls."""

    def __init__(self, cells: Cells, split: Split, conditions: list[Condition], max_cells: int) -> None:
        self.conditions = conditions
        self._cells, self._split, self._max_cells = cells, split, max_cells
        controls = cells.controls_of(conditions[0])
        self._start, reference = control_halves(controls, seed=cells.seed, condition=conditions[0])
        self._start_mean = mean_cell(cells.reader, cells.judged, self._start)
        self._reference_mean = mean_cell(cells.reader, cells.judged, reference)
        self._directions = np.empty((len(conditions), len(self._reference_mean)), np.float32)
        for row, condition in enumerate(conditions):
            real_shift = mean_cell(cells.reader, cells.judged, self._real_cells(condition)) - self._reference_mean
            self._directions[row] = metrics.directions(real_shift[None])[0]

    def scores(self, row: int, predictors: Sequence[Predictor]) -> Iterator[Score]:
        """All figures of the condition in a row."""
        condition = self.conditions[row]
        real = self._cells.reader.read(self._cells.judged, self._real_cells(condition))
        controls = self._control_cells(condition, len(real))
        start = controls.judged.mean(axis=0, dtype=np.float64)
        within = metrics.mean_distance_within(real)
        for predictor in predictors:
            predicted = predictor.predict(condition, controls)
            figures = NO_ANSWER if predicted is None else self._figures(predicted, start, real, within, row)
            yield from _rows(condition, predictor.name, figures, len(real))
        yield from _rows(condition, CEILING, self._ceiling(real, row) if len(real) >= 4 else NO_ANSWER, len(real))

    def _ceiling(self, real: FloatArray, row: int) -> tuple[float, ...]:
        """Figures of one half of the real cells, with its own controls, as a prediction of the other half."""
        one, other = real[::2], real[1::2]
        return self._figures(one, self._start_mean, other, metrics.mean_distance_within(other), row)

    def _figures(
        self, predicted: FloatArray, start: Float64Array, real: FloatArray, within_real: float, row: int
    ) -> tuple[float, ...]:
        """The figures of one prediction, in the order of `METRICS`; its shift counts from `start`."""
        mean, real_mean = predicted.mean(axis=0, dtype=np.float64), real.mean(axis=0, dtype=np.float64)
        shift, real_shift = mean - start, real_mean - self._reference_mean
        return (
            metrics.energy_distance_unbiased(predicted, real, within_real),
            metrics.pearson(shift, real_shift),
            metrics.cosine(shift, real_shift),
            metrics.mae(mean, real_mean),
            metrics.norm_ratio(shift, real_shift),
            metrics.discrimination_score_cosine(shift, real_shift, self._directions, row),
        )

    def _real_cells(self, condition: Condition) -> IntArray:
        population = self._cells.cells_of(condition, self._split)
        n = min(len(population), self._max_cells)
        return drawn(population, n, seed=self._cells.seed, purpose="real cells", condition=condition)

    def _control_cells(self, condition: Condition, n_real: int) -> ControlCells:
        # Never more than there are: a cell drawn twice would be a pair at distance 0 in the energy distance.
        n = min(n_real, len(self._start))
        chosen = drawn(self._start, n, seed=self._cells.seed, purpose="controls", condition=condition)
        values = self._cells.reader.read("input", chosen)
        judged = values if self._cells.judged == "input" else self._cells.reader.read(self._cells.judged, chosen)
        return ControlCells(values, judged, gem_groups_of(self._cells, chosen))


def gem_groups_of(cells: Cells, chosen: IntArray) -> IntArray | None:
    """Codes of the cells' GEM groups, where the run names that column."""
    return None if cells.table.gem_group is None else cells.table.gem_group.codes[chosen].astype(np.int64)


def _rows(condition: Condition, predictor: str, figures: tuple[float, ...], n_cells: int) -> Iterator[Score]:
    for metric, value in zip(METRICS, figures, strict=True):
        yield Score(condition, predictor, metric.name, value, n_cells)
