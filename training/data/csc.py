"""Transposes a CSC matrix to rows, once, on disk.

A row of a CSC matrix lies scattered over the whole file. The transposed copy is three .npy files that are mapped into memory, in a
cache folder named after the content, so that the next run (and every DataLoader worker) finds it.
"""

import errno
import logging
import os
import shutil
import tempfile
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from training.cells import FloatArray, IntArray
from training.errors import RunError, UserError

log = logging.getLogger(__name__)

_BLOCK = 2**24
"""Non-zero values in memory at a time; 64 million values took 4.3 s of a core and a peak of 1.1 GB (with what Python takes)."""

_NEEDS = "is CSC and has to be turned to rows, which needs"
_INSTEAD = "set XDG_CACHE_HOME to another disk, or store the matrix as CSR (adata.X = adata.X.tocsr())"

RowMajor = tuple[FloatArray, npt.NDArray[np.int32], IntArray]


def row_major(stored: h5py.Group, where: str, cache_key: str, block: int = _BLOCK) -> RowMajor:
    """The matrix as CSR arrays that are mapped into memory: data, indices, indptr.

    Args:
        stored: the group of a CSC matrix, as anndata writes it.
        where: file and matrix, for messages.
        cache_key: name of the folder under `$XDG_CACHE_HOME/incubator` (`~/.cache/incubator`); the same for the same content.
        block: non-zero values in memory at a time.

    Raises:
        UserError: if rows are not sorted within a column, or the disk has no room.
        RunError: if the disk fills up meanwhile.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "incubator"
    folder = root / cache_key
    if not folder.is_dir():
        needed = 8 * len(stored["data"]) + 8 * (stored.attrs["shape"][0] + 1)
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{where} {_NEEDS} a folder {root}, which cannot be made ({error}); {_INSTEAD}") from error
        free = shutil.disk_usage(root).free
        if free < needed:
            raise UserError(f"{where} {_NEEDS} {needed / 1e9:.1f} GB in {root}; there are {free / 1e9:.1f} GB; {_INSTEAD}")
        log.info("%s is CSC: its rows are written once to %s (%.1f GB)", where, folder, needed / 1e9)
        with tempfile.TemporaryDirectory(dir=root, prefix=f"{cache_key}.") as scratch:
            turned = Path(scratch) / "turned"
            turned.mkdir()
            try:
                _write(stored, where, turned, block)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                raise RunError(f"{where}: its rows do not fit into {root} any more; make room or set XDG_CACHE_HOME") from error
            try:
                turned.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster
                    raise
    data, indices = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("data", "indices"))
    return data, indices, np.load(folder / "indptr.npy")


def _write(stored: h5py.Group, where: str, folder: Path, block: int) -> None:
    """Turns ranges of rows, one after the other; within a column the rows of a range lie together because rows are sorted."""
    n_rows, n_columns = (int(n) for n in stored.attrs["shape"])
    values_stored, rows_stored = stored["data"], stored["indices"]
    column_starts = stored["indptr"][:].astype(np.int64)
    n_ranges = max(1, -(-int(column_starts[-1]) // block))
    rows_per_range = -(-n_rows // n_ranges)
    per_row, per_column = _count(rows_stored, column_starts, n_rows, rows_per_range, where, block)
    indptr = np.concatenate([[0], np.cumsum(per_row)])
    np.save(folder / "indptr.npy", indptr)
    at = column_starts[:-1].copy()  # next unread value of each column
    with (folder / "data.npy").open("wb") as data, (folder / "indices.npy").open("wb") as indices:
        for stream, dtype in ((data, "<f4"), (indices, "<i4")):
            header = {"descr": dtype, "fortran_order": False, "shape": (int(indptr[-1]),)}
            np.lib.format.write_array_header_1_0(stream, header)
        for i, first in enumerate(range(0, n_rows, rows_per_range)):
            last = min(first + rows_per_range, n_rows)
            starts = np.concatenate([[0], np.cumsum(per_column[:, i])])
            values, rows = np.empty(starts[-1], np.float32), np.empty(starts[-1], np.int32)
            for column in np.flatnonzero(per_column[:, i]):
                read, put = slice(at[column], at[column] + per_column[column, i]), slice(starts[column], starts[column + 1])
                values[put], rows[put] = values_stored[read], rows_stored[read]
            at += per_column[:, i]
            turned = sp.csc_matrix((values, rows - first, starts), (last - first, n_columns)).tocsr()
            data.write(turned.data.data)
            indices.write(turned.indices.astype(np.int32, copy=False).data)


def _count(
    indices: h5py.Dataset, column_starts: IntArray, n_rows: int, rows_per_range: int, where: str, block: int
) -> tuple[IntArray, IntArray]:
    """Values per row, and per column and range of rows; in blocks of whole columns.

    Shape: (n_rows,) and (n_columns, ranges).
    """
    n_columns, n_ranges = len(column_starts) - 1, -(-n_rows // rows_per_range)
    per_row = np.zeros(n_rows, np.int64)
    per_column = np.zeros((n_columns, n_ranges), np.int64)
    first = 0
    while first < n_columns:
        last = max(first + 1, int(np.searchsorted(column_starts, column_starts[first] + block, side="right")) - 1)
        rows = indices[column_starts[first] : column_starts[last]]
        columns = np.repeat(np.arange(last - first), np.diff(column_starts[first : last + 1]))
        if len(rows) and not 0 <= rows.min() <= rows.max() < n_rows:
            raise UserError(
                f"{where} is damaged (row indices {rows.min()} to {rows.max()}, but {n_rows} rows); write the file again"
            )
        if np.any((np.diff(rows) < 0) & (np.diff(columns) == 0)):
            raise UserError(f"{where} is CSC with unsorted rows in a column; store it as CSR: adata.X = adata.X.tocsr()")
        per_row += np.bincount(rows, minlength=n_rows)
        counts = np.bincount(columns * n_ranges + rows // rows_per_range, minlength=(last - first) * n_ranges)
        per_column[first:last] = counts.reshape(last - first, n_ranges)
        first = last
    return per_row, per_column
