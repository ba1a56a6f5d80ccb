"""The model beside its baselines on validation rows: accuracy and log loss with intervals, and a plain verdict.

A difference counts only if a paired test over the rows says so: McNemar's exact test for the accuracy, the paired t-test for the
log loss. A claim for the model is corrected for the number of comparisons (Bonferroni), one against it is not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest
from scipy.stats import t as student

from training.tasks.tabular.arrays import Float64Array, IntArray, TabularData
from training.tasks.tabular.baselines import BASELINES, MAJORITY
from training.tasks.tabular.simulation import best_accuracy

CONFIDENCE = 0.95
METRICS: dict[str, Literal["higher", "lower"]] = {"accuracy": "higher", "log_loss": "lower"}
"""Metric -> which way is good."""
PHRASES = {"better": "beats", "undecided": "is not told apart from", "worse": "loses to"}

Outcome = Literal["better", "worse", "undecided"]
Metric = Literal["accuracy", "log_loss"]


@dataclass(frozen=True)
class Figures:
    """Figures of one predictor, with the limits of their 95 % intervals."""

    accuracy: float
    accuracy_interval: tuple[float, float]
    """Clopper and Pearson's exact interval."""
    log_loss: float
    log_loss_interval: tuple[float, float]
    """Student's interval of the mean."""


@dataclass(frozen=True)
class Comparison:
    """Model against a baseline on one metric, over the same rows."""

    baseline: str
    metric: Metric
    model: float
    other: float
    gain: float
    """Mean paired difference; positive where the model is better."""
    margin: float
    """Half of the 95 % interval of the gain."""
    p_value: float
    """Two-sided, of no difference; not corrected."""
    outcome: Outcome


@dataclass(frozen=True)
class TabularEvaluation:
    """What `metrics.json` holds of an evaluation."""

    verdict: str
    n_rows: int
    rows_chose_the_epoch: bool
    """Whether the weights were chosen by the rows that are judged on."""
    model: Figures
    baselines: dict[str, Figures]
    ceiling: Figures | None
    """The true probabilities, where they are known: no rule is better on average."""
    bayes_accuracy: float | None
    """Expected accuracy of the best possible rule, over the chance in the labels."""
    comparisons: tuple[Comparison, ...]

    def to_plain(self) -> dict[str, Any]:
        """Numbers, texts, lists and mappings only."""
        return asdict(self)


def evaluate(predicted: Float64Array, data: TabularData, rows_chose_the_epoch: bool = True) -> TabularEvaluation:
    """Judge predicted probabilities of class 1 for the validation rows.

    Shape: predicted (validation rows,).
    """
    val = data.val
    baselines = {name: predict(data.train, val) for name, predict in BASELINES.items()}
    comparisons = compare(predicted, baselines, val.y)
    ceiling = None if val.probability is None else figures_of(val.probability, val.y)
    bayes = None if val.probability is None else best_accuracy(val.probability)
    figures = {name: figures_of(other, val.y) for name, other in baselines.items()}
    model = figures_of(predicted, val.y)
    verdict = _verdict(len(val), rows_chose_the_epoch, comparisons, ceiling, bayes)
    return TabularEvaluation(verdict, len(val), rows_chose_the_epoch, model, figures, ceiling, bayes, comparisons)


def losses_of(predicted: Float64Array, y: IntArray, metric: Metric) -> Float64Array:
    """A value of each row, lower is better: 1 for a wrong class, or its log loss.

    A probability of 0.5 is class 0; a logarithm is at least -100, as in the loss that is trained with.
    """
    if metric == "accuracy":
        return np.asarray((predicted > 0.5) != (y == 1), np.float64)
    of_label = np.where(y == 1, predicted, 1 - predicted)
    with np.errstate(divide="ignore"):
        return np.asarray(-np.maximum(np.log(of_label), -100.0))


def figures_of(predicted: Float64Array, y: IntArray) -> Figures:
    """Figures of one predictor."""
    n = len(y)
    right = n - int(losses_of(predicted, y, "accuracy").sum())
    exact = binomtest(right, n).proportion_ci(CONFIDENCE, method="exact")
    log_losses = losses_of(predicted, y, "log_loss")
    mean, margin = float(log_losses.mean()), _margin(log_losses)
    return Figures(right / n, (float(exact.low), float(exact.high)), mean, (mean - margin, mean + margin))


