"""Predictors against the real cells of a split: one row for each condition, predictor and metric.

For every condition each predictor starts from the same drawn control cells and is judged against the same real cells, in the
judged representation of the run. All controls that take part were set aside from training (`data/set_aside.py`). They are halved
`DRAWS` times: predictions start from one half, real shifts are measured from the other. Beside the predictors stands the ceiling:
one half of the real cells as a prediction of the other. The seed is that of the evaluation, not that of the training.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite

import numpy as np
import numpy.typing as npt

from training.cells import Condition, ControlCells, FloatArray, IntArray, Predictor, Split
from training.data.assemble import Cells
from training.data.set_aside import LEAST_CELLS
from training.data.table import SPLITS
from training.errors import UserError
from training.evaluation import metrics
from training.evaluation.draws import control_halves, drawn, halves, mean_cell, mean_cells
from training.evaluation.metrics import METRICS, Metric
from training.evaluation.shifts import context_of
from training.text import some

log = logging.getLogger(__name__)

CEILING = "ceiling"
DRAWS = 10
"""Halvings of the controls and of the real cells over which a figure is averaged."""
MAX_CELLS = 500
"""Real cells of a condition that are compared, at most: the energy distance costs their number times that of the predicted ones."""
MAX_STARTS = 256
"""Control cells that a prediction starts from in one draw, at most."""
NO_ANSWER = (float("nan"),) * len(METRICS)

Figures = tuple[float, ...]
"""A value for each of `METRICS`."""
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """One figure: a metric of a predictor for a condition; `n_cells` real cells were compared."""

    condition: Condition
    predictor: str
    metric: str
    value: float
    """Mean over draws; of the ceiling's cosine and Pearson correlation what they would be with all cells on both sides."""
    n_cells: int
    draws: Figures = ()
    """The value in each draw."""


@dataclass(frozen=True)
class Measured:
    """What was judged, and with which controls."""

    scores: tuple[Score, ...]
    n_controls: dict[str, int]
    """`dataset.cell_type` -> controls that measure it. Below `LEAST_CELLS` the cell type is not judged, and its scores are NaN."""


def evaluate(cells: Cells, split: Split, predictors: Sequence[Predictor], all_controls_measure: bool = False) -> Measured:
    """Judge predictors on every condition of a split.

    A value is NaN where a predictor has no answer (as the ceiling has none below four cells), where too few controls measure, and
    where a metric is undefined: a discrimination score where a cell type has a single perturbation, an energy distance of a single
    cell. In memory are the mean shifts of one cell type's perturbations (float32) and the cells of one condition.

    Args:
        cells: The cells of the run.
        split: Whose conditions are judged.
        predictors: Each starts from the same control cells.
        all_controls_measure: Whether the controls were trained on, so that all of them measure, and the figures flatter the model.

    Raises: UserError if the split has no perturbed cells, or too few controls measure in every cell type.
    """
    conditions = cells.conditions(split)
    if not conditions:
        having = [name for name in SPLITS if cells.conditions(name)]
        raise UserError(f"{cells.config.split}: no perturbed cells are in split {split} (splits with some: {', '.join(having)})")
    log.info("evaluate: %d conditions of split %s, %d predictors", len(conditions), split, len(predictors))
    scores: list[Score] = []
    n_controls: dict[str, int] = {}
    for context, group in groupby(conditions, key=context_of):
        members = list(group)
        controls = cells.controls_of(members[0]) if all_controls_measure else cells.set_aside_of(members[0])
        n_controls[".".join(context)] = len(controls)
        if len(controls) < LEAST_CELLS:
            scores += _not_judged(cells, split, members, [*(p.name for p in predictors), CEILING])
            continue
        judge = _ContextJudge(cells, split, members[0], controls)
        for condition in members:
            scores += judge.scores(condition, predictors)
        log.info("evaluate: %s of %s: %d conditions done", context[1], context[0], len(members))
    if all(n < LEAST_CELLS for n in n_controls.values()):
        raise UserError(_too_few_controls(cells, n_controls, all_controls_measure))
    return Measured(tuple(scores), n_controls)


