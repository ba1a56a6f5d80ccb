"""From scores to what a person reads: means over conditions, the model beside each baseline, a plain verdict, two files."""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Literal

import numpy as np

from training.cells import Condition, Representation, Split
from training.data.set_aside import LEAST_CELLS
from training.evaluation.comparison import CONFIDENCE, DECISIVE, FEW, Comparison, Outcome, Values, compare, margin_of, values_of
from training.evaluation.evaluate import CEILING, DRAWS, MAX_CELLS, Measured, Score
from training.evaluation.metrics import BY_NAME, METRICS
from training.evaluation.model_predictor import ModelPredictor
from training.files import write_texts
from training.text import some

MODEL = ModelPredictor.name
TABLE = "evaluation.csv"
ALL = "all"

Figures = dict[str, float | None]
"""Metric -> mean over conditions; None where it is undefined for all of them."""

PHRASES: dict[Outcome, str] = {"better": "beats", "undecided": "is not told apart from", "worse": "loses to"}

Validation = Literal["split", "test", "none"]
"""`data.validation` of the run."""


@dataclass(frozen=True)
class Judged:
    """What was judged: it is repeated in the verdict, whatever the split file calls the conditions."""

    checkpoint: str
    """Whose weights were judged, and `step`: how long they were trained."""
    step: int
    split_file: str
    split: Split
    representation: Representation
    validation: Validation
    """Which split chose the weights."""
    trained: Collection[tuple[str, str]]
    """(cell type, perturbation) pairs that the model was trained on."""
    controls_set_aside: bool
    """Whether the controls that measure were kept from the training."""
    answers: Mapping[str, str]
    """Baseline -> what it has an answer for."""
    seed: int
    """`evaluation.seed`"""


@dataclass(frozen=True)
class Evaluation:
    """The content of metrics.json. Means are over conditions, each of which counts once."""

    verdict: str
    checkpoint: str
    step: int
    split_file: str
    split: Split
    judged: Representation
    n_conditions: int
    n_conditions_trained_on: int
    """Those whose cell type and perturbation the model was trained on: they test no generalisation."""
    controls_set_aside: bool
    n_controls: dict[str, int]
    """`dataset.cell_type` -> controls that measure it."""
    seed: int
    draws: int
    max_cells: int
    model: Figures
    baselines: dict[str, Figures]
    ceiling: Figures
    margins: dict[str, Figures]
    """Predictor -> metric -> half of the 95 % interval of its mean; None on fewer than `FEW` conditions."""
    n_conditions_answered: dict[str, int]
    """Predictor -> conditions for which it has a prediction."""
    comparisons: tuple[Comparison, ...]
    """Over all conditions and, where there are several, in each cell type."""
    cell_types: dict[str, dict[str, Figures]]
    """`dataset.cell_type` -> predictor -> figures."""
    table: str = TABLE
    """File beside this one: a row for each condition, predictor and metric."""


def summarise(measured: Measured, judged: Judged) -> Evaluation:
    """Means, comparisons and the verdict."""
    scores = measured.scores
    by_cell_type: dict[str, list[Score]] = defaultdict(list)
    for score in scores:
        by_cell_type[f"{score.condition.dataset}.{score.condition.cell_type}"].append(score)
    conditions = {score.condition for score in scores}
    answered: dict[str, set[Condition]] = {MODEL: set()}
    for score in scores:
        answered.setdefault(score.predictor, set()).update([score.condition] if isfinite(score.value) else [])
    pairs = frozenset(judged.trained)
    trained_on = {condition for condition in conditions if (condition.cell_type, condition.perturbation) in pairs}
    predictors = list(dict.fromkeys([MODEL, *(score.predictor for score in scores)]))
    figures = _figures(scores, predictors)
    baselines = [name for name in predictors if name not in (MODEL, CEILING)]
    values = values_of(scores)
    single = {name: values_of(own) for name, own in by_cell_type.items()} if len(by_cell_type) > 1 else {}
    comparisons = tuple(
        comparison
        for scopes in ({ALL: values}, single)
        for comparison in compare(scopes, MODEL, baselines, judged.controls_set_aside)
    )
    return Evaluation(
        verdict=_Verdict(measured, judged, comparisons, figures[CEILING], answered, trained_on).text(),
        checkpoint=judged.checkpoint,
        step=judged.step,
        split_file=judged.split_file,
        split=judged.split,
        judged=judged.representation,
        n_conditions=len(conditions),
        n_conditions_trained_on=len(trained_on),
        controls_set_aside=judged.controls_set_aside,
        n_controls=measured.n_controls,
        seed=judged.seed,
        draws=DRAWS,
        max_cells=MAX_CELLS,
        model=figures[MODEL],
        baselines={name: figures[name] for name in baselines},
        ceiling=figures[CEILING],
        margins={name: _margins(values, name) for name in predictors},
        n_conditions_answered={name: len(found) for name, found in answered.items()},
        comparisons=comparisons,
        cell_types={name: _figures(own, list(dict.fromkeys(s.predictor for s in own))) for name, own in by_cell_type.items()},
    )


