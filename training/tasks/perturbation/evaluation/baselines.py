"""What a model has to beat: predictors that add a mean shift, known in closed form from training cells, to the control cells."""

import logging
from collections import defaultdict

import numpy as np

from training.cells import Condition, ControlCells, FloatArray
from training.data.combinations import parts
from training.tasks.perturbation.cells import Cells
from training.tasks.perturbation.evaluation.ridge import Ridge
from training.tasks.perturbation.evaluation.shifts import Context, TrainingShifts, context_of, training_shifts

log = logging.getLogger(__name__)


class Baseline:
    """Control cells plus one shift for all of them."""

    name: str
    answers: str
    """What it has an answer for."""

    def predict(self, condition: Condition, controls: ControlCells) -> FloatArray | None:
        """Shifted controls; None where the baseline has no answer.

        Shape: controls of N cells -> (N, J).
        """
        shift = self.shift(condition)
        return None if shift is None else controls.judged + shift

    def shift(self, condition: Condition) -> FloatArray | None:
        """What is added to each control, or None.

        Shape: (J,), or () for the same in all columns.
        """
        raise NotImplementedError


class NoChange(Baseline):
    """The control cells themselves."""

    name = "no_change"
    answers = "every condition"

    def shift(self, condition: Condition) -> FloatArray:
        """Zero."""
        return np.zeros((), np.float32)


class MeanShiftPerCellType(Baseline):
    """The mean shift of the cell type's training perturbations; without any, the mean over all training conditions."""

    name = "mean_shift_per_cell_type"
    answers = "every condition, where anything was trained on"

    def __init__(self, shifts: TrainingShifts) -> None:
        self._shifts, self._overall = shifts, shifts.mean()
        self._by_context = {context: shifts.mean_of(rows) for context, rows in shifts.rows_of.items()}

    def shift(self, condition: Condition) -> FloatArray | None:
        """The mean shift of the cell type, else of everything."""
        return self._by_context.get(context_of(condition), self._overall)


class MeanShiftPerPerturbation(Baseline):
    """The shift that the perturbation has in other cell types and data sets, fitted to this one.

    The mean shift of this cell type (else of all) plus `scale` times the mean over the other cell types of how far the
    perturbation's shift is from the mean shift there. `scale` is the least-squares fit over the perturbations that were trained on
    in this cell type and elsewhere; in a cell type without any it is that of the other cell types, and 1 where there is none.
    """

    name = "mean_shift_per_perturbation"
    answers = "perturbations that were trained on in another cell type"

    def __init__(self, shifts: TrainingShifts) -> None:
        self._shifts, self._means = shifts, MeanShiftPerCellType(shifts)
        self._contexts: dict[str, list[Context]] = defaultdict(list)
        for condition in shifts.conditions:
            self._contexts[condition.perturbation].append(context_of(condition))
        products = {context: self._products(context) for context in shifts.rows_of}
        overall = _ratio(list(products.values()), otherwise=1.0)
        self._scale = defaultdict(lambda: overall, {context: _ratio([own], overall) for context, own in products.items()})

    def shift(self, condition: Condition) -> FloatArray | None:
        """The fitted shift; None for a perturbation that was trained on nowhere else."""
        elsewhere, mean = self._elsewhere(condition), self._means.shift(condition)
        if elsewhere is None or mean is None:
            return None
        return np.asarray(mean + np.float32(self._scale[context_of(condition)]) * elsewhere, np.float32)

    def _elsewhere(self, condition: Condition) -> FloatArray | None:
        """Mean over the other cell types of the perturbation's shift, less the mean shift there."""
        others = [context for context in self._contexts[condition.perturbation] if context != context_of(condition)]
        if not others:
            return None
        return np.asarray(sum(self._deviation(Condition(*context, condition.perturbation)) for context in others) / len(others))

    def _deviation(self, condition: Condition) -> FloatArray:
        mean = self._means.shift(condition)
        assert mean is not None
        return np.asarray(self._shifts.values[self._shifts.row[condition]] - mean)

    def _products(self, context: Context) -> tuple[float, float]:
        """Over perturbations trained on here and elsewhere: products of deviations here and there, and squares of those there."""
        product = square = 0.0
        rows = self._shifts.rows_of[context]
        for row in rows if len(rows) > 1 else ():  # a perturbation that is alone lies on the mean, and tells nothing
            condition = self._shifts.conditions[row]
            elsewhere = self._elsewhere(condition)
            if elsewhere is not None:
                product += float(self._deviation(condition) @ elsewhere)
                square += float(elsewhere @ elsewhere)
        return product, square