class _ContextJudge:
    """Judges the conditions of one cell type of one data set, which share their controls."""

    def __init__(self, cells: Cells, split: Split, member: Condition, controls: IntArray) -> None:
        self._cells, self._split, self._seed = cells, split, cells.evaluation.seed
        drawn_halves = [control_halves(controls, draw, seed=self._seed, condition=member) for draw in range(DRAWS)]
        self._starts = [start for start, _ in drawn_halves]
        place = {int(cell): i for i, cell in enumerate(controls)}
        subsets = [np.array([place[int(cell)] for cell in half]) for pair in zip(*drawn_halves, strict=True) for half in pair]
        means = mean_cells(cells.reader, cells.judged, controls, [*subsets, np.arange(len(controls))])
        self._start_means, self._reference_means, centre = means[:DRAWS], means[DRAWS:-1], means[-1]
        # Shifts of all perturbations from the mean of all measuring controls; those of a draw differ by its reference.
        self._rows = {condition: row for row, condition in enumerate(self._all_conditions(member))}
        self._shifts = np.empty((len(self._rows), len(centre)), np.float32)
        for condition, row in self._rows.items():
            self._shifts[row] = mean_cell(cells.reader, cells.judged, self._all_cells(condition)) - centre
        self._offsets = self._reference_means - centre
        products = self._shifts @ self._offsets.T.astype(np.float32)
        squares = (self._shifts**2).sum(axis=1)[:, None] - 2 * products + (self._offsets**2).sum(axis=1)
        self._lengths = np.sqrt(np.maximum(squares, 0)).astype(np.float64)

    def scores(self, condition: Condition, predictors: Sequence[Predictor]) -> Iterator[Score]:
        """All figures of a condition."""
        real = self._cells.reader.read(self._cells.judged, self._real_cells(condition))
        within = metrics.mean_distance_within(real)
        figures: dict[str, list[Figures]] = {predictor.name: [] for predictor in predictors}
        for draw in range(DRAWS):
            controls = self._control_cells(condition, draw, len(real))
            start = controls.judged.mean(axis=0, dtype=np.float64)
            for predictor in predictors:
                predicted = predictor.predict(condition, controls)
                judged = NO_ANSWER if predicted is None else self._figures(predicted, start, real, within, condition, draw)
                figures[predictor.name].append(judged)
        figures[CEILING] = [self._ceiling(real, condition, draw) if len(real) >= 4 else NO_ANSWER for draw in range(DRAWS)]
        for predictor_name, of_draws in figures.items():
            yield from _rows(condition, predictor_name, of_draws, len(real))

    def _ceiling(self, real: FloatArray, condition: Condition, draw: int) -> Figures:
        """Figures of one half of the real cells, with its own controls, as a prediction of the other half."""
        places = np.arange(len(real))
        one, other = halves(places, draw, seed=self._seed, purpose="real halves", condition=condition)
        within = metrics.mean_distance_within(real[other])
        return self._figures(real[one], self._start_means[draw], real[other], within, condition, draw)

    def _figures(
        self, predicted: FloatArray, start: Float64Array, real: FloatArray, within_real: float, condition: Condition, draw: int
    ) -> Figures:
        """The figures of one prediction, in the order of `METRICS`; its shift counts from `start`."""
        shift = predicted.mean(axis=0, dtype=np.float64) - start
        real_shift = real.mean(axis=0, dtype=np.float64) - self._reference_means[draw]
        cosine = metrics.cosine(shift, real_shift)
        return (
            metrics.energy_distance_unbiased(predicted, real, within_real),
            metrics.pearson(shift, real_shift),
            cosine,
            metrics.mae_delta(shift, real_shift),
            metrics.norm_ratio(shift, real_shift),
            metrics.discrimination_score(cosine, self._cosines_with_others(shift, condition, draw)),
        )

    def _cosines_with_others(self, shift: Float64Array, condition: Condition, draw: int) -> Float64Array:
        """Cosines of a shift with the real shifts of the cell type's other perturbations. Shape: (P - 1,)."""
        products = self._shifts @ shift.astype(np.float32) - float(self._offsets[draw] @ shift)
        norms = self._lengths[:, draw] * float(np.linalg.norm(shift))
        cosines = np.divide(products, norms, out=np.zeros(len(norms)), where=norms > 0)
        return np.delete(cosines, self._rows[condition])

    def _all_conditions(self, member: Condition) -> list[Condition]:
        """Every perturbation of the cell type, whatever its split."""
        return sorted({c for split in SPLITS for c in self._cells.conditions(split) if context_of(c) == context_of(member)})

    def _all_cells(self, condition: Condition) -> IntArray:
        """Cells of a condition: of the split that is judged, else of the first that has some."""
        splits = [self._split, *SPLITS]
        return next(self._drawn(own, condition) for split in splits if len(own := self._cells.cells_of(condition, split)))

    def _real_cells(self, condition: Condition) -> IntArray:
        return self._drawn(self._cells.cells_of(condition, self._split), condition)

    def _drawn(self, population: IntArray, condition: Condition) -> IntArray:
        n = min(len(population), MAX_CELLS)
        return drawn(population, n, seed=self._seed, purpose="real cells", condition=condition)

    def _control_cells(self, condition: Condition, draw: int, n_real: int) -> ControlCells:
        # Never more than there are: a cell drawn twice would be a pair at distance 0 in the energy distance.
        n = min(max(n_real, 2), len(self._starts[draw]), MAX_STARTS)
        chosen = drawn(self._starts[draw], n, seed=self._seed, purpose=f"controls {draw}", condition=condition)
        values = self._cells.reader.read("input", chosen)
        judged = values if self._cells.judged == "input" else self._cells.reader.read(self._cells.judged, chosen)
        return ControlCells(values, judged, gem_groups_of(self._cells, chosen))