def compare(predicted: Float64Array, baselines: Mapping[str, Float64Array], y: IntArray) -> tuple[Comparison, ...]:
    """The model against every baseline on both metrics.

    Where it does not beat the majority class on a metric there is nothing to be won on it against another.
    """
    n_comparisons = len(METRICS) * len(baselines)
    compared = []
    for metric in ("accuracy", "log_loss"):
        own = [_compared(predicted, other, name, y, metric, n_comparisons) for name, other in baselines.items()]
        won = any(each.baseline == MAJORITY and each.outcome == "better" for each in own)
        compared += [each if won or each.outcome != "better" else _undecided(each) for each in own]
    return tuple(compared)


def _compared(
    predicted: Float64Array, other: Float64Array, baseline: str, y: IntArray, metric: Metric, n_comparisons: int
) -> Comparison:
    ours, theirs = losses_of(predicted, y, metric), losses_of(other, y, metric)
    gains = theirs - ours
    gain, p_value = float(gains.mean()), _mcnemar(gains) if metric == "accuracy" else _paired_t(gains)
    outcome: Outcome = "undecided"
    if gain > 0 and p_value < (1 - CONFIDENCE) / n_comparisons:
        outcome = "better"
    elif gain < 0 and p_value < 1 - CONFIDENCE:
        outcome = "worse"
    means = float(ours.mean()), float(theirs.mean())
    model, baseline_value = (1 - means[0], 1 - means[1]) if metric == "accuracy" else means
    return Comparison(baseline, metric, model, baseline_value, gain, _margin(gains), p_value, outcome)


def _undecided(comparison: Comparison) -> Comparison:
    return Comparison(**asdict(comparison) | {"outcome": "undecided"})


def _mcnemar(gains: npt.NDArray[np.float64]) -> float:
    """Exact test that a row on which one of two is right and the other wrong goes either way as often."""
    won, lost = int((gains > 0).sum()), int((gains < 0).sum())
    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def _paired_t(gains: npt.NDArray[np.float64]) -> float:
    n, deviation = len(gains), float(gains.std(ddof=1)) if len(gains) > 1 else 0.0
    if deviation == 0:
        return 1.0  # rows that all differ alike do not tell how rows differ
    return float(2 * student.sf(abs(gains.mean()) / (deviation / np.sqrt(n)), n - 1))


def _margin(values: npt.NDArray[np.float64]) -> float:
    n = len(values)
    if n < 2:
        return 0.0
    return float(student.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))


def _verdict(
    n: int, rows_chose_the_epoch: bool, comparisons: Sequence[Comparison], ceiling: Figures | None, bayes: float | None
) -> str:
    chosen = ", which also chose the epoch of the weights" if rows_chose_the_epoch else ""
    lines = [f"Verdict: on {n:,} validation rows{chosen},"]
    for metric, better in METRICS.items():
        own = [each for each in comparisons if each.metric == metric]
        told = " and ".join(
            f"{phrase} {', '.join(_against(each) for each in own if each.outcome == outcome)}"
            for outcome, phrase in PHRASES.items()
            if any(each.outcome == outcome for each in own)
        )
        best = "" if ceiling is None else f"; the true probabilities have {getattr(ceiling, metric):.3g}"
        if metric == "accuracy" and bayes is not None:
            best += f" on these rows, and {bayes:.3g} on average over the chance in labels"
        lines.append(f"- on {metric.replace('_', ' ')} ({better} is better) the model {told}{best}")
    lines.append(
        f'- "beats": a paired test over the rows, corrected for {len(comparisons)} comparisons, has p < {1 - CONFIDENCE:.2f}; '
        '"loses": the same without the correction; where the majority class is not beaten, nothing is won'
    )
    return "\n".join(lines)


def _against(comparison: Comparison) -> str:
    difference = f"difference {comparison.gain:+.3g} ± {comparison.margin:.2g}"
    return f"{comparison.baseline.replace('_', ' ')} ({comparison.model:.3g} against {comparison.other:.3g}, {difference})"
