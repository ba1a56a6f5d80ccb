"""A small seeded .h5ad, written as each test asks for it."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal, Protocol

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp


class WriteH5ad(Protocol):
    """Signature of the fixture `write_h5ad`."""

    def __call__(
        self,
        path: Path,
        *,
        n_cells: int = 80,
        n_genes: int = 12,
        cell_types: Sequence[str] = ("A", "B"),
        perturbations: Sequence[str] = ("P1", "P2", "P3"),
        control: str = "control",
        gem_groups: Sequence[str] = (),
        obsm: Mapping[str, int] | None = None,
        sparse_obsm: bool = False,
        x: Literal["csr", "csc", "dense"] = "csr",
        dtype: str = "float32",
        values: Literal["log1p", "counts"] = "log1p",
        categorical: bool = True,
        genes: Sequence[str] | None = None,
        var_index_name: str | None = None,
        compression: Literal["gzip", "lzf"] | None = None,
        seed: int = 0,
    ) -> anndata.AnnData: ...


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Cache folder of CSC files, so that no test writes into the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "incubator"


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs the line of Python that a message offers, as it stands there; `names` are what the reader is to put in.

    scanpy, which is not installed here, is stood in for by what it documents of two functions.
    """
    scanpy = ModuleType("scanpy")
    scanpy.pp = SimpleNamespace(normalize_total=_normalize_total, log1p=_log1p)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "scanpy", scanpy)

    def follow(message: object, **names: object) -> None:
        line = re.search(r"import \w+.*?\.write_h5ad\(.*?\)", str(message))
        assert line is not None, message
        exec(line[0], {**names})

    return follow


def _normalize_total(adata: Any, target_sum: float) -> None:
    factors = target_sum / np.asarray(adata.X.sum(1)).ravel()
    adata.X = sp.csr_matrix(sp.csr_matrix(adata.X).multiply(factors[:, None]))


def _log1p(adata: Any) -> None:
    adata.X = np.log1p(adata.X)


@pytest.fixture
def write_h5ad() -> WriteH5ad:
    """Writes a file and returns what it holds.

    Every (cell type, perturbation or control) has n_cells / number of combinations cells, in shuffled order; obs has the columns
    `perturbation`, `cell_type` and, if `gem_groups` are named, `gem_group`. `obsm={"X_hvg": 5}` takes 5 genes of X, marked in
    `var/highly_variable`; any other key holds normal deviates of the width asked for. `genes` names (and counts) the genes.
    """
    return _write


def _write(
    path: Path,
    *,
    n_cells: int = 80,
    n_genes: int = 12,
    cell_types: Sequence[str] = ("A", "B"),
    perturbations: Sequence[str] = ("P1", "P2", "P3"),
    control: str = "control",
    gem_groups: Sequence[str] = (),
    obsm: Mapping[str, int] | None = None,
    sparse_obsm: bool = False,
    x: Literal["csr", "csc", "dense"] = "csr",
    dtype: str = "float32",
    values: Literal["log1p", "counts"] = "log1p",
    categorical: bool = True,
    genes: Sequence[str] | None = None,
    var_index_name: str | None = None,
    compression: Literal["gzip", "lzf"] | None = None,
    seed: int = 0,
) -> anndata.AnnData:
    rng = np.random.default_rng(seed)
    names = [f"G{i}" for i in range(n_genes)] if genes is None else list(genes)
    cells = rng.permutation(n_cells)
    labels = {"cell_type": _cycle(cell_types, cells), "perturbation": _cycle((control, *perturbations), cells // len(cell_types))}
    if gem_groups:
        labels["gem_group"] = _cycle(gem_groups, rng.permutation(n_cells))
    obs = pd.DataFrame(labels, index=pd.Index([f"cell{i}" for i in range(n_cells)]))
    var = pd.DataFrame(index=pd.Index(names, name=var_index_name))
    counts = rng.poisson(rng.gamma(0.7, 3, (n_cells, len(names)))).astype(np.float64)
    matrix = counts if values == "counts" else np.log1p(1e4 * counts / np.maximum(counts.sum(1, keepdims=True), 1))
    stored = matrix.astype(dtype)
    adata = anndata.AnnData(stored if x == "dense" else sp.coo_matrix(stored).asformat(x), obs, var)
    for key, width in (obsm or {}).items():
        if key == "X_hvg":
            chosen = np.sort(rng.choice(len(names), width, replace=False))
            adata.var["highly_variable"] = np.isin(np.arange(len(names)), chosen)
            embedding = matrix[:, chosen].astype(np.float32)
        else:
            embedding = rng.normal(size=(n_cells, width)).astype(np.float32)
        adata.obsm[key] = sp.csr_matrix(embedding) if sparse_obsm else embedding
    if categorical:
        adata.strings_to_categoricals()
    adata.write_h5ad(path, compression=compression, convert_strings_to_categoricals=False)
    return adata


def _cycle(labels: Sequence[str], cells: np.ndarray) -> list[str]:
    return [labels[cell % len(labels)] for cell in cells]
