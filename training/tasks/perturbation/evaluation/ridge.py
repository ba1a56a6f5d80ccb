"""Ridge regression of mean shifts on the features of perturbations, in closed form."""

import numpy as np
import numpy.typing as npt

from training.cells import Condition, FloatArray
from training.tasks.perturbation.evaluation.shifts import Context, TrainingShifts, context_of

Float64Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

PENALTIES = np.logspace(-4, 4, 17)
"""Tried ridge penalties, as multiples of the mean squared length of the centred features."""
WITHOUT_EVIDENCE = 0.1
"""Penalty where no training condition is as new, or as known, as what is asked for."""
NEW_SHARE = 0.25
"""Features are new where more than this of their squared length is no combination of the features of other conditions."""
LEAST_ROWS = 4
"""A cell type with fewer training conditions has no regression of its own."""
SKETCH = 256
"""Columns to which shifts are projected to choose between penalties: squared errors keep to about 6 % (Johnson-Lindenstrauss)."""
SMALL = 1e-6


class Ridge:
    """shift = mean of the cell type + W (features - mean features of the cell type).

    W is fitted over all training conditions, and for each cell type over its own; the control, whose shift is zero, is one of
    them. Which of the two a cell type takes, and which penalty, is what leaves the least squared error when each of its conditions
    is left out in turn (in closed form). A cell type without training conditions takes the W of all, and the means over all.

    The penalty is chosen on conditions that are about as new as the one that is asked for: a gene that no other condition perturbs
    cannot be predicted and asks for a large penalty, with which a combination of known genes would be predicted badly.

    Args:
        shifts: What is regressed.
        features: Of the conditions. Shape: (conditions, P).
        control: Features of the control. Shape: (P,).
    """

    def __init__(self, shifts: TrainingShifts, features: FloatArray, control: FloatArray) -> None:
        self._shifts = shifts
        self._code_of = {context: code for code, context in enumerate(shifts.rows_of)}
        self._means = np.stack([shifts.mean_of(rows) for rows in shifts.rows_of.values()])
        codes = [self._code_of[context_of(condition)] for condition in shifts.conditions]
        x, y = features.astype(np.float64), _sketched(shifts.values)
        n, n_types = len(codes), len(self._means)
        # A row more for the control of each cell type; all rows less the means of the conditions of their cell type.
        self._codes = np.array([*codes, *range(n_types)])
        is_condition = np.arange(n + n_types) < n
        x = _centred(np.vstack([x, np.tile(control, (n_types, 1))]), self._codes, is_condition)
        y = _centred(np.vstack([y, np.zeros((n_types, y.shape[1]))]), self._codes, is_condition)
        everything = np.arange(n + n_types)
        shared = _Fit(x, y, everything, self._codes, is_condition)
        self._span = _Span(features, control)
        self._overall = _Fits([shared], everything[:n], self._span.is_new, features.mean(axis=0, dtype=np.float64))
        self._by_context: dict[Context, _Fits] = {}
        for context, rows in shifts.rows_of.items():
            own = np.append(rows, n + self._code_of[context])
            has_own = LEAST_ROWS <= len(rows) < n
            fits = [shared, _Fit(x, y, own, self._codes, is_condition)] if has_own else [shared]
            self._by_context[context] = _Fits(fits, rows, self._span.is_new, features[rows].mean(axis=0, dtype=np.float64))

    def shift(self, condition: Condition, features: FloatArray) -> FloatArray:
        """The predicted shift of a condition. Shape: features (P,) -> (J,)."""
        context, n = context_of(condition), len(self._shifts.conditions)
        rows, own_weights = self._by_context.get(context, self._overall).weights(features, self._span.lacks(features))
        weights = np.zeros(len(self._codes), np.float32)
        weights[rows] = own_weights
        # What is weighted are shifts less the mean shifts of their cell types; the control's shift is zero.
        of_type = np.bincount(self._codes, weights, minlength=len(self._means)).astype(np.float32)
        centre = self._means[self._code_of[context]] if context in self._code_of else self._shifts.values.mean(axis=0)
        return np.asarray(centre + weights[:n] @ self._shifts.values - of_type @ self._means, np.float32)


