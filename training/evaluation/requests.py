"""What is to be predicted: the conditions of a split, or the rows of a table."""

import csv
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from training.cells import Condition, Split
from training.config import CellSetsConfig
from training.data.assemble import Cells
from training.data.labels import identity
from training.data.table import CellTable
from training.errors import UserError, did_you_mean
from training.text import some

log = logging.getLogger(__name__)

SEPARATORS = {".csv": (",", ";", "\t"), ".tsv": ("\t", ",", ";")}
"""The usual separator first; that of the file is the one that its header is written with."""
REQUIRED = ("perturbation", "cell_type", "n_cells")
OPTIONAL = ("dataset",)
MAX_CELLS_A_ROW = 10_000_000
"""More than any screen has of one condition; a slip of the finger would otherwise fill the memory."""


@dataclass(frozen=True)
class Request:
    """So many predicted cells of one condition."""

    condition: Condition
    n_cells: int


def requests_of_split(cells: Cells, split: Split) -> tuple[Request, ...]:
    """As many predicted cells for every condition of a split as it has real ones.

    Raises: UserError if the split has no perturbed cells.
    """
    requests = [Request(condition, len(cells.cells_of(condition, split))) for condition in cells.conditions(split)]
    if not requests:
        having = [name for name in ("train", "val", "test") if cells.conditions(name)]
        raise UserError(f"{cells.config.split}: no perturbed cells are in split {split} (splits with some: {', '.join(having)})")
    return tuple(requests)


def requests_of_table(path: Path, cells: Cells, perturbations: Collection[str]) -> tuple[Request, ...]:
    """The rows of a .csv or .tsv with the columns perturbation, cell_type, n_cells and, where it is needed, dataset.

    The first two may be called as in the run's own data. A first column without a name is an index, and is not read.

    `perturbations` are the names that the model has vectors for: those of the data, and those of the features file. Another name
    for one of them (`B+A` for `A+B`, `A+control` for `A`) is taken for it, and logged.

    Raises: UserError naming file, line, value and what is accepted, for the first row that cannot be predicted.
    """
    contexts, known, other_names = _contexts(cells.table), frozenset(perturbations), _OtherNames(cells, perturbations)
    line_of: dict[Condition, int] = {}
    requests = []
    for line, row in _rows(path, cells.config):
        where = f"{path}:{line}"
        if row["perturbation"] not in known and (name := other_names.known_as(row["perturbation"])) is not None:
            log.info("%s: %s is taken for %s, which names the same perturbations", where, row["perturbation"], name)
            row["perturbation"] = name
        if row["perturbation"] not in known:
            raise UserError(_unknown(where, "perturbation", row["perturbation"], perturbations))
        condition = Condition(_dataset(where, row, contexts), row["cell_type"], row["perturbation"])
        if condition in line_of:
            raise UserError(f"{where}: {_told(row)}: line {line_of[condition]} asks for the same condition; put them into one row")
        line_of[condition] = line
        requests.append(Request(condition, _n_cells(where, row["n_cells"])))
    if not requests:
        raise UserError(f"{path}: no rows below the header, so there is nothing to predict")
    return tuple(requests)


class _OtherNames:
    """The known perturbations by what their names name."""

    def __init__(self, cells: Cells, perturbations: Collection[str]) -> None:
        self._control, self._separator = cells.table.control, cells.config.separator
        self._known: dict[tuple[str, ...], set[str]] = {}
        for name in perturbations:
            self._known.setdefault(self._identity(name), set()).add(name)

    def known_as(self, name: str) -> str | None:
        """The one known perturbation of the same parts; None where there is none, or several. The control has no other name."""
        own = self._identity(name)
        found = self._known.get(own, set()) if own else set()
        return next(iter(found)) if len(found) == 1 else None

    def _identity(self, name: str) -> tuple[str, ...]:
        return identity(name, self._control, self._separator)