def gem_groups_of(cells: Cells, chosen: IntArray) -> IntArray | None:
    """Codes of the cells' GEM groups, where the run names that column."""
    return None if cells.table.gem_group is None else cells.table.gem_group.codes[chosen].astype(np.int64)


def _rows(condition: Condition, predictor: str, of_draws: Sequence[Figures], n_cells: int) -> Iterator[Score]:
    for metric, values in zip(METRICS, zip(*of_draws, strict=True), strict=True):
        value = _mean(metric, values)
        if predictor == CEILING and metric.name in ("cosine", "pearson"):
            value = _with_all_cells(value)
        yield Score(condition, predictor, metric.name, value, n_cells, values)


def _mean(metric: Metric, values: Figures) -> float:
    mean = metric.mean(values) if all(map(isfinite, values)) else None
    return float("nan") if mean is None else mean


def _with_all_cells(halved: float) -> float:
    """The correlation of two halves as that of two samples twice as large (Spearman-Brown); a negative one is left as it is."""
    return 2 * halved / (1 + halved) if halved > 0 else halved


def _not_judged(cells: Cells, split: Split, conditions: Sequence[Condition], predictors: Collection[str]) -> Iterator[Score]:
    for condition in conditions:
        for name in predictors:
            yield from _rows(condition, name, [NO_ANSWER], min(len(cells.cells_of(condition, split)), MAX_CELLS))


def _too_few_controls(cells: Cells, n_controls: dict[str, int], all_controls_measure: bool) -> str:
    which = "controls" if all_controls_measure else "controls that were set aside"
    counts = some([f"{context} {n}" for context, n in n_controls.items()])
    return (
        f"{cells.config.split}: no cell type has the {LEAST_CELLS} {which} that judging takes ({counts}; "
        f"evaluation.control_fraction is {cells.evaluation.control_fraction}): add controls of these cell types to the data"
    )