class _Fit:
    """Ridge over some rows, for all penalties at once: from one singular value decomposition.

    Shape: x (n, P) and y (n, sketched), centred; rows (m,) of them.
    """

    def __init__(self, x: Float64Array, y: Float64Array, rows: Rows, codes: Rows, is_condition: npt.NDArray[np.bool_]) -> None:
        self.rows, self._y = rows, y[rows]
        u, s, v = np.linalg.svd(x[rows], full_matrices=False)
        kept = s > SMALL * max(float(s[0]), SMALL)
        self._u, self._s, self._v = u[:, kept], s[kept], v[kept]
        self._unit = float((x[rows] ** 2).sum(axis=1).mean()) or 1.0
        sizes = np.bincount(codes[rows][is_condition[rows]], minlength=int(codes.max()) + 1)
        self._own_share = np.where(is_condition[rows], 1.0 / np.maximum(sizes[codes[rows]], 1), 0.0)
        """Share of each row in the mean that is taken off."""

    def errors(self, penalty: float) -> Float64Array:
        """Squared error of each row when it is left out. Shape: (m,)."""
        kept = self._s**2 / (self._s**2 + penalty * self._unit)
        residual = self._y - self._u @ (kept[:, None] * (self._u.T @ self._y))
        left_out = 1 - self._own_share - (self._u**2 @ kept)  # 0 for a row alone in its cell type, which tells nothing
        squares = (residual**2).sum(axis=1)
        return np.asarray(np.divide(squares, left_out**2, out=np.zeros_like(squares), where=left_out > SMALL))

    def weights(self, centred: Float64Array, penalty: float) -> Float64Array:
        """How much each row counts for a vector of features. Shape: (P,) -> (m,)."""
        return np.asarray(self._u @ (self._s / (self._s**2 + penalty * self._unit) * (self._v @ centred)))


class _Fits:
    """The fits that a cell type may take, and which it takes, with which penalty, for new and for known features.

    Shape: rows (n,), the conditions on which they are compared; mean (P,), the features at which the mean shift is predicted.
    """

    def __init__(self, fits: list[_Fit], rows: Rows, is_new: npt.NDArray[np.bool_], mean: Float64Array) -> None:
        self._fits, self._mean = fits, mean
        self._chosen = {new: self._choose(rows[is_new[rows] == new]) for new in (False, True)}

    def weights(self, features: FloatArray, is_new: bool) -> tuple[Rows, Float64Array]:
        """Rows, and how much each counts for a vector of features. Shape: features (P,) -> (m,), (m,)."""
        fit, penalty = self._chosen[is_new]
        return fit.rows, fit.weights(features.astype(np.float64) - self._mean, penalty)

    def _choose(self, rows: Rows) -> tuple[_Fit, float]:
        if len(rows) == 0:
            return self._fits[0], WITHOUT_EVIDENCE
        tried = [(fit, float(penalty)) for fit in self._fits for penalty in PENALTIES]
        return min(tried, key=lambda pair: float(pair[0].errors(pair[1])[np.isin(pair[0].rows, rows)].sum()))


class _Span:
    """What the features of the training conditions span, counted from the control's. Shape: features (n, P), control (P,)."""

    def __init__(self, features: FloatArray, control: FloatArray) -> None:
        self._control = control.astype(np.float64)
        x = features.astype(np.float64) - self._control
        u, s, v = np.linalg.svd(x, full_matrices=False)
        kept = s > SMALL * max(float(s[0]), SMALL)
        self._v = v[kept]
        # Of a row that the others do not span, what is left when its projection on them is taken off.
        squares, inverse = (x**2).sum(axis=1), (u[:, kept] ** 2 / s[kept] ** 2).sum(axis=1)
        apart = np.divide(1.0, inverse, out=np.zeros(len(x)), where=inverse > 0)
        self.is_new = ((u[:, kept] ** 2).sum(axis=1) > 1 - SMALL) & (apart > NEW_SHARE * squares)
        """Whether the features of each condition are no combination of those of the others. (n,)"""

    def lacks(self, features: FloatArray) -> bool:
        """Whether features are no combination of those of the conditions. Shape: (P,)."""
        x = features.astype(np.float64) - self._control
        rest = x - (self._v @ x) @ self._v
        return bool(rest @ rest > NEW_SHARE * (x @ x))


def _centred(values: Float64Array, codes: Rows, is_condition: npt.NDArray[np.bool_]) -> Float64Array:
    """Rows less the means of the conditions of their cell type."""
    sums = np.zeros((int(codes.max()) + 1, values.shape[1]))
    np.add.at(sums, codes[is_condition], values[is_condition])
    return np.asarray(values - (sums / np.bincount(codes[is_condition])[:, None])[codes])


def _sketched(values: FloatArray) -> Float64Array:
    """Shifts projected at random to at most `SKETCH` columns, squared lengths kept in expectation."""
    if values.shape[1] <= SKETCH:
        return values.astype(np.float64)
    signs = np.random.default_rng(0).choice(np.array([-1.0, 1.0], np.float32), (values.shape[1], SKETCH))
    return np.asarray(values @ signs / np.sqrt(SKETCH), np.float64)
