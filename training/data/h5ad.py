"""One .h5ad file, read from disk as it is needed: labels, gene names, and values of the cells asked for.

The only file that opens .h5ad. A matrix (`X`, or an entry of `obsm`) may be CSR, CSC or dense and of any number type; rows of it
come as dense float32. The handle belongs to the process that opened it: a DataLoader worker, forked or spawned, opens its own.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata.io import read_elem

from training.cells import FloatArray, IntArray
from training.data import csc
from training.data.fingerprint import hash_arrays
from training.data.h5ad_errors import how_to_make_unique, why_no_file, why_not_opened, why_not_read
from training.data.matrices import Csr, Dense, Matrix, why_slow
from training.errors import RunError, UserError, did_you_mean
from training.text import some

log = logging.getLogger(__name__)

_CHUNK_CACHE_BYTES = 8 * 2**20
"""Holds the chunks that neighbouring rows share. Measured on gzip: 2,200 rows/s with 8 MiB, 1,500 with 1 MiB, no more with 64."""


@dataclass(frozen=True)
class Labels:
    """An `obs` column of words, as codes.

    Shape: codes (n_obs,), int32 positions in `names`; `names` are sorted and each occurs.
    """

    codes: npt.NDArray[np.int32]
    names: tuple[str, ...]


class H5adFile:
    """One .h5ad file; each process opens it when it first needs it and keeps it open.

    Raises: UserError if the file is missing, truncated or no .h5ad.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reported: set[str] = set()
        self._forget()
        with self._naming("the file"):
            self.n_obs = self._length("obs")
            self.n_vars = self._length("var")
        if self.n_obs == 0:
            raise UserError(f"{path}: the file has no cells")

    def labels(self, column: str) -> Labels:
        """A column of `obs` as labels; an integer becomes the word that it is written as.

        Raises: UserError for a column that is missing, holds floating-point numbers, or has cells without a value.
        """
        values = pd.Series(self._column("obs", column))
        missing = np.flatnonzero(values.isna())
        if len(missing):
            raise UserError(
                f"{self.path}: obs column {column!r} has no value in {len(missing)} of {self.n_obs} cells (rows {some(missing)}); "
                f"give every cell a label, or drop these: adata = anndata.read_h5ad({str(self.path)!r}); "
                f"adata = adata[adata.obs[{column!r}].notna()].copy(); adata.write_h5ad({str(self.path)!r})"
            )
        kind = values.cat.categories.dtype if isinstance(values.dtype, pd.CategoricalDtype) else values.dtype
        if pd.api.types.is_float_dtype(kind):
            raise UserError(
                f"{self.path}: obs column {column!r} holds numbers ({kind}, for example {values.iloc[0]}), not labels; "
                "accepted: text, categories and integers"
            )
        codes, found = pd.factorize(values)
        names, order = np.unique(np.array([str(name) for name in found], dtype=object), return_inverse=True)
        return Labels(order[codes].astype(np.int32), tuple(names))

    def cell_names(self, rows: IntArray) -> list[str]:
        """Names of cells: the index of `obs`.

        Shape: rows (N,) -> N names.
        """
        return [str(name) for name in np.asarray(self._column("obs", self._index("obs")))[rows]]

    def gene_names(self, column: str | None) -> tuple[str, ...]:
        """Names of the genes of `X`: the index of `var`, whatever it is called, or a column of `var`.

        Raises: UserError if the column is missing or a name is missing or occurs twice.
        """
        where = "the index of var" if column is None else f"var column {column!r}"
        values = pd.Series(self._column("var", self._index("var") if column is None else column))
        if values.isna().any():
            raise UserError(f"{self.path}: {where} has no gene name in rows {some(np.flatnonzero(values.isna()))}")
        names = tuple(values.astype(str))
        return self._unique(names, where, lambda: self._make_unique(column))

    def highly_variable(self) -> IntArray:
        """Columns of `X` that `var/highly_variable` marks.

        Raises: UserError if that column is missing, not boolean, or marks nothing.
        """
        marked = np.asarray(self._column("var", "highly_variable"))
        if marked.dtype != bool or not marked.any():
            raise UserError(
                f"{self.path}: var column 'highly_variable' is {marked.dtype} and must be boolean with at least one True"
            )
        return np.flatnonzero(marked)

    def has_var(self, column: str) -> bool:
        """Whether `var` has this column."""
        return self._has("var", column)

    def has_marks(self, width: int) -> bool:
        """Whether `var/highly_variable` marks `width` columns of `X`."""
        return self.has_var("highly_variable") and len(self.highly_variable()) == width

    def hvg_names(self, width: int, gene_column: str | None) -> tuple[str, ...]:
        """Names of the `width` columns of `obsm/X_hvg`: the genes marked in `var/highly_variable`, else `uns/hvg_names`.

        Raises: UserError if neither has `width` names, saying what was seen.
        """
        seen = []
        if self._has("var", "highly_variable"):
            marked = self.highly_variable()
            if len(marked) == width:
                names = self.gene_names(gene_column)
                return tuple(names[i] for i in marked)
            seen.append(f"var/highly_variable marks {len(marked)}")
        if self._has("uns", "hvg_names"):
            with self._naming("uns/hvg_names"):
                listed = tuple(str(name) for name in np.atleast_1d(read_elem(self._file["uns/hvg_names"])))
            if len(listed) == width:
                return self._unique(listed, "uns/hvg_names", lambda: f"list {width} different names there")
            seen.append(f"uns/hvg_names has {len(listed)}")
        raise UserError(
            f"{self.path}: the {width} columns of obsm/X_hvg have no gene names: "
            f"{' and '.join(seen) or 'there is neither var/highly_variable nor uns/hvg_names'}; "
            f"mark {width} genes in var/highly_variable or list {width} names in uns/hvg_names"
        )

    @property
    def has_x(self) -> bool:
        """Whether there is an `X`."""
        return self._has("/", "X")

    @property
    def other_matrices(self) -> tuple[str, ...]:
        """Where else values of genes lie: `layers/<name>` and `raw/X`."""
        with self._naming("layers"):
            layers = [f"layers/{name}" for name in self._file.get("layers", ())]
        return (*layers, *(["raw/X"] if self._has("raw", "X") else []))

    def is_by_column(self, name: str) -> bool:
        """Whether a matrix is stored as CSC, so that its first row costs a copy of it."""
        with self._naming(name):
            return bool(self._file[name].attrs.get("encoding-type") == "csc_matrix")

    def read_other(self, name: str, rows: IntArray) -> FloatArray:
        """Rows of one of `other_matrices`. Shape: rows (N,) -> (N, its columns)."""
        return self._read(name, rows, None)

    def raw_has_genes_of_x(self) -> bool:
        """Whether `raw` has every gene of `var`, by the index."""
        with self._naming("raw/var"):
            raw = self._file["raw/var"]
            return set(self._column("var", self._index("var"))) <= set(read_elem(raw[self._index("raw/var")]))

    def var_columns(self) -> list[str]:
        """Names of the columns of `var`."""
        return self._columns("var")

    def var_column(self, name: str) -> Any:
        """A column of `var`, as anndata reads it.

        Raises: UserError if it is missing or cannot be read.
        """
        return self._column("var", name)

    def has_obsm(self, key: str) -> bool:
        """Whether `obsm` has this key."""
        return self._has("obsm", key)

    def obsm_width(self, key: str) -> int:
        """Columns of `obsm/<key>`.

        Raises: UserError if the key is missing or no matrix of numbers.
        """
        if not self.has_obsm(key):
            with self._naming("obsm"):
                keys = list(self._file.get("obsm", ()))
            others = [*(["X"] if self.has_x else []), *self.other_matrices]
            raise UserError(
                f"{self.path}: obsm has no key {key!r}{did_you_mean(key, keys)}; it has {some(keys) or 'none'} "
                f"(outside of obsm there are {some(others) or 'no matrices'})"
            )
        return self._matrix(f"obsm/{key}").n_columns

    def read_x(self, rows: IntArray, columns: IntArray | None = None) -> FloatArray:
        """Rows of `X` in the order asked for, repeated where an index repeats.

        Shape: rows (N,), columns (G,) or None -> (N, G) or (N, n_vars).
        """
        if not self.has_x:
            raise UserError(f"{self.path}: there is no X")
        return self._read("X", rows, columns)

    def read_obsm(self, key: str, rows: IntArray, columns: IntArray | None = None) -> FloatArray:
        """Rows of `obsm/<key>` in the order asked for, repeated where an index repeats.

        Shape: rows (N,), columns (G,) or None -> (N, G) or (N, obsm_width(key)).
        """
        self.obsm_width(key)
        return self._read(f"obsm/{key}", rows, columns)

    def fingerprint(self) -> str:
        """A hash of the values in the file, not of where it lies or when it was written: a copy has the same.

        It covers the sizes, the index of `var`, and `X` and all of `obsm`: arrays up to 64 MiB whole, of larger ones 64 blocks
        spread evenly. (So a few changed values in a large `X` may pass unseen.) The labels of the cells are not in it.
        """
        digest = hashlib.sha256(repr((self.n_obs, self.n_vars)).encode())
        digest.update("\0".join(map(str, self._column("var", self._index("var")))).encode())
        for name in [name for name in ("X", "obsm") if self._has("/", name)]:
            with self._naming(name):
                hash_arrays(digest, name, self._file[name])
        return digest.hexdigest()[:32]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "n_obs": self.n_obs, "n_vars": self.n_vars, "_reported": self._reported}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __repr__(self) -> str:
        return f"H5adFile({str(self.path)!r})"

    def _forget(self) -> None:
        self._handle: h5py.File | None = None
        self._pid = os.getpid()
        self._matrices: dict[str, Matrix] = {}

    @property
    def _file(self) -> h5py.File:
        """The file, opened once per process: HDF5's state does not survive a fork that both sides go on using."""
        if self._handle is not None and self._pid != os.getpid():
            self._handle.close()  # the child's copy; the parent's stays open
            self._forget()
        if self._handle is None:
            self._handle = _open(self.path)
        return self._handle

    @contextmanager
    def _naming(self, what: str) -> Iterator[None]:
        """What goes wrong while reading becomes a refusal that names the file and the cause."""
        try:
            yield
        except (UserError, RunError, AssertionError):
            raise
        except Exception as error:  # what h5py and anndata raise depends on the byte; anndata's own exceptions are not public
            raise UserError(f"{self.path}: {why_not_read(self.path, what, self._handle, error)}") from error

    def _index(self, frame: str) -> str:
        with self._naming(frame):
            return _texts(self._file[frame].attrs["_index"])[0]

    def _columns(self, frame: str) -> list[str]:
        """Names of the columns, in the order of the file; R's writers leave the order out, or give a text for a single column."""
        with self._naming(frame):
            group = self._file[frame]
            if "column-order" in group.attrs:
                return _texts(group.attrs["column-order"])
            return [name for name in group if name not in (self._index(frame), "__categories")]

    def _has(self, group: str, name: str) -> bool:
        with self._naming(group):
            return name in self._file.get(group, ())

    def _length(self, frame: str) -> int:
        group = self._file.get(frame)
        if not isinstance(group, h5py.Group) or "_index" not in group.attrs:
            lacks = f"{frame!r} lacks the attribute '_index'" if isinstance(group, h5py.Group) else f"no table {frame!r}"
            raise UserError(
                f"{self.path}: HDF5, but not .h5ad as anndata has written it since 0.7: {lacks} "
                f"(the file has {some(self._file) or 'nothing'}); write it again with anndata"
            )
        index = group[self._index(frame)]
        return len(index["values"] if isinstance(index, h5py.Group) else index)

    def _column(self, frame: str, name: str) -> Any:
        columns = self._columns(frame)
        if name not in (*columns, self._index(frame)):
            raise UserError(
                f"{self.path}: {frame} has no column {name!r}{did_you_mean(name, columns)}; it has {some(columns) or 'none'}"
            )
        with self._naming(f"{frame}/{name}"):
            group = self._file[frame]
            if group.attrs.get("encoding-version") == "0.1.0":  # anndata 0.7: categories lie apart, only the whole frame knows
                frame_read = read_elem(group)
                values = frame_read[name] if name in frame_read else frame_read.index
            else:
                values = read_elem(group[name])
        length = self.n_obs if frame == "obs" else self.n_vars
        shape = getattr(values, "shape", None)
        if shape != (length,):
            raise UserError(f"{self.path}: {frame}/{name} has shape {shape}, but {frame} has {length} rows; write the file again")
        return values

    def _unique(self, names: tuple[str, ...], where: str, remedy: Callable[[], str]) -> tuple[str, ...]:
        found, counts = np.unique(np.array(names, dtype=object), return_counts=True)
        if len(found) < len(names):
            raise UserError(f"{self.path}: {where} has gene names that occur more than once: {some(found[counts > 1])}; {remedy()}")
        return names

    def _make_unique(self, column: str | None) -> str:
        index = pd.Index(self._column("var", self._index("var")))
        return how_to_make_unique(self.path, column, index_is_unique=index.is_unique)

    def _matrix(self, name: str) -> Matrix:
        file = self._file  # first: after a fork it forgets the parent's matrices
        if name not in self._matrices:
            with self._naming(name):
                self._matrices[name] = self._open_matrix(name, file[name])
        return self._matrices[name]

    def _open_matrix(self, name: str, stored: h5py.Group | h5py.Dataset) -> Matrix:
        kind = "dense" if isinstance(stored, h5py.Dataset) else str(stored.attrs.get("encoding-type"))
        if kind not in ("dense", "csr_matrix", "csc_matrix"):
            raise UserError(f"{self.path}: {name} is stored as {kind}; accepted: dense, csr_matrix, csc_matrix")
        shape = tuple(int(n) for n in (stored.shape if kind == "dense" else stored.attrs["shape"]))
        dtype = stored.dtype if kind == "dense" else stored["data"].dtype
        if len(shape) != 2 or shape[0] != self.n_obs or (name == "X" and shape[1] != self.n_vars):
            expected = f"and {self.n_vars} genes" if name == "X" else "(accepted: a matrix with a row for each)"
            raise UserError(f"{self.path}: {name} has shape {shape}, but there are {self.n_obs} cells {expected}")
        if shape[1] == 0:
            raise UserError(f"{self.path}: {name} has no columns (shape {shape}); accepted: at least one")
        if dtype.kind not in "fiu":
            raise UserError(f"{self.path}: {name} holds {dtype}; accepted: floating-point and integer numbers")
        if kind == "dense":
            self._report_layout(name, stored, shape[1])
            return Dense(stored, shape[1])
        indptr = stored["indptr"][:].astype(np.int64)
        lengths = {len(stored["data"]), len(stored["indices"]), int(indptr[-1])}
        if len(indptr) != shape[kind == "csc_matrix"] + 1 or len(lengths) > 1 or np.any(np.diff(indptr) < 0):
            raise UserError(
                f"{self.path}: {name} is damaged: its indptr does not fit its shape, data and indices; write the file again"
            )
        if kind == "csc_matrix":
            arrays = csc.row_major(stored, f"{self.path}: {name}", f"{self.fingerprint()}-{name.replace('/', '-')}")
            return Csr(*arrays, shape[1], f"{self.path}: {name}")
        for part in ("data", "indices"):
            self._report_layout(f"{name}/{part}", stored[part], max(1, len(stored["data"]) // self.n_obs))
        return Csr(stored["data"], stored["indices"], indptr, shape[1], f"{self.path}: {name}")

    def _report_layout(self, name: str, array: h5py.Dataset, row_length: int) -> None:
        """Warns, once, of a layout that makes single rows expensive, with the reason."""
        if name not in self._reported and (why := why_slow(array, row_length)):
            self._reported.add(name)
            log.warning(
                "%s: %s is slow to read by row: %s; write the file again without compression: adata.write_h5ad(path)",
                self.path, name, why,
            )  # fmt: skip

    def _read(self, name: str, rows: IntArray, columns: IntArray | None) -> FloatArray:
        matrix = self._matrix(name)
        with self._naming(name):
            unique, inverse = np.unique(rows, return_inverse=True)
            assert len(rows) == 0 or (unique[0] >= 0 and unique[-1] < self.n_obs), "row out of range"
            return matrix.read(unique, inverse, columns)


def _open(path: Path) -> h5py.File:
    if not os.path.isfile(path):  # Path.is_file() raises for a name that is too long or a folder that may not be entered
        raise UserError(f"{path}: {why_no_file(path)}")
    try:
        return h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE_BYTES)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{path}: {why_not_opened(path, error)}") from error


def _texts(attribute: Any) -> list[str]:
    """The words of an attribute, which other writers than anndata store as a single text, as bytes or as an array of one."""
    return [word.decode() if isinstance(word, bytes) else str(word) for word in np.atleast_1d(attribute)]
