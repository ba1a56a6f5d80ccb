"""What the report says of a transition model: its figures beside baselines, and each condition."""

import csv
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from training.reporting.html import missing, number, read_json, table
from training.tasks.perturbation.evaluation.evaluate import CEILING
from training.tasks.perturbation.evaluation.metrics import BY_NAME, METRICS
from training.tasks.perturbation.evaluation.verdict import MODEL, PHRASES, shown


def sections(run: Path) -> Sequence[tuple[str, str]]:
    """The figures of metrics.json, and the conditions of its table."""
    metrics = read_json(run / "metrics.json")
    conditions = _conditions(run / str(metrics.get("table", "evaluation.csv")))
    return [("Metrics", _metrics(metrics)), ("Conditions", conditions)]


def _metrics(metrics: Mapping[str, Any]) -> str:
    if not metrics:
        return missing("No metrics.json yet.")
    figures = {MODEL: metrics.get("model", {}), **metrics.get("baselines", {}), CEILING: metrics.get("ceiling", {})}
    names = ("checkpoint", "step", "split", "split_file", "n_conditions", "n_conditions_trained_on", "max_cells", "draws", "seed")
    told = {name: escape(str(metrics.get(name, "?"))) for name in names}
    parts = [
        f"<p>Judged: {told['checkpoint']} (step {told['step']}), on split {told['split']} of {told['split_file']}: "
        f"{told['n_conditions']} conditions, of which the model was trained on {told['n_conditions_trained_on']}.</p>",
        f"<p>Means over conditions, ± half of the 95 % interval; at most {told['max_cells']} real cells a condition. "
        f"Every predictor starts from the same control cells; figures average {told['draws']} draws of them (evaluation.seed "
        f"{told['seed']}). {escape(_controls(metrics))} A predictor that answers fewer conditions than its neighbour has a mean "
        "over other conditions: the comparisons below are over the conditions that both answer. The ceiling is a repeat of the "
        "experiment: one half of the real cells as a prediction of the other, its correlations corrected to all cells "
        "(Spearman-Brown). It has noise of its own, so a prediction without noise may lie above it.</p>",
        _figures_table(figures, metrics.get("n_conditions_answered", {}), metrics.get("margins", {})),
        "<h3>Comparisons</h3>",
        _comparisons(metrics.get("comparisons", ())),
    ]
    for name, own in metrics.get("cell_types", {}).items():
        parts += [f"<details open><summary>{escape(name)}</summary>", _figures_table(own, {}, {}), "</details>"]
    parts.append("<dl>" + "".join(f"<dt>{escape(m.title)}</dt><dd>{escape(m.sentence)}</dd>" for m in METRICS) + "</dl>")
    return "\n".join(parts)


def _controls(metrics: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{name} {n}" for name, n in metrics.get("n_controls", {}).items())
    if metrics.get("controls_set_aside", True):
        return f"These and the controls that measure real shifts were set aside from training ({counts})."
    return f"Controls were not set aside: the model may have trained on those that measure, which flatters it ({counts})."


def _figures_table(
    figures: Mapping[str, Mapping[str, Any]], counts: Mapping[str, int], margins: Mapping[str, Mapping[str, Any]]
) -> str:
    header = ["", *(f"{metric.title} ({metric.better})" for metric in METRICS), *(["conditions"] if counts else [])]
    rows = []
    for name, values in figures.items():
        own = margins.get(name, {})
        cells = [number(values.get(m.name)) + (f" ± {number(own[m.name])}" if own.get(m.name) is not None else "") for m in METRICS]
        rows.append((name, [shown(name), *cells, *([str(counts.get(name, 0))] if counts else [])]))
    return table(header, rows)


def _comparisons(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """The model beside each baseline, over the conditions that both answer."""
    header = ["baseline", "metric", "conditions of", "number", "model", "baseline", "gain", "for a win more than", "the model"]
    rows = []
    for c in comparisons:
        gain = f"{number(c['gain'])} ± {number(c['margin'])}"
        figures = [number(c["model"]), number(c["other"]), gain, number(c["corrected_margin"])]
        named = [shown(c["baseline"]), BY_NAME[c["metric"]].title, c["scope"], str(c["n_conditions"])]
        rows.append((c["outcome"], [*named, *figures, PHRASES[c["outcome"]]]))
    return table(header, rows) if rows else missing("No baseline has an answer.")


def _conditions(path: Path) -> str:
    """The model's figures for each condition, with the ceiling of the cosine beside them."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            scores = list(csv.DictReader(file))
    except OSError:
        return missing(f"No {path.name} yet.")
    figures: dict[tuple[str, ...], dict[str, str]] = {}
    ceiling: dict[tuple[str, ...], str] = {}
    for score in scores:
        condition = tuple(score[name] for name in ("dataset", "cell_type", "perturbation", "n_cells"))
        if score["predictor"] == MODEL:
            figures.setdefault(condition, {})[score["metric"]] = score["value"]
        elif score["predictor"] == CEILING and score["metric"] == "cosine":
            ceiling[condition] = score["value"]
    header = ["perturbation", "cell type", "data set", "cells", *(metric.title for metric in METRICS), "ceiling of the cosine"]
    rows = [
        ("", [c[2], c[1], c[0], c[3], *(number(values.get(m.name)) for m in METRICS), number(ceiling.get(c))])
        for c, values in figures.items()
    ]
    return f"<details open><summary>{len(rows)} conditions</summary>{table(header, rows)}</details>"
