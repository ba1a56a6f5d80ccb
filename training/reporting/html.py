"""Pieces of an HTML page."""

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def missing(what: str) -> str:
    """A sentence on what is not there."""
    return f'<p class="missing">{escape(what)}</p>'


def table(header: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """An HTML table; each row comes with its CSS class."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = [f'<tr class="{escape(kind)}">' + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for kind, row in rows]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def number(value: object) -> str:
    """Three digits; a dash for what is no number."""
    try:
        return f"{float(str(value)):.3g}"
    except ValueError:
        return "-"