class Additive(Baseline):
    """For a combination: the sum of the shifts that its parts have alone in the same cell type."""

    name = "additive"
    answers = "combinations whose parts were all trained on alone in the cell type"

    def __init__(self, shifts: TrainingShifts, control: str, separator: str | None) -> None:
        self._control, self._separator = control, separator
        self._singles: dict[Context, dict[str, FloatArray]] = defaultdict(dict)
        for condition, shift in zip(shifts.conditions, shifts.values, strict=True):
            if len(own := parts(condition.perturbation, control, separator)) == 1:
                self._singles[context_of(condition)][own[0]] = shift

    def shift(self, condition: Condition) -> FloatArray | None:
        """The sum; None for anything but a combination of known parts."""
        own, known = self._parts(condition)
        return np.asarray(np.sum(known, axis=0)) if len(own) >= 2 and len(known) == len(own) else None

    def _parts(self, condition: Condition) -> tuple[tuple[str, ...], list[FloatArray]]:
        """Parts of a condition's perturbation, and the shifts of those that are known in its cell type."""
        own, singles = parts(condition.perturbation, self._control, self._separator), self._singles[context_of(condition)]
        return own, [singles[part] for part in own if part in singles]


class PartialAdditive(Additive):
    """For a combination of which some parts are known: their shifts, and for each other part the mean shift of single ones."""

    name = "partial_additive"
    answers = "combinations of which some parts, but not all, were trained on alone in the cell type"

    def shift(self, condition: Condition) -> FloatArray | None:
        """The sum; None where no part or every part is known."""
        own, known = self._parts(condition)
        if not 0 < len(known) < len(own):
            return None
        singles = self._singles[context_of(condition)]
        mean = sum(singles.values()) / len(singles)
        return np.asarray(np.sum(known, axis=0) + (len(own) - len(known)) * mean, np.float32)


class RidgeOnFeatures(Baseline):
    """Ridge regression of the shift on the perturbation's features (`ridge.py`)."""

    name = "ridge"
    answers = "every perturbation with features (data.perturbation_features_file)"

    def __init__(self, shifts: TrainingShifts, cells: Cells) -> None:
        self._cells = cells
        has_features = cells.config.perturbation_features_file is not None and len(shifts.conditions) > 1
        self._ridge: Ridge | None = None
        if has_features:
            features = np.stack([self._features(condition.perturbation) for condition in shifts.conditions])
            self._ridge = Ridge(shifts, features, self._features(cells.config.control))

    def shift(self, condition: Condition) -> FloatArray | None:
        """The predicted shift; None where perturbations have no features but their names."""
        return None if self._ridge is None else self._ridge.shift(condition, self._features(condition.perturbation))

    def _features(self, perturbation: str) -> FloatArray:
        features = self._cells.features
        return np.asarray(features.vectors[features.index(perturbation)])


def fit_baselines(cells: Cells) -> list[Baseline]:
    """Every baseline, fitted on the training cells of a run."""
    shifts = training_shifts(cells)
    log.info("evaluate: mean shifts of %d training conditions", len(shifts.conditions))
    control, separator = cells.config.control, cells.config.separator
    return [
        NoChange(),
        MeanShiftPerCellType(shifts),
        MeanShiftPerPerturbation(shifts),
        Additive(shifts, control, separator),
        PartialAdditive(shifts, control, separator),
        RidgeOnFeatures(shifts, cells),
    ]


def _ratio(products: list[tuple[float, float]], otherwise: float) -> float:
    """Sum of products by sum of squares."""
    square = sum(square for _, square in products)
    return sum(product for product, _ in products) / square if square > 0 else otherwise
