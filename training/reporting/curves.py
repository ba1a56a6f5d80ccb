"""metrics.jsonl as curves: the last word on every step, drawn as SVG that stands inside an HTML page."""

import io
import json
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure


@dataclass(frozen=True)
class History:
    """Logged values by name, as (step, value) in the order of the steps."""

    series: dict[str, list[tuple[int, float]]]
    n_unreadable: int
    """Lines that were no JSON object with a step, such as one cut off by a kill."""


@dataclass(frozen=True)
class Panel:
    """A figure: its caption, and patterns of the names that it shows."""

    title: str
    patterns: tuple[str, ...]
    is_coloured_by_stage: bool = True
    """Training and validation have their colours, the floor is dashed; otherwise each name has its own."""


COLOURS = {"train": "#4477aa", "val": "#cc3311"}


def read_history(path: Path) -> History:
    """Read metrics.jsonl; of a step that was logged again after a resume the last value counts.

    A missing file is an empty history.
    """
    values: dict[str, dict[int, float]] = {}
    n_unreadable = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            logged = json.loads(line)
            step = int(logged.pop("step"))
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
            n_unreadable += 1
            continue
        for name, value in logged.items():
            if isinstance(value, int | float):
                values.setdefault(name, {})[step] = float(value)
    return History({name: sorted(found.items()) for name, found in sorted(values.items())}, n_unreadable)


def draw(panel: Panel, history: History) -> str | None:
    """SVG of a panel, the same bytes for the same values; None where nothing was logged for it."""
    names = [name for name in history.series if any(fnmatchcase(name, pattern) for pattern in panel.patterns)]
    if not names:
        return None
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    for name in names:
        steps, values = zip(*history.series[name], strict=True)
        is_floor, is_val = name.endswith("_floor"), name.startswith("val/")
        axes.plot(
            steps,
            values,
            label=f"{name} (no change)" if is_floor else name,
            linestyle="--" if is_floor else "-",
            marker="o" if is_val or len(steps) == 1 else None,
            markersize=3,
            linewidth=1.2,
            color=COLOURS[name.partition("/")[0]] if panel.is_coloured_by_stage else None,
        )
    shown = [value for name in names for _, value in history.series[name]]
    if min(shown) > 0 and max(shown) > 10 * min(shown):  # a decoder starts far above where it ends
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("optimizer step")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    return _inline_svg(figure, panel.title)


def _inline_svg(figure: Figure, salt: str) -> str:
    text = io.StringIO()
    # The salt makes ids that are the same in every run, and not those of another figure of the page.
    with mpl.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    # Inside HTML an svg needs neither prologue nor namespaces; without them the page names no address at all.
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
