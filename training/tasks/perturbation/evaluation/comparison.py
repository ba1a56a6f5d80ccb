"""The model beside a baseline: paired differences over conditions, their interval, and which differences count.

A difference has two sources of error: conditions differ, and the cells that measure are a sample. The first is the standard error
over conditions. The second is shared by all conditions of a cell type, so that no number of conditions makes it smaller: it is the
standard deviation of the mean difference from one halving of the controls to another. (Halves of a sample scatter about the whole
as the whole scatters about the truth: the delete-half jackknife.) The README of this folder has the experiment that checks it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, sqrt
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from training.cells import Condition
from training.tasks.perturbation.evaluation.evaluate import Figures, Score
from training.tasks.perturbation.evaluation.metrics import BY_NAME

DECISIVE = ("cosine", "energy_distance", "mae_delta")
"""Metrics of the verdict: the direction of the mean shift, the whole cloud of cells, and the size of what is wrong."""
FLOOR = "no_change"
CONFIDENCE = 0.95
FEW = 3
"""Fewer conditions do not tell how conditions differ: there is no win on them."""

Outcome = Literal["better", "worse", "undecided"]

Float64Array = npt.NDArray[np.float64]
Values = Mapping[tuple[str, str], Mapping[Condition, Figures]]
"""(predictor, metric) -> condition -> value in each draw; conditions for which it is defined."""


@dataclass(frozen=True)
class Comparison:
    """Model against a baseline on one metric, over the conditions for which both have a value.

    `better`: the interval of the mean paired difference, corrected for the number of comparisons (Bonferroni), lies above 0.
    And the model must beat `FLOOR` there too: where nothing is to be predicted it would win against baselines that add noise.
    `worse`: the plain interval lies below 0. A claim for the model takes more than one against it.
    """

    scope: str
    """`dataset.cell_type`, or `all` for the conditions of all of them."""
    baseline: str
    metric: str
    model: float
    other: float
    n_conditions: int
    outcome: Outcome
    gain: float
    """Mean paired difference; positive where the model is better."""
    margin: float
    """Half of the 95 % interval of the gain; on fewer than `FEW` conditions of the error that they share alone."""
    corrected_margin: float | None
    """The same, corrected for the number of comparisons; None on fewer than `FEW` conditions, on which nothing is won."""


def values_of(scores: Sequence[Score]) -> dict[tuple[str, str], dict[Condition, Figures]]:
    """The defined values of each predictor and metric."""
    values: dict[tuple[str, str], dict[Condition, Figures]] = {}
    for score in scores:
        own = values.setdefault((score.predictor, score.metric), {})
        if isfinite(score.value):
            own[score.condition] = score.draws or (score.value,)
    return values


def compare(values: Mapping[str, Values], model: str, baselines: Collection[str], may_win: bool) -> tuple[Comparison, ...]:
    """Compare the model with every baseline on the decisive metrics, in each scope; all of them count as one family.

    Args:
        values: Scope -> values.
        model: Name of the model among the predictors.
        baselines: Names of the baselines.
        may_win: Whether the controls that measure were set aside from training: else the figures flatter the model.
    """
    pairs = [pair for scope, own in values.items() for pair in _pairs(scope, own, model, baselines)]
    decided = [_decided(comparison, differences, len(pairs), may_win) for comparison, differences in pairs]
    found = {(c.scope, c.metric) for c in decided if c.baseline == FLOOR and c.outcome == "better"}
    return tuple(
        replace(c, outcome="undecided") if c.outcome == "better" and (c.scope, c.metric) not in found else c for c in decided
    )


def margin_of(values: Float64Array, n_comparisons: int = 1) -> float:
    """Half of the interval of the mean of values of conditions in draws.

    On fewer than `FEW` conditions it covers the error that they share, and not how conditions differ.

    Shape: values (conditions, draws).
    """
    n, n_draws = values.shape
    between = float(values.mean(axis=1).var(ddof=1)) / n if n >= FEW else 0.0
    shared = float(values.mean(axis=0).var(ddof=1)) if n_draws > 1 else 0.0
    if between + shared == 0:
        return 0.0
    # Degrees of freedom of a sum of two estimated variances (Welch and Satterthwaite).
    freedom = (between + shared) ** 2 / (between**2 / max(n - 1, 1) + shared**2 / max(n_draws - 1, 1))
    return float(student.ppf(1 - (1 - CONFIDENCE) / (2 * n_comparisons), freedom)) * sqrt(between + shared)


def _pairs(scope: str, values: Values, model: str, baselines: Collection[str]) -> Iterator[tuple[Comparison, Float64Array]]:
    """Comparisons that are still undecided, each with its paired differences (conditions, draws)."""
    for metric in DECISIVE:
        ours = values.get((model, metric), {})
        for baseline in baselines:
            theirs = values.get((baseline, metric), {})
            shared = sorted(ours.keys() & theirs.keys())
            if shared:
                sign = 1 if BY_NAME[metric].better == "higher" else -1
                one, two = np.array([ours[c] for c in shared]), np.array([theirs[c] for c in shared])
                means = float(one.mean()), float(two.mean())
                gain = sign * (means[0] - means[1])
                yield Comparison(scope, baseline, metric, *means, len(shared), "undecided", gain, 0.0, None), sign * (one - two)


def _decided(comparison: Comparison, differences: Float64Array, n_comparisons: int, may_win: bool) -> Comparison:
    margin = margin_of(differences)
    corrected = margin_of(differences, n_comparisons) if comparison.n_conditions >= FEW else None
    outcome: Outcome = "undecided"
    if may_win and corrected is not None and comparison.gain > corrected:
        outcome = "better"
    elif comparison.gain < -margin:
        outcome = "worse"
    return replace(comparison, outcome=outcome, margin=margin, corrected_margin=corrected)
