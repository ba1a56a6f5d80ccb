"""report.html: one page about a run, drawn from its folder alone, that needs no network."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from training.evaluation.curves import PANELS, History, draw, read_history
from training.evaluation.evaluate import CEILING
from training.evaluation.metrics import BY_NAME, METRICS
from training.evaluation.verdict import MODEL, PHRASES, shown
from training.files import write_text

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: .2rem; } h2 { margin-top: 2.2rem; border-bottom: 1px solid #ccc; }
.verdict { background: #f3f6fa; border-left: 5px solid #4477aa; padding: .8rem 1rem; white-space: pre-line; }
.missing { color: #777; font-style: italic; }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e3e3e3; }
th { background: #fafafa; vertical-align: bottom; } th:first-child, td:first-child { text-align: left; }
tr.model td { font-weight: bold; } tr.ceiling td { color: #777; } tr.worse td:last-child { font-weight: bold; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem; }
figure { margin: 0; break-inside: avoid; } figcaption { font-weight: bold; } svg { width: 100%; height: auto; }
pre { background: #f7f7f7; padding: 1rem; overflow-x: auto; font-size: 13px; }
dt { font-weight: bold; } dd { margin: 0 0 .4rem 1rem; }
@media print { body { max-width: none; margin: 0; } pre { white-space: pre-wrap; } }
"""


def write_report(run_directory: Path) -> Path:
    """Write report.html into a run's folder; what is not there yet is said and left out.

    Returns: the path of the report.
    """
    metrics = _json(run_directory / "metrics.json")
    body = "\n".join(
        [
            f"<h1>{escape(run_directory.resolve().name)}</h1>",
            _verdict(metrics),
            "<h2>Metrics</h2>",
            _metrics(metrics),
            "<h2>Curves</h2>",
            _curves(read_history(run_directory / "metrics.jsonl")),
            "<h2>Conditions</h2>",
            _conditions(run_directory / str(metrics.get("table", "evaluation.csv"))),
            "<h2>The run</h2>",
            _facts(_json(run_directory / "run.json")),
            "<h2>Configuration</h2>",
            _text(run_directory / "config.yaml"),
        ]
    )
    head = f'<meta charset="utf-8"><title>{escape(run_directory.resolve().name)}</title><style>{STYLE}</style>'
    report = run_directory / "report.html"
    write_text(report, f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n')
    return report


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _missing(what: str) -> str:
    return f'<p class="missing">{escape(what)}</p>'


def _verdict(metrics: Mapping[str, Any]) -> str:
    if "verdict" not in metrics:
        return _missing("No verdict: metrics.json is not there or not readable; `training evaluate` writes it.")
    return f'<p class="verdict">{escape(str(metrics["verdict"]))}</p>'


def _metrics(metrics: Mapping[str, Any]) -> str:
    if not metrics:
        return _missing("No metrics.json yet.")
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
        cells = [
            _number(values.get(m.name)) + (f" ± {_number(own[m.name])}" if own.get(m.name) is not None else "") for m in METRICS
        ]
        rows.append((name, [shown(name), *cells, *([str(counts.get(name, 0))] if counts else [])]))
    return _table(header, rows)


def _comparisons(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """The model beside each baseline, over the conditions that both answer."""
    header = ["baseline", "metric", "conditions of", "number", "model", "baseline", "gain", "for a win more than", "the model"]
    rows = []
    for c in comparisons:
        gain = f"{_number(c['gain'])} ± {_number(c['margin'])}"
        figures = [_number(c["model"]), _number(c["other"]), gain, _number(c["corrected_margin"])]
        named = [shown(c["baseline"]), BY_NAME[c["metric"]].title, c["scope"], str(c["n_conditions"])]
        rows.append((c["outcome"], [*named, *figures, PHRASES[c["outcome"]]]))
    return _table(header, rows) if rows else _missing("No baseline has an answer.")


def _curves(history: History) -> str:
    drawn = [(panel.title, draw(panel, history)) for panel in PANELS]
    figures = [f"<figure>{svg}<figcaption>{escape(title)}</figcaption></figure>" for title, svg in drawn if svg]
    notes = [_missing(f"{title}: nothing logged.") for title, svg in drawn if not svg]
    if history.n_unreadable:
        notes.append(_missing(f"{history.n_unreadable} lines of metrics.jsonl were not readable and are left out."))
    return f'<div class="curves">{"".join(figures)}</div>' + "".join(notes)


def _conditions(path: Path) -> str:
    """The model's figures for each condition, with the ceiling of the cosine beside them."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            scores = list(csv.DictReader(file))
    except OSError:
        return _missing(f"No {path.name} yet.")
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
        ("", [c[2], c[1], c[0], c[3], *(_number(values.get(m.name)) for m in METRICS), _number(ceiling.get(c))])
        for c, values in figures.items()
    ]
    return f"<details open><summary>{len(rows)} conditions</summary>{_table(header, rows)}</details>"


def _facts(facts: Mapping[str, Any]) -> str:
    if not facts:
        return _missing("No run.json, or not readable.")
    starts = facts.get("starts", [])
    rows = []
    for name, value in facts.items():
        if name != "starts":
            text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
            rows.append(f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(text)}</dd>")
    return f"<dl>{''.join(rows)}</dl>" + (_starts(starts) if starts else "")


def _starts(starts: Sequence[Mapping[str, Any]]) -> str:
    header = list(dict.fromkeys(name for start in starts for name in start))
    return "<p>Starts and resumes:</p>" + _table(header, [("", [str(start.get(name, "")) for name in header]) for start in starts])


def _text(path: Path) -> str:
    try:
        return f"<pre>{escape(path.read_text(encoding='utf-8'))}</pre>"
    except OSError:
        return _missing(f"No {path.name}.")


def _table(header: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """An HTML table; each row comes with its CSS class."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = [f'<tr class="{escape(kind)}">' + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for kind, row in rows]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _number(value: object) -> str:
    try:
        return f"{float(str(value)):.3g}"
    except ValueError:
        return "-"
