"""What kind of gene values a matrix holds, told by what is the same in every cell.

Library-normalised counts sum to one number in every cell, over all genes. So the function of `X` whose sum over the genes is the
same in every cell says what was done to them: expm1(X) for log1p, 2**X - 1 for log2(x + 1), X itself where no logarithm was taken.
Where no sum is the same nothing is known: genes were left out after the normalisation, or cells were normalised otherwise.

How near to the same (spread: from the 5th to the 95th percentile of the sums, as a share of their median; 2026-11-25): the right
function 1e-8 to 1e-6 in float32, 1e-2 in float16, 4e-4 to 7e-3 where genes seen in less than 10 % of the cells are left out. The
wrong ones 0.1 to 6 in real cells; down to 1e-3 in simulated cells that differ by sampling noise alone, yet there too 10 times the
right one's. Of the highly variable genes alone the least spread is 5 in real cells, and 5e-3 to 0.2 in simulated ones, and that of
the next function is at most 2 times the least. Hence both limits below.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from training.cells import FloatArray, IntArray

MAX_LOG1P = 15.0
"""No log1p value of library-normalised counts is above: in a library of a million the highest is log1p(1e6) = 13.8."""
MAX_SPREAD = 0.01
"""Sums spread no further than this where they count as one number."""
MIN_RATIO = 10.0
"""So many times further spread the sums of every other function."""
FLOAT32_SPREAD = 1e-6
"""Spread of sums that are one number, as float32 stores the values; no ratio is taken to less."""
MIN_CELLS = 20
"""Cells with any value; among fewer, sums may be alike by chance."""
_RUNS, _RUN_LENGTH = 64, 16
"""Cells that are looked at, in runs that a file yields at once."""
_MAX_POWER = 30.0
"""What a logarithm of normalised counts cannot reach: e**30 is 1e13."""

_Array = npt.NDArray[np.float64]
KindName = Literal["log1p", "log2", "log10", "twice", "unlogged"]


@dataclass(frozen=True)
class _Function:
    """What undoes a kind of values."""

    kind: KindName
    formula: str
    """With {} for the matrix."""
    highest: float
    """Values above are not of this kind."""
    undo: Callable[[_Array], _Array]


_LN2, _LN10 = float(np.log(2)), float(np.log(10))
_FUNCTIONS = (
    _Function("log1p", "expm1({})", _MAX_POWER, np.expm1),
    _Function("log2", "2**{} - 1", _MAX_POWER / _LN2, lambda x: np.expm1(x * _LN2)),
    _Function("log10", "10**{} - 1", _MAX_POWER / _LN10, lambda x: np.expm1(x * _LN10)),
    _Function("twice", "expm1(expm1({}))", float(np.log1p(_MAX_POWER)), lambda x: np.expm1(np.expm1(x))),
    _Function("unlogged", "{}", np.inf, lambda x: x),
)


@dataclass(frozen=True)
class Evidence:
    """The function of a matrix whose sum over the genes is one number in every cell."""

    kind: KindName
    formula: str
    """With {} for the matrix."""
    total: float
    """The number."""
    n_cells: int
    n_genes: int

    def told(self, name: str) -> str:
        """What was seen in the matrix `name`."""
        formula, total = self.formula.format(name), f"{self.total:.5g}"
        return f"the sum of {formula} over its {self.n_genes} genes is {total} in each of {self.n_cells} cells"


def evidence_of(values: FloatArray) -> Evidence | None:
    """What is the same in every cell, or None where nothing is, or several things are.

    Shape: values (N, genes); cells with values that are not finite, or negative, are left out.
    """
    values = values[np.isfinite(values).all(1) & (values >= 0).all(1)]
    rows, columns = np.nonzero(values)
    nonzero = values[rows, columns].astype(np.float64)
    filled = np.unique(rows)
    if len(filled) < MIN_CELLS:
        return None
    highest, spreads, totals = nonzero.max(), [], []
    for function in _FUNCTIONS:
        if highest > function.highest:
            spreads.append(np.inf)
            totals.append(np.nan)
            continue
        sums = np.bincount(rows, function.undo(nonzero), len(values))[filled]
        low, middle, high = np.quantile(sums, [0.05, 0.5, 0.95])
        spreads.append((high - low) / middle)
        totals.append(middle)
    best, second = np.argsort(spreads, kind="stable")[:2]
    if spreads[best] > MAX_SPREAD or spreads[second] < MIN_RATIO * max(spreads[best], FLOAT32_SPREAD):
        return None
    found = _FUNCTIONS[best]
    return Evidence(found.kind, found.formula, float(totals[best]), len(filled), values.shape[1])


def looks_like(values: FloatArray) -> str:
    """`raw counts`, `log1p values`, ...: what the values are in words, on the evidence or, without any, by their range.

    Shape: values (N, genes), finite.
    """
    if not len(values) or not values.any():
        return "zeros"
    if values.min() < 0:
        return "negative values"
    if np.array_equal(values, np.rint(values)):
        return "raw counts"
    evidence = evidence_of(values)
    if evidence is None:
        return "log1p values" if values.max() <= MAX_LOG1P else "values without a logarithm"
    return KINDS[evidence.kind]


KINDS: dict[KindName, str] = {
    "log1p": "log1p values",
    "log2": "log2(x + 1) of normalised counts",
    "log10": "log10(x + 1) of normalised counts",
    "twice": "log1p applied twice",
    "unlogged": "normalised counts without a logarithm",
}
"""What each kind is called."""


def rows_to_look_at(n_obs: int) -> IntArray:
    """Some 1,000 cells spread over a file, in runs. Shape: (N,), sorted."""
    if n_obs <= _RUNS * _RUN_LENGTH:
        return np.arange(n_obs)
    firsts = np.linspace(0, n_obs - _RUN_LENGTH, _RUNS).astype(np.int64)
    return np.unique(firsts[:, None] + np.arange(_RUN_LENGTH))
