"""From scores to what a person reads: means over conditions, the model beside each baseline, one plain line, two files."""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

from training.cells import Condition, Representation, Split
from training.checkpoints.run_directory import write_text
from training.evaluation.evaluate import CEILING, Score
from training.evaluation.metrics import BY_NAME, METRICS, Metric
from training.evaluation.model_predictor import ModelPredictor

MODEL = ModelPredictor.name
TABLE = "evaluation.csv"
DECISIVE = ("cosine", "energy_distance")
"""Metrics of the verdict: the direction of the mean shift, and the whole cloud of cells."""

Figures = dict[str, float | None]
"""Metric -> mean over conditions; None where it is undefined for all of them."""

FEW = 3
"""Below so many conditions a standard error says nothing: the means are compared as they are, and the verdict says so."""

Outcome = Literal["better", "worse", "undecided"]
PHRASES: dict[Outcome, str] = {"better": "beats", "undecided": "is not told apart from", "worse": "loses to"}

Validation = Literal["split", "test", "none"]
"""`data.validation` of the run."""

Values = dict[tuple[str, str], dict[Condition, float]]
"""(predictor, metric) -> condition -> defined value."""


@dataclass(frozen=True)
class Comparison:
    """Model against a baseline on one metric, over the conditions for which both have a value.

    `better` and `worse`: the mean paired difference exceeds its standard error, on fewer than `FEW` conditions 0.
    """

    baseline: str
    metric: str
    model: float
    other: float
    n_conditions: int
    outcome: Outcome
    standard_error: float | None
    """Of the mean paired difference (of ratios: of |log|); None on fewer than `FEW` conditions, and beside a ratio of 0."""


@dataclass(frozen=True)
class Evaluation:
    """The content of metrics.json. Means are over conditions, each of which counts once."""

    verdict: str
    checkpoint: str
    """Whose weights were judged, and `step`: how long they were trained."""
    step: int
    split_file: str
    split: Split
    judged: Representation
    n_conditions: int
    n_conditions_trained_on: int
    """Those whose cell type and perturbation the model was trained on: they test no generalisation."""
    max_cells: int
    model: Figures
    baselines: dict[str, Figures]
    ceiling: Figures
    n_conditions_answered: dict[str, int]
    """Predictor -> conditions for which it has a prediction."""
    comparisons: tuple[Comparison, ...]
    cell_types: dict[str, dict[str, Figures]]
    """`dataset.cell_type` -> predictor -> figures."""
    table: str = TABLE
    """File beside this one: a row for each condition, predictor and metric."""


def summarise(
    scores: Sequence[Score],
    split: Split,
    judged: Representation,
    max_cells: int,
    validation: Validation = "split",
    *,
    trained: Collection[tuple[str, str]],
    checkpoint: str,
    step: int,
    split_file: str,
) -> Evaluation:
    """Means, comparisons and the verdict.

    `validation` says which split chose the weights; `trained`, which (cell type, perturbation) pairs the model was trained on.
    The verdict names both, whatever the split file calls the conditions.
    """
    by_cell_type: dict[str, list[Score]] = defaultdict(list)
    for score in scores:
        by_cell_type[f"{score.condition.dataset}.{score.condition.cell_type}"].append(score)
    conditions = {score.condition for score in scores}
    answered: dict[str, set[Condition]] = {MODEL: set()}
    for score in scores:
        answered.setdefault(score.predictor, set()).update([score.condition] if isfinite(score.value) else [])
    pairs = frozenset(trained)
    trained_on = {condition for condition in conditions if (condition.cell_type, condition.perturbation) in pairs}
    figures = _figures(scores, answered)
    comparisons = _comparisons(_values(scores), [name for name in answered if name not in (MODEL, CEILING)])
    return Evaluation(
        verdict=_verdict(comparisons, figures.get(CEILING, {}), _kind(split, validation), conditions, trained_on, answered),
        checkpoint=checkpoint,
        step=step,
        split_file=split_file,
        split=split,
        judged=judged,
        n_conditions=len(conditions),
        n_conditions_trained_on=len(trained_on),
        max_cells=max_cells,
        model=figures[MODEL],
        baselines={name: values for name, values in figures.items() if name not in (MODEL, CEILING)},
        ceiling=figures.get(CEILING, {metric.name: None for metric in METRICS}),
        n_conditions_answered={name: len(found) for name, found in answered.items()},
        comparisons=comparisons,
        cell_types={name: _figures(own, list(dict.fromkeys(s.predictor for s in own))) for name, own in by_cell_type.items()},
    )