def _contexts(table: CellTable) -> dict[str, tuple[str, ...]]:
    """Cell type -> data sets that have it, and controls of it with it (`assemble.py` refuses cell types without)."""
    pairs = np.unique(np.stack([table.cell_type.codes, table.dataset.codes]), axis=1).T
    contexts: dict[str, tuple[str, ...]] = {}
    for cell_type, dataset in pairs:
        name = table.cell_type.names[cell_type]
        contexts[name] = (*contexts.get(name, ()), table.dataset.names[dataset])
    return contexts


def _rows(path: Path, config: CellSetsConfig) -> list[tuple[int, dict[str, str]]]:
    if path.suffix not in SEPARATORS:
        raise UserError(f"{path}: a table of what to predict ends in {' or '.join(SEPARATORS)}")
    named = {config.perturbation_column: "perturbation", config.cell_type_column: "cell_type"}
    named |= {column: column for column in (*REQUIRED, *OPTIONAL)}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter=_separator(path, file, named), strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(cell.strip() for cell in row)]
    except FileNotFoundError:
        raise UserError(f"{path}: no such table") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable table: {error}") from None
    if lines and not lines[0][1][0]:  # an index, as pandas writes it
        lines = [(line, row[1:]) for line, row in lines]
    header = [named.get(column, column) for column in lines[0][1]] if lines else []
    _check_header(path, header, lines[0][1] if lines else [], named)
    for line, row in lines[1:]:
        if len(row) != len(header):
            raise UserError(f"{path}:{line}: {len(row)} values ({some(row)}) for {len(header)} columns ({', '.join(header)})")
    return [(line, dict(zip(header, row, strict=True))) for line, row in lines[1:]]


def _separator(path: Path, file: TextIO, named: Mapping[str, str]) -> str:
    """The separator that cuts the header into most of the columns that are known."""
    header = next((line for line in file if line.strip()), "")
    file.seek(0)

    def known(separator: str) -> int:
        cut = next(csv.reader([header], delimiter=separator), [])
        return sum(column.strip() in named for column in cut)

    return max(SEPARATORS[path.suffix], key=known)


def _check_header(path: Path, header: Sequence[str], written: Sequence[str], named: Mapping[str, str]) -> None:
    """`header` has our names of the columns, `written` those of the file."""
    for column in header:
        if column not in named:
            raise UserError(_unknown(f"{path}:1", "column", column, named))
        if header.count(column) > 1:
            same = [other for name, other in zip(header, written, strict=True) if name == column]
            times = f"{len(same)} times{'' if len(set(same)) == 1 else f', as {some(same)}'}"
            raise UserError(f"{path}:1: column {column} stands there {times}")
    for column in REQUIRED:
        if column not in header:
            also = next((f" or {other}" for other, name in named.items() if name == column != other), "")
            needed = f"columns: {', '.join(written) or 'none'}; needed: {', '.join(REQUIRED)}"
            raise UserError(f"{path}:1: no column {column}{also} ({needed})")


def _dataset(where: str, row: Mapping[str, str], contexts: Mapping[str, tuple[str, ...]]) -> str:
    if row["cell_type"] not in contexts:
        raise UserError(_unknown(where, "cell_type", row["cell_type"], contexts))
    datasets, dataset = contexts[row["cell_type"]], row.get("dataset", "")
    if dataset and dataset not in datasets:
        raise UserError(_unknown(where, f"dataset of {row['cell_type']}", dataset, datasets))
    if not dataset and len(datasets) > 1:
        raise UserError(
            f"{where}: cell_type {row['cell_type']} is in the data sets {some(datasets)}: say which in a column dataset"
        )
    return dataset or datasets[0]


def _n_cells(where: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= len(str(MAX_CELLS_A_ROW)) and 0 < int(value) <= MAX_CELLS_A_ROW):
        raise UserError(f"{where}: n_cells {value[:40]!r}: a whole number of at least 1 and at most {MAX_CELLS_A_ROW:,} is wanted")
    return int(value)


def _unknown(where: str, what: str, value: str, accepted: Collection[str]) -> str:
    return f"{where}: unknown {what} {value!r}{did_you_mean(value, accepted)} (accepted: {some(accepted)})"


def _told(row: Mapping[str, str]) -> str:
    return f"{row['perturbation']} in {row['cell_type']}"
