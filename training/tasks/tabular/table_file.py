"""Reads a CSV file into columns of text, numbers and gaps, and refuses what is neither with its row and column."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.errors import UserError, did_you_mean
from training.text import escaped, some

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})
"""What stands for no value, in any case of letters."""


@dataclass(frozen=True)
class CsvTable:
    """The cells of a CSV file as text, row by row."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    """Line of the file on which each row ends."""

    def column(self, name: str) -> tuple[str | None, ...]:
        """The cells of a column, without spaces around them; None where there is no value.

        Raises: UserError for a name that the file does not have.
        """
        if name not in self.columns:
            near = did_you_mean(name, self.columns)
            raise UserError(f"{self.path}: no column {name!r} (accepted: {some(map(escaped, self.columns), 20)}){near}")
        position = self.columns.index(name)
        cells = (row[position].strip() for row in self.rows)
        return tuple(None if cell.lower() in MISSING else cell for cell in cells)

    def numbers(self, name: str) -> npt.NDArray[np.float64] | None:
        """A column as numbers, with NaN where there is no value; None for a column of text.

        Raises: UserError for a column of numbers and text, or with an infinite number.
        """
        cells = self.column(name)
        values = [nan if cell is None else _number(cell) for cell in cells]
        text = [row for row, value in enumerate(values) if value is None]
        n_numbers = sum(cell is not None for cell in cells) - len(text)
        if text and n_numbers == 0:
            return None
        if text:
            what = f"no number, as {n_numbers:,} values of this column are"
            raise UserError(f"{self.cell(text[0], name)}: {what} (accepted: numbers alone or text alone)")
        infinite = [row for row, value in enumerate(values) if value in (float("inf"), float("-inf"))]
        if infinite:
            raise UserError(f"{self.cell(infinite[0], name)}: is infinite (accepted: finite numbers, empty where there is none)")
        return np.array(values, np.float64)

    def cell(self, row: int, name: str) -> str:
        """A cell with its place and value, as a refusal begins."""
        value = self.rows[row][self.columns.index(name)]
        return f"{self.path}: line {self.lines[row]} (row {row + 1}), column {escaped(name)}: {escaped(value)!r}"


def read_csv(path: Path) -> CsvTable:
    """Read a CSV file with a header.

    Raises: UserError if it cannot be read, has no rows, or has rows of another width than its header.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            header = tuple(name.strip() for name in next(reader, []))
            rows: list[tuple[str, ...]] = []
            lines: list[int] = []
            for row in reader:
                if row:  # an empty line is no row
                    rows.append(tuple(row))
                    lines.append(reader.line_num)
    except FileNotFoundError:
        there = sorted(found.name for found in path.parent.glob("*.csv")) if path.parent.is_dir() else []
        raise UserError(f"{path}: no such file{did_you_mean(path.name, there)} (accepted: a CSV file with a header)") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = escaped(" ".join(str(error).split()))
        raise UserError(f"{path}: not a readable CSV file: {why} (accepted: UTF-8, commas between values, a header)") from None
    _refuse_header(path, header)
    for line, cells in zip(lines, rows, strict=True):
        if len(cells) != len(header):
            raise UserError(
                f"{path}: line {line} has {len(cells)} values (accepted: {len(header)}, as the header has names); quote values "
                "that hold commas"
            )
    if not rows:
        raise UserError(f"{path}: has no rows (accepted: a header and at least one row a class)")
    return CsvTable(path, header, tuple(rows), tuple(lines))


def _refuse_header(path: Path, header: Sequence[str]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice or "" in header or not header:
        why = f"names {some(map(escaped, twice))} twice" if twice else "has a column without a name" if header else "is missing"
        raise UserError(f"{path}: line 1: the header {why} (accepted: a different name for each column)")


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if isfinite(value) or "inf" in cell.lower() else float("inf")  # 1e999 is no number that can be stored
