"""Two files whose genes have no name in common: symbols in one, Ensembl ids in the other."""

import pandas as pd

from training.config import CellSetsConfig
from training.data.h5ad import H5adFile
from training.data.h5ad_errors import rewritten
from training.data.values import Source
from training.errors import UserError
from training.text import some


def nothing_shared(config: CellSetsConfig, first_file: H5adFile, first: Source, file: H5adFile, source: Source) -> str:
    """What two files call their genes, and what makes the names alike: another column of `var`, or renaming in one of them."""
    column = config.gene_name_column
    where = "the index of var" if column is None else f"var column {column!r}"
    start = (
        f"{first_file.path} and {file.path} have no gene of {first.where} in common: the first has {some(first.names, 3)}, the "
        f"second {some(source.names, 3)} in {where}, and data.gene_name_column is one for all files"
    )
    for other in sorted(set(first_file.var_columns()) & set(file.var_columns()) - {column}):
        if not set(_names(first_file, other)).isdisjoint(_names(file, other)):
            return f"{start}; set data.gene_name_column: {other}, which has shared names in both"
    for renamed, known in ((file, first), (first_file, source)):
        shared = {name: len(set(_names(renamed, name)) & set(known.names)) for name in renamed.var_columns() if name != column}
        best = max(shared, key=lambda name: shared[name], default=None)
        if best is not None and shared[best]:
            target = "adata.var_names" if column is None else f"adata.var[{column!r}]"
            rename = f"{target} = anndata.utils.make_index_unique(pd.Index(adata.var[{best!r}].astype(str), name=None))"
            return (
                f"{start}; var column {best!r} of {renamed.path} has {shared[best]} of the other's names; rename its genes: "
                f"{rewritten(renamed.path, rename, modules='anndata, pandas as pd')}"
            )
    return f"{start}; no column of var has the other's names: name the genes alike in both files"


def _names(file: H5adFile, column: str) -> tuple[str, ...]:
    """Names in a column of `var`, as often as they occur; none where the column cannot be read."""
    try:
        return tuple(pd.Series(file.var_column(column)).dropna().astype(str))
    except UserError:
        return ()
