"""Values of cells from one file, and whether they are what the run expects.

How raw counts are told from log1p values, on a sample of the cells: they are raw counts if all are whole numbers, and log1p of
library-normalised counts if not all are whole and none is above 15. (In a library of a million log1p is at most log1p(1e6) = 13.8;
normalised counts that were not logged go above 15 in some gene.) Values that are all 0 say nothing and pass. What the rule cannot
see: counts normalised to a library size of 15 or less and not logged.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from training.cells import FloatArray, IntArray
from training.data.h5ad import H5adFile
from training.refusal import Refused

MAX_LOG1P = 15.0
"""No log1p value of library-normalised counts is above."""
SAMPLED_ROWS = 20_000
"""Cells of a file that are checked before a run; every cell is checked for impossible values when it is read."""
_ROWS_AT_A_TIME = 512
_INFINITY = np.float32(np.inf).view(np.uint32)


@dataclass(frozen=True)
class Source:
    """Where in a file a representation lies."""

    obsm_key: str | None
    """Key in `obsm`; None: `X`."""
    columns: IntArray | None
    """Columns to take, in this order; None: all."""
    names: tuple[str, ...]
    """Names of the columns taken."""
    are_genes: bool
    """Whether the values are of genes, so that none is negative."""

    @property
    def where(self) -> str:
        """`X` or `obsm/<key>`."""
        return "X" if self.obsm_key is None else f"obsm/{self.obsm_key}"


def read_values(file: H5adFile, source: Source, rows: IntArray) -> FloatArray:
    """Values of the rows asked for, each of them possible.

    Shape: rows (N,) -> (N, number of columns taken).
    Raises: Refused for a value that is NaN, infinite or, in genes, negative, naming file, row and column.
    """
    if source.obsm_key is None:
        values = file.read_x(rows, source.columns)
    else:
        values = file.read_obsm(source.obsm_key, rows, source.columns)
    if source.are_genes:
        # As unsigned integers every finite number from 0 on is below infinity, and NaN and negative numbers are not: one pass.
        possible = values.size == 0 or values.view(np.uint32).max() < _INFINITY
    else:
        possible = bool(np.isfinite(values).all())
    if not possible:
        _refuse_impossible(file, source, rows, values)
    return values


@dataclass
class _Seen:
    """What a sample of gene values looks like; shares are of the values that are not 0."""

    lowest: float = np.inf
    highest: float = -np.inf
    n_nonzero: int = 0
    n_whole: int = 0
    examples: tuple[float, ...] = ()
    """Fractions if there are any, else whole numbers."""

    def add(self, values: FloatArray) -> None:
        nonzero, fraction = values != 0, values != np.rint(values)
        n_fractions = np.count_nonzero(fraction)
        if n_fractions and self.n_whole == self.n_nonzero:
            self.examples = _first(values, fraction)
        elif not self.examples:
            self.examples = _first(values, nonzero)
        self.lowest, self.highest = min(self.lowest, float(values.min())), max(self.highest, float(values.max()))
        self.n_nonzero += int(np.count_nonzero(nonzero))
        self.n_whole += int(np.count_nonzero(nonzero) - n_fractions)

    def __str__(self) -> str:
        share = f"{100 * self.n_whole / self.n_nonzero:.3g} % of the values that are not 0 are whole numbers"
        return f"{share}, from {self.lowest:.6g} to {self.highest:.6g}, for example {', '.join(f'{x:.6g}' for x in self.examples)}"


def check_values(file: H5adFile, source: Source, expected: Literal["log1p", "counts"]) -> None:
    """Reads up to 20,000 cells, spread evenly over the file, and refuses genes that are not what the run expects.

    Raises: Refused for raw counts where log1p is expected, or the reverse, with what was seen; and for impossible values.
    """
    seen = _Seen()
    sample = np.unique(np.linspace(0, file.n_obs - 1, min(file.n_obs, SAMPLED_ROWS)).astype(np.int64))
    for first in range(0, len(sample), _ROWS_AT_A_TIME):
        values = read_values(file, source, sample[first : first + _ROWS_AT_A_TIME])
        if source.are_genes:
            seen.add(values)
    if seen.n_nonzero == 0:
        return
    all_whole = seen.n_whole == seen.n_nonzero
    if expected == "counts" and not all_whole:
        raise Refused(
            f"{file.path}: {source.where} is not raw counts, which data.values: counts expects: {seen}; "
            "accepted: whole numbers; set data.values: log1p if these are log1p of normalised counts"
        )
    if expected == "log1p" and (all_whole or seen.highest > MAX_LOG1P):
        looks = "raw counts" if all_whole else "normalised counts without a logarithm"
        raise Refused(
            f"{file.path}: {source.where} looks like {looks}, and data.values: log1p expects log1p of normalised counts: {seen}; "
            f"accepted: not all whole, none above {MAX_LOG1P:g}; run scanpy's normalize_total and log1p"
            + (", or set data.values: counts" if all_whole else "")
        )


def _first(values: FloatArray, chosen: npt.NDArray[np.bool_]) -> tuple[float, ...]:
    at = np.flatnonzero(chosen)[:3]
    return tuple(float(value) for value in values.ravel()[at])


def _refuse_impossible(file: H5adFile, source: Source, rows: IntArray, values: FloatArray) -> None:
    bad = ~np.isfinite(values)
    if source.are_genes:
        bad |= values < 0
    found = np.argwhere(bad)
    if len(found) == 0:
        return  # minus zero
    row, column = found[0]
    raise Refused(
        f"{file.path}: {source.where} has the value {values[row, column]:g} in row {rows[row]}, column {source.names[column]!r} "
        f"({len(found)} such values in the {len(rows)} rows read); "
        f"accepted: finite numbers{', 0 or above' if source.are_genes else ''}"
    )