def write_evaluation(run_directory: Path, evaluation: Evaluation, scores: Sequence[Score]) -> None:
    """Write evaluation.csv and then metrics.json, each whole or not at all. An undefined value is an empty cell, or null."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["dataset", "cell_type", "perturbation", "predictor", "metric", "value", "n_cells"])
    for score in scores:
        condition, value = score.condition, repr(score.value) if isfinite(score.value) else ""
        named = (condition.dataset, condition.cell_type, condition.perturbation, score.predictor, score.metric)
        rows.writerow([*named, value, score.n_cells])
    write_text(run_directory / TABLE, text.getvalue())
    write_text(run_directory / "metrics.json", json.dumps(asdict(evaluation), indent=1, allow_nan=False) + "\n")


def _values(scores: Sequence[Score]) -> Values:
    values: Values = defaultdict(dict)
    for score in scores:
        if isfinite(score.value):
            values[score.predictor, score.metric][score.condition] = score.value
    return values


def _figures(scores: Sequence[Score], predictors: Collection[str]) -> dict[str, Figures]:
    values = _values(scores)
    return {name: {metric.name: metric.mean(values[name, metric.name].values()) for metric in METRICS} for name in predictors}


def _comparisons(values: Values, baselines: Collection[str]) -> tuple[Comparison, ...]:
    found = []
    for baseline in baselines:
        for metric in METRICS:
            model, other = values[MODEL, metric.name], values[baseline, metric.name]
            shared = sorted(model.keys() & other.keys())
            ours, theirs = [model[c] for c in shared], [other[c] for c in shared]
            one, two = metric.mean(ours), metric.mean(theirs)
            if one is not None and two is not None:
                found.append(Comparison(baseline, metric.name, one, two, len(shared), *_outcome(metric, ours, theirs)))
    return tuple(found)


def _outcome(metric: Metric, ours: Sequence[float], theirs: Sequence[float]) -> tuple[Outcome, float | None]:
    """Whether the values of the model are better than those of a baseline for the same conditions, and the standard error."""
    one, two = [metric.goodness(value) for value in ours], [metric.goodness(value) for value in theirs]
    gain, error = fmean(one) - fmean(two), None  # NaN, hence undecided, where both have a ratio of 0
    if len(one) >= FEW and isfinite(gain):
        error = stdev([a - b for a, b in zip(one, two, strict=True)]) / sqrt(len(one))
    margin = error or 0.0
    return "better" if gain > margin else "worse" if -gain > margin else "undecided", error


def _kind(split: Split, validation: Validation) -> str:
    """What the conditions of a split are to the model."""
    if (split, validation) in (("val", "split"), ("test", "test")):
        return f"conditions that the weights were chosen by (split {split})"
    return f"conditions (split {split})"


def _verdict(
    comparisons: Sequence[Comparison],
    ceiling: Figures,
    kind: str,
    conditions: Collection[Condition],
    trained_on: Collection[Condition],
    answered: Mapping[str, Collection[Condition]],
) -> str:
    n_answered = len(answered[MODEL])
    n_silent = len(conditions) - n_answered
    if not n_answered:
        return f"Verdict: the model has no prediction for any of {n_silent} {kind}."
    clauses = [_clause(name, [c for c in comparisons if c.metric == name], ceiling.get(name), n_answered) for name in DECISIVE]
    silent = [shown(name) for name, found in answered.items() if not found and name != CEILING]
    notes = [f" It has no prediction for {n_silent} more."] if n_silent else []
    notes += [f" No answer from {', '.join(silent)}."] if silent else []
    kind = kind.replace("conditions", "condition", 1) if n_answered == 1 else kind
    seen = _seen(sum(condition in trained_on for condition in answered[MODEL]), n_answered)
    return f"Verdict: for {n_answered} {kind}, {seen}, {'; '.join(clauses)}.{''.join(notes)}"


def _seen(n_trained: int, n: int) -> str:
    """How many of so many conditions the model was trained on."""
    if n == 1:
        return "which the model was trained on" if n_trained else "which the model was not trained on"
    count = {0: "none", n: "all"}.get(n_trained, str(n_trained))
    return f"{count} of which the model was trained on"


def _clause(name: str, comparisons: Sequence[Comparison], ceiling: float | None, n_conditions: int) -> str:
    metric = BY_NAME[name]
    listed = {outcome: [_against(c, n_conditions) for c in comparisons if c.outcome == outcome] for outcome in PHRASES}
    told = " and ".join(f"{PHRASES[outcome]} {', '.join(found)}" for outcome, found in listed.items() if found)
    text = f"on {metric.title} ({metric.better} is better) the model {told or 'has nothing to beat, for no baseline has an answer'}"
    return text + (f" (ceiling {ceiling:.3g})" if ceiling is not None else "")


def _against(comparison: Comparison, n_conditions: int) -> str:
    n = comparison.n_conditions
    where = f", on {n} of them" if n < n_conditions else ""
    if n < FEW:
        where = f", on only {n} condition{'s' if n > 1 else ''}"
    return f"{shown(comparison.baseline)} ({comparison.model:.3g} against {comparison.other:.3g}{where})"


def shown(name: str) -> str:
    """Name of a predictor as people write it."""
    return name.replace("_", " ")