def write_evaluation(run_directory: Path, evaluation: Evaluation, scores: Sequence[Score]) -> None:
    """Write evaluation.csv and metrics.json, both or none. An undefined value is an empty cell, or null."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["dataset", "cell_type", "perturbation", "predictor", "metric", "value", "n_cells"])
    for score in scores:
        condition, value = score.condition, repr(score.value) if isfinite(score.value) else ""
        named = (condition.dataset, condition.cell_type, condition.perturbation, score.predictor, score.metric)
        rows.writerow([*named, value, score.n_cells])
    figures = json.dumps(asdict(evaluation), indent=1, allow_nan=False) + "\n"
    write_texts({run_directory / TABLE: text.getvalue(), run_directory / "metrics.json": figures})


def _figures(scores: Sequence[Score], predictors: Collection[str]) -> dict[str, Figures]:
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for score in scores:
        if isfinite(score.value):
            values[score.predictor, score.metric].append(score.value)
    names = [*predictors, *([] if CEILING in predictors else [CEILING])]
    return {name: {metric.name: metric.mean(values[name, metric.name]) for metric in METRICS} for name in names}


def _margins(values: Values, predictor: str) -> Figures:
    of_metrics = {metric.name: values.get((predictor, metric.name), {}) for metric in METRICS}
    return {name: margin_of(np.array(list(own.values()))) if len(own) >= FEW else None for name, own in of_metrics.items()}


@dataclass(frozen=True)
class _Verdict:
    """The text: a line for what was judged, a line a metric, and a line for each thing that a reader must know besides."""

    measured: Measured
    judged: Judged
    comparisons: Sequence[Comparison]
    ceiling: Figures
    answered: Mapping[str, Collection[Condition]]
    trained_on: Collection[Condition]

    def text(self) -> str:
        n_answered = len(self.answered[MODEL])
        conditions = {score.condition for score in self.measured.scores}
        kind = self._kind()
        if not n_answered:
            return f"Verdict: the model has no prediction for any of {len(conditions)} {kind}."
        kind = kind.replace("conditions", "condition", 1) if n_answered == 1 else kind
        seen = _seen(sum(condition in self.trained_on for condition in self.answered[MODEL]), n_answered)
        lines = [f"Verdict: for {n_answered} {kind}, {seen},", *(self._metric(name, n_answered) for name in DECISIVE)]
        lines += [*self._worse(), *self._caveats(conditions)]
        return "\n".join([lines[0], *(f"- {line}" for line in lines[1:])])

    def _kind(self) -> str:
        """What the conditions of the split are to the model."""
        split, validation = self.judged.split, self.judged.validation
        if (split, validation) in (("val", "split"), ("test", "test")):
            return f"conditions that the weights were chosen by (split {split})"
        return f"conditions (split {split})"

    def _metric(self, name: str, n_conditions: int) -> str:
        metric = BY_NAME[name]
        own = [c for c in self.comparisons if c.scope == ALL and c.metric == name]
        listed = {outcome: [_against(c, n_conditions) for c in own if c.outcome == outcome] for outcome in PHRASES}
        told = " and ".join(f"{PHRASES[outcome]} {', '.join(found)}" for outcome, found in listed.items() if found)
        text = f"on {metric.title} ({metric.better} is better) the model {told or 'has nothing to beat: ' + self._undefined(name)}"
        ceiling = self.ceiling.get(name)
        return text + (f"; a repeat of the experiment has {ceiling:.3g}" if ceiling is not None else "")

    def _undefined(self, name: str) -> str:
        """Why there is no comparison on a metric."""
        few = [s.condition for s in self.measured.scores if s.predictor == MODEL and s.metric == name and s.n_cells < 2]
        if few and name == "energy_distance":
            return f"it takes two cells, and there is one of {some(map(_words, few), 3)}"
        return "no baseline has an answer"

    def _worse(self) -> list[str]:
        """Every cell type and metric in which the model is worse than a baseline."""
        worse: dict[str, list[str]] = defaultdict(list)
        for c in self.comparisons:
            if c.scope != ALL and c.outcome == "worse":
                worse[c.scope].append(f"{shown(c.baseline)} on {BY_NAME[c.metric].title} {_figures_of(c)}")
        return [f"in {scope} alone the model loses to {', '.join(losses)}" for scope, losses in worse.items()]

    def _caveats(self, conditions: Collection[Condition]) -> list[str]:
        judged = {name for name, n in self.measured.n_controls.items() if n >= LEAST_CELLS}
        unjudged = {name: n for name, n in self.measured.n_controls.items() if name not in judged}
        lines = [
            f"{name} is not judged: {n} controls measure there, and {LEAST_CELLS} are needed ({_count(conditions, name)})"
            for name, n in unjudged.items()
        ]
        n_silent = sum(f"{c.dataset}.{c.cell_type}" in judged for c in set(conditions) - set(self.answered[MODEL]))
        if n_silent:
            lines.append(f"the model has no prediction for {n_silent} more")
        for name, found in self.answered.items():
            if not found and name != CEILING:
                lines.append(f"no answer from {shown(name)}: it answers {self.judged.answers.get(name, 'nothing here')}")
        single = sorted({s.condition for s in self.measured.scores if s.n_cells < 2})
        if single:
            lines.append(f"one cell has no spread: the energy distance is undefined for {some(map(_words, single), 3)}")
        if not self.judged.controls_set_aside:
            lines.append(
                "controls not set aside: the model may have trained on the controls that measure, which flatters it, so no win is "
                "declared; judge it on the files and names of its training, or train it with evaluation.control_fraction"
            )
        n = sum(c.scope == ALL for c in self.comparisons)
        lines.append(
            f'"beats": the {CONFIDENCE:.0%} interval, corrected for {n} comparisons, lies on the better side; "loses": the plain '
            f"interval lies on the worse side; on fewer than {FEW} conditions, and where no "
            "change is not beaten, nothing is won"
        )
        return lines


def _seen(n_trained: int, n: int) -> str:
    """How many of so many conditions the model was trained on."""
    if n == 1:
        return "which the model was trained on" if n_trained else "which the model was not trained on"
    count = {0: "none", n: "all"}.get(n_trained, str(n_trained))
    return f"{count} of which the model was trained on"


def _against(comparison: Comparison, n_conditions: int) -> str:
    n = comparison.n_conditions
    where = f", on {n} of them" if n < n_conditions else ""
    if n < FEW:
        where = f", on only {n} condition{'s' if n > 1 else ''}"
    return f"{shown(comparison.baseline)} {_figures_of(comparison, where)}"


def _figures_of(comparison: Comparison, where: str = "") -> str:
    return f"({comparison.model:.3g} against {comparison.other:.3g}{where})"


def _count(conditions: Collection[Condition], context: str) -> str:
    n = sum(f"{c.dataset}.{c.cell_type}" == context for c in conditions)
    return f"{n} condition{'s' if n > 1 else ''}"


def _words(condition: Condition) -> str:
    return f"{condition.perturbation} in {condition.dataset}.{condition.cell_type}"


def shown(name: str) -> str:
    """Name of a predictor as people write it."""
    return name.replace("_", " ")
