"""Metrics: pure functions of arrays, in float64, and a table of what each means and which way is good.

A shift is the mean of cells minus the mean of real control cells: of a prediction, the controls that it started from; of real
cells, other controls of their cell type. J is the width of the judged representation.
"""

from collections.abc import Collection
from dataclasses import dataclass
from statistics import fmean, geometric_mean
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
AnyFloats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Metric:
    """What a figure means."""

    name: str
    title: str
    sentence: str
    better: Literal["higher", "lower", "near 1"]

    def mean(self, values: Collection[float]) -> float | None:
        """Mean of values; of ratios the geometric one, or 0.1 and 1.9 would make a perfect 1. None of no values.

        A ratio of 0 makes the geometric mean 0.
        """
        if not values:
            return None
        if self.better == "near 1":
            return geometric_mean(values) if all(value > 0 for value in values) else 0.0
        return fmean(values)


METRICS = (
    Metric(
        "energy_distance",
        "energy distance",
        "Distance between the predicted and the real cells as sets: E|X-Y| - E|X-X'|/2 - E|Y-Y'|/2 without self-pairs; "
        "0 for two samples of one distribution, so it may fall a little below.",
        "lower",
    ),
    Metric(
        "pearson",
        "Pearson of the mean shift",
        "Pearson correlation of predicted and real mean shift over columns; no change has 0 by definition.",
        "higher",
    ),
    Metric(
        "cosine",
        "cosine of the mean shift",
        "Cosine of the angle between predicted and real mean shift; no change has 0 by definition.",
        "higher",
    ),
    Metric(
        "mae_delta",
        "mean absolute error of the mean shift",
        "Mean absolute difference, over columns, of predicted and real mean shift; no change has the mean size of the real one.",
        "lower",
    ),
    Metric(
        "norm_ratio",
        "norm ratio",
        "Length of the predicted over the length of the real mean shift; 1 is right, no change has 0 by definition. "
        "The mean is the geometric one.",
        "near 1",
    ),
    Metric(
        "discrimination_score",
        "discrimination score",
        "Share of the cell type's other perturbations whose real mean shift is less like the predicted one (by cosine) than that "
        "of the right one, ties counted half; chance is 0.5.",
        "higher",
    ),
)
BY_NAME = {metric.name: metric for metric in METRICS}


def energy_distance_unbiased(x: AnyFloats, y: AnyFloats, within_y: float | None = None) -> float:
    """Energy distance between two sets of cells, without self-pairs (a U-statistic: unbiased, may be negative).

    E|X-Y| - E|X-X'|/2 - E|Y-Y'|/2 with Euclidean distances, as in `training/losses/energy.py`: half of the quantity in the
    source, and not scPerturb's E-distance, which squares the distances. NaN where a set has fewer than two cells. `within_y` is
    E|Y-Y'| where the caller has it already from `mean_distance_within`.

    Shape: x (N, J), y (M, J).
    Source: Szekely & Rizzo 2013, doi:10.1016/j.jspi.2013.03.018.
    """
    within_y = mean_distance_within(y) if within_y is None else within_y
    return float(_distances(x, y).mean()) - 0.5 * mean_distance_within(x) - 0.5 * within_y


def mean_distance_within(x: AnyFloats) -> float:
    """Mean Euclidean distance of two different cells; NaN where there are fewer than two.

    Shape: x (N, J).
    """
    n = len(x)
    if n < 2:
        return float("nan")
    distances = _distances(x, x)
    np.fill_diagonal(distances, 0.0)
    return float(distances.sum() / (n * (n - 1)))


def cosine(predicted_shift: AnyFloats, real_shift: AnyFloats) -> float:
    """Cosine of the angle between two shifts.

    A shift of zero has no direction. It counts as 0, like one at right angles: whoever predicts "no change" has said nothing
    about the direction, and leaving him out would spare him the comparison.

    Shape: both (J,).
    """
    a, b = np.asarray(predicted_shift, np.float64), np.asarray(real_shift, np.float64)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.clip(a @ b / norms, -1.0, 1.0)) if norms > 0 else 0.0


def pearson(predicted_shift: AnyFloats, real_shift: AnyFloats) -> float:
    """Pearson correlation of two shifts over columns; 0 where one is constant, for the reason given at `cosine`.

    Shape: both (J,).
    """
    a, b = np.asarray(predicted_shift, np.float64), np.asarray(real_shift, np.float64)
    if np.ptp(a) == 0 or np.ptp(b) == 0:  # else rounding of the mean would leave a direction of its own
        return 0.0
    return cosine(a - a.mean(), b - b.mean())


def mae_delta(predicted_shift: AnyFloats, real_shift: AnyFloats) -> float:
    """Mean absolute difference of two shifts.

    Of shifts, not of mean cells: else a prediction that does not depend on its few starting cells would beat "no change" by having
    less of their noise, where nothing is to be predicted.

    Shape: both (J,).
    Source: `mae_delta` of cell-eval.
    """
    return float(np.abs(np.asarray(predicted_shift, np.float64) - np.asarray(real_shift, np.float64)).mean())


def norm_ratio(predicted_shift: AnyFloats, real_shift: AnyFloats) -> float:
    """Length of the predicted shift over that of the real one; NaN where the real one is zero.

    The noise of few cells lengthens the real shift, so that a perfect prediction may fall below 1: read it beside the ceiling.

    Shape: both (J,).
    """
    real = float(np.linalg.norm(np.asarray(real_shift, np.float64)))
    return float(np.linalg.norm(np.asarray(predicted_shift, np.float64))) / real if real > 0 else float("nan")


def discrimination_score(own: float, others: AnyFloats) -> float:
    """How well a predicted shift picks out its own perturbation among all real shifts of the cell type, by cosine.

    (others less similar + half of the others equally similar) / others: 1 where the right one is the most similar, 0 where it is
    the least, 0.5 by chance. The same prediction for every perturbation scores 0.5 on average over them. NaN without others.

    Args:
        own: Cosine of the predicted shift with the real shift of its own perturbation.
        others: Its cosines with the real shifts of all other perturbations of the cell type.

    Source: rank score of PerturBench (arXiv 2408.10609) turned around; cosine because L1 rewards a longer shift (arXiv 2511.16954).
    """
    return float(((others < own).sum() + 0.5 * (others == own).sum()) / len(others)) if len(others) else float("nan")


def _distances(x: AnyFloats, y: AnyFloats) -> Float64Array:
    # |a-b|^2 = |a|^2 + |b|^2 - 2ab: one matrix product, of which numpy computes only half where both sides are one array.
    # About a common centre, so that little is lost in the difference.
    centre = np.asarray(x, np.float64).mean(axis=0)
    a = x - centre
    b = a if y is x else y - centre
    squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None, :] - 2.0 * (a @ b.T)
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))
