"""report.html: one page about a run, drawn from its folder alone, that needs no network."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from training.files import write_text
from training.reporting.curves import History, Panel, draw, read_history
from training.reporting.html import missing, read_json, table

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


def write_report(run_directory: Path, panels: Sequence[Panel], sections: Sequence[tuple[str, str]]) -> Path:
    """Write report.html into a run's folder; what is not there yet is said and left out.

    Args:
        run_directory: The run.
        panels: Curves to draw.
        sections: Heading and HTML of the task's own parts; the first stands before the curves.

    Returns: the path of the report.
    """
    metrics = read_json(run_directory / "metrics.json")
    body = "\n".join(
        [
            f"<h1>{escape(run_directory.resolve().name)}</h1>",
            _verdict(metrics),
            *(f"<h2>{escape(heading)}</h2>\n{html}" for heading, html in sections[:1]),
            "<h2>Curves</h2>",
            _curves(read_history(run_directory / "metrics.jsonl"), panels),
            *(f"<h2>{escape(heading)}</h2>\n{html}" for heading, html in sections[1:]),
            "<h2>The run</h2>",
            _facts(read_json(run_directory / "run.json")),
            "<h2>Configuration</h2>",
            _text(run_directory / "config.yaml"),
        ]
    )
    head = f'<meta charset="utf-8"><title>{escape(run_directory.resolve().name)}</title><style>{STYLE}</style>'
    report = run_directory / "report.html"
    write_text(report, f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n')
    return report


def _verdict(metrics: Mapping[str, Any]) -> str:
    if "verdict" not in metrics:
        return missing("No verdict: metrics.json is not there or not readable; `training evaluate` writes it.")
    return f'<p class="verdict">{escape(str(metrics["verdict"]))}</p>'


def _curves(history: History, panels: Sequence[Panel]) -> str:
    drawn = [(panel.title, draw(panel, history)) for panel in panels]
    figures = [f"<figure>{svg}<figcaption>{escape(title)}</figcaption></figure>" for title, svg in drawn if svg]
    notes = [missing(f"{title}: nothing logged.") for title, svg in drawn if not svg]
    if history.n_unreadable:
        notes.append(missing(f"{history.n_unreadable} lines of metrics.jsonl were not readable and are left out."))
    return f'<div class="curves">{"".join(figures)}</div>' + "".join(notes)


def _facts(facts: Mapping[str, Any]) -> str:
    if not facts:
        return missing("No run.json, or not readable.")
    starts = facts.get("starts", [])
    rows = []
    for name, value in facts.items():
        if name != "starts":
            text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
            rows.append(f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(text)}</dd>")
    return f"<dl>{''.join(rows)}</dl>" + (_starts(starts) if starts else "")


def _starts(starts: Sequence[Mapping[str, Any]]) -> str:
    header = list(dict.fromkeys(name for start in starts for name in start))
    return "<p>Starts and resumes:</p>" + table(header, [("", [str(start.get(name, "")) for name in header]) for start in starts])


def _text(path: Path) -> str:
    try:
        return f"<pre>{escape(path.read_text(encoding='utf-8'))}</pre>"
    except OSError:
        return missing(f"No {path.name}.")
