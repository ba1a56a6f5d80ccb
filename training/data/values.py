"""Values of cells from one file, and whether they are what the run expects.

How kinds are told apart, on a sample of the cells: raw counts are all whole numbers. Else the sums over the genes of a cell decide
where they say anything (`kinds.py`): whichever function of the values sums to one number in every cell undoes what was done to the
counts. Where no sum is constant (genes were left out after normalisation), values are log1p of library-normalised counts if none is
above 15. Values that are all 0 say nothing and pass.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from training.cells import FloatArray, IntArray
from training.data.elsewhere import NORMALISE, elsewhere
from training.data.h5ad import H5adFile
from training.data.h5ad_errors import rewritten
from training.data.kinds import KINDS, MAX_LOG1P, Evidence, evidence_of, rows_to_look_at
from training.errors import UserError

SAMPLED_ROWS = 20_000
"""Cells of a file that are checked before a run; every cell is checked for impossible values when it is read."""
_ROWS_AT_A_TIME = 512
_MAX_SCALED_MEAN, _MAX_SCALED_DEVIATION = 0.1, 0.3
"""How far columns that were scaled are from mean 0 and standard deviation 1 in a sample (a guess; clipping at 10 moves both)."""
_MANY_NEGATIVE = 0.01
"""Share of negative values above which they are no slip (a guess)."""
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

    @property
    def place(self) -> str:
        """The same in Python."""
        return "adata.X" if self.obsm_key is None else f"adata.obsm[{self.obsm_key!r}]"


def read_values(file: H5adFile, source: Source, rows: IntArray) -> FloatArray:
    """Values of the rows asked for, each of them possible.

    Shape: rows (N,) -> (N, number of columns taken).
    Raises: UserError for a value that is NaN, infinite or, in genes, negative, naming file, row and column.
    """
    values = _stored(file, source, rows)
    if not _is_possible(source, values):
        _refuse_impossible(file, source, rows, values)
    return values


def _stored(file: H5adFile, source: Source, rows: IntArray) -> FloatArray:
    if source.obsm_key is None:
        return file.read_x(rows, source.columns)
    return file.read_obsm(source.obsm_key, rows, source.columns)


def _is_possible(source: Source, values: FloatArray) -> bool:
    if source.are_genes:
        # As unsigned integers every finite number from 0 on is below infinity, and NaN and negative numbers are not: one pass.
        return bool(values.size == 0 or values.view(np.uint32).max() < _INFINITY)
    return bool(np.isfinite(values).all())


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

    @property
    def all_whole(self) -> bool:
        """Whether every value is a whole number."""
        return self.n_whole == self.n_nonzero

    def __str__(self) -> str:
        share = f"{100 * self.n_whole / self.n_nonzero:.3g} % of the values that are not 0 are whole numbers"
        return f"{share}, from {self.lowest:.6g} to {self.highest:.6g}, for example {', '.join(f'{x:.6g}' for x in self.examples)}"


def check_values(file: H5adFile, source: Source, expected: Literal["log1p", "counts"]) -> None:
    """Reads up to 20,000 cells, spread evenly over the file, and refuses genes that are not what the run expects.

    Raises: UserError for another kind of values than expected, with what was seen and the line that makes it right; for impossible
        values; and where there is no `X`.
    """
    if source.obsm_key is None and not file.has_x:
        raise UserError(f"{file.path}: there is no X; name an obsm key in data.embed_key, or add X{elsewhere(file, expected)}")
    seen = _Seen()
    sample = np.unique(np.linspace(0, file.n_obs - 1, min(file.n_obs, SAMPLED_ROWS)).astype(np.int64))
    for first in range(0, len(sample), _ROWS_AT_A_TIME):
        rows = sample[first : first + _ROWS_AT_A_TIME]
        values = _stored(file, source, rows)
        if not _is_possible(source, values):
            _refuse_impossible(file, source, rows, values, _why_negative(file, source, values, expected))
        if source.are_genes:
            seen.add(values)
    if seen.n_nonzero == 0:
        return
    if expected == "counts":
        _check_counts(file, source, seen)
    else:
        _check_log1p(file, source, seen)


def _check_counts(file: H5adFile, source: Source, seen: _Seen) -> None:
    if seen.all_whole:
        return
    evidence = _evidence(file, source)[0]
    if evidence is None:
        remedy = "set data.values: log1p if these are log1p of normalised counts"
    elif evidence.kind == "log1p":
        remedy = "set data.values: log1p"
    else:
        remedy = f"these are {KINDS[evidence.kind]}"
    raise UserError(
        f"{file.path}: {source.where} is not raw counts, which data.values: counts expects: {seen}{_told(evidence, source)}; "
        f"accepted: whole numbers; {remedy}{_elsewhere(file, source, 'counts')}"
    )


def _check_log1p(file: H5adFile, source: Source, seen: _Seen) -> None:
    start = f"{file.path}: {source.where} looks like {{}}, and data.values: log1p expects log1p of normalised counts: "
    if seen.all_whole:
        normalise = "run scanpy's normalize_total and log1p, or set data.values: counts"
        if source.obsm_key is None:
            line = rewritten(file.path, *NORMALISE, modules="anndata, scanpy as sc")
            normalise = f"set data.values: counts, or make them log1p values: {line}"
        raise UserError(
            f"{start.format('raw counts')}{seen}; accepted: not all whole, none above {MAX_LOG1P:g}; "
            f"{normalise}{_elsewhere(file, source, 'log1p')}"
        )
    evidence, of_x = _evidence(file, source)
    if evidence is not None and evidence.kind != "log1p":
        raise UserError(
            f"{start.format(KINDS[evidence.kind])}{evidence.told('X' if of_x else source.where)}; {seen}; "
            f"{_remedy(file, source, evidence, of_x)}"
        )
    if evidence is None and seen.highest > MAX_LOG1P:
        logged = rewritten(file.path, f"{source.place} = np.log1p({source.place})", modules="anndata, numpy as np")
        base_2 = rewritten(file.path, f"{source.place} = {source.place} * {_LN2}")
        may_be_base_2 = f"; if they are log2(x + 1) instead: {base_2}" if seen.highest <= MAX_LOG1P / _LN2 else ""
        raise UserError(
            f"{start.format('normalised counts without a logarithm')}{seen}; accepted: none above {MAX_LOG1P:g}; "
            f"take the logarithm: {logged}{may_be_base_2}"
        )


_LN2, _LN10 = 0.69314718, 2.3025851
"""As remedies have them: a Python float leaves float32 as it is."""


def _remedy(file: H5adFile, source: Source, evidence: Evidence, of_x: bool) -> str:
    """The line that turns values of a known kind into log1p values."""
    scale = "" if evidence.total >= 1000 else f" * {1e4 / evidence.total:.6g}"  # fractions: to 10,000 a cell
    advice, change, modules = {
        "log2": ("multiply by ln 2", f"{{}} * {_LN2}", "anndata"),
        "log10": ("multiply by ln 10", f"{{}} * {_LN10}", "anndata"),
        "twice": ("undo one logarithm", "np.expm1({})", "anndata, numpy as np"),
        "unlogged": ("take the logarithm", f"np.log1p({{}}{scale})", "anndata, numpy as np"),
    }[evidence.kind]
    places = ["adata.X", source.place] if of_x and source.obsm_key is not None else [source.place]
    return f"{advice}: {rewritten(file.path, *(f'{place} = {change.format(place)}' for place in places), modules=modules)}"


def _evidence(file: H5adFile, source: Source) -> tuple[Evidence | None, bool]:
    """What the whole rows say, and whether it was those of `X`: sums say something where no gene is left out."""
    rows = rows_to_look_at(file.n_obs)
    own = _stored(file, replace(source, columns=None), rows)
    if source.obsm_key is None or not file.has_x or file.is_by_column("X") or not file.has_marks(own.shape[1]):
        return evidence_of(own), source.obsm_key is None
    x = file.read_x(rows)
    if not np.allclose(x[:, file.highly_variable()], own, rtol=1e-3) or not np.isfinite(x).all() or x.min() < 0:
        return evidence_of(own), False
    return evidence_of(x), True


def _why_negative(file: H5adFile, source: Source, values: FloatArray, expected: Literal["log1p", "counts"]) -> str:
    """What genes with negative values may be, and where else the right ones lie."""
    if not source.are_genes or not np.isfinite(values).all() or not (values < 0).any():
        return ""
    seen = _stored(file, replace(source, columns=None), rows_to_look_at(file.n_obs))
    if not np.isfinite(seen).all():
        return ""
    mean, deviation = float(np.abs(seen.mean(0)).mean()), float(np.sqrt(seen.var(0).mean()))
    if mean < _MAX_SCALED_MEAN and abs(deviation - 1) < _MAX_SCALED_DEVIATION:
        looks = f"z-scored (scanpy's pp.scale): on average its columns have mean {mean:.2g} and standard deviation {deviation:.3g}"
    elif (share := float((seen < 0).mean())) > _MANY_NEGATIVE:
        looks = f"centred, scaled or batch-corrected: {100 * share:.3g} % of its values are negative"
    else:
        return ""
    return f"; {source.where} looks {looks}{_elsewhere(file, source, expected)}"


def _elsewhere(file: H5adFile, source: Source, expected: Literal["log1p", "counts"]) -> str:
    return elsewhere(file, expected) if source.obsm_key is None else ""


def _told(evidence: Evidence | None, source: Source) -> str:
    return "" if evidence is None else f"; {evidence.told(source.where)}"


def _first(values: FloatArray, chosen: npt.NDArray[np.bool_]) -> tuple[float, ...]:
    at = np.flatnonzero(chosen)[:3]
    return tuple(float(value) for value in values.ravel()[at])


def _refuse_impossible(file: H5adFile, source: Source, rows: IntArray, values: FloatArray, looks: str = "") -> None:
    bad = ~np.isfinite(values)
    if source.are_genes:
        bad |= values < 0
    found = np.argwhere(bad)
    if len(found) == 0:
        return  # minus zero
    row, column = found[0]
    raise UserError(
        f"{file.path}: {source.where} has the value {values[row, column]:g} in row {rows[row]}, column {source.names[column]!r} "
        f"({len(found)} such values in the {len(rows)} rows read); "
        f"accepted: finite numbers{', 0 or above' if source.are_genes else ''}{looks}"
    )
