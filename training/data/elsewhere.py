"""Where else in a file the values lie that a run expects in `X`: in `layers`, or in `raw`."""

from typing import Literal

from training.data.h5ad import H5adFile
from training.data.h5ad_errors import rewritten
from training.data.kinds import looks_like, rows_to_look_at
from training.errors import UserError
from training.text import some

NORMALISE = ("sc.pp.normalize_total(adata, target_sum=1e4)", "sc.pp.log1p(adata)")
"""From raw counts in `adata.X` to log1p values."""
_IS = {"log1p": "log1p values", "counts": "raw counts"}


def elsewhere(file: H5adFile, expected: Literal["log1p", "counts"]) -> str:
    """What `layers` and `raw` hold, as seen in about 1,000 cells, and the line that puts what is expected into `X`; or nothing."""
    seen = {name: _seen(file, name) for name in file.other_matrices}
    if not seen:
        return ""
    told = some(f"{name} ({what})" for name, what in seen.items())
    chosen = next((name for name, what in seen.items() if what == _IS[expected]), None)
    if chosen is not None:
        return f"; the file also has {told}; to use {chosen}: {rewritten(file.path, _take(file, chosen))}"
    counts = next((name for name, what in seen.items() if what == "raw counts"), None)
    if expected == "log1p" and counts is not None:
        line = rewritten(file.path, _take(file, counts), *NORMALISE, modules="anndata, scanpy as sc")
        return f"; the file also has {told}; to use {counts}: {line}"
    return f"; the file also has {told}, none of which looks like {_IS[expected]}"


def _seen(file: H5adFile, name: str) -> str:
    try:
        if file.is_by_column(name):
            return "not looked at, stored by column"
        return looks_like(file.read_other(name, rows_to_look_at(file.n_obs)))
    except UserError:
        return "not readable"


def _take(file: H5adFile, name: str) -> str:
    if name == "raw/X":
        return "adata.X = adata.raw[:, adata.var_names].X" if file.raw_has_genes_of_x() else "adata = adata.raw.to_adata()"
    return f"adata.X = adata.layers[{name.removeprefix('layers/')!r}]"
