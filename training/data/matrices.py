"""Rows of a matrix on disk, dense or CSR, as dense float32; what lies together is read at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from training.cells import FloatArray, IntArray
from training.errors import UserError

_SLOW_BYTES = {True: 32 * 2**10, False: 2**20}
"""Bytes of compressed (True) or plain chunks under one row above which a layout is reported: about 0.1 ms of a core, taking gzip
for 300 MB/s and copying for 10 GB/s (guesses)."""
_SLOW_CHUNKS = 4
"""Chunks under one row above which a layout is reported (a guess; anndata's own uncompressed files have 1 or 2)."""


@dataclass(frozen=True)
class Dense:
    """A dense matrix on disk."""

    array: h5py.Dataset
    n_columns: int

    def read(self, unique: IntArray, inverse: IntArray, columns: IntArray | None) -> FloatArray:
        """Rows `unique` (sorted), then in the order `inverse`.

        Shape: unique (U,), inverse (N,), columns (G,) or None -> (N, G) or (N, n_columns).
        """
        out = np.empty((len(unique), self.n_columns if columns is None else len(columns)), np.float32)
        for first, last in _runs(unique):
            block = self.array[unique[first] : unique[last - 1] + 1]
            out[first:last] = block if columns is None else block[:, columns]
        return out if np.array_equal(inverse, np.arange(len(unique))) else out[inverse]


@dataclass(frozen=True)
class Csr:
    """A CSR matrix: values and columns on disk, the starts of the rows in memory."""

    data: h5py.Dataset | npt.NDArray[Any]
    indices: h5py.Dataset | npt.NDArray[Any]
    indptr: IntArray
    n_columns: int
    where: str

    def read(self, unique: IntArray, inverse: IntArray, columns: IntArray | None) -> FloatArray:
        """Rows `unique` (sorted), then in the order `inverse`.

        Shape: unique (U,), inverse (N,), columns (G,) or None -> (N, G) or (N, n_columns).
        Raises: UserError for column indices beyond the matrix.
        """
        starts, stops = self.indptr[unique], self.indptr[unique + 1]
        indptr = np.concatenate([[0], np.cumsum(stops - starts)])
        data = np.empty(indptr[-1], self.data.dtype)
        indices = np.empty(indptr[-1], self.indices.dtype)
        for first, last in _runs(unique):
            stored, wanted = slice(starts[first], stops[last - 1]), slice(indptr[first], indptr[last])
            data[wanted] = self.data[stored]
            indices[wanted] = self.indices[stored]
        if len(indices) and not 0 <= indices.min() <= indices.max() < self.n_columns:  # scipy would write out of bounds
            seen = f"column indices {indices.min()} to {indices.max()}, but {self.n_columns} columns"
            raise UserError(f"{self.where} is damaged ({seen}); write the file again")
        compact = sp.csr_matrix((data.astype(np.float32, copy=False), indices, indptr), (len(unique), self.n_columns))
        return (compact if columns is None else compact[:, columns])[inverse].toarray()


Matrix = Dense | Csr
"""A matrix of a file, read by row."""


def why_slow(array: h5py.Dataset, row_length: int) -> str:
    """Why the layout of an array makes single rows, of `row_length` values each, expensive; nothing where it does not."""
    if array.chunks is None:
        return ""
    n_chunks = -(-row_length // array.chunks[-1])
    chunk_bytes = int(np.prod(array.chunks)) * array.dtype.itemsize
    compressed = array.id.get_create_plist().get_nfilters() > 0
    if n_chunks <= _SLOW_CHUNKS and n_chunks * chunk_bytes <= _SLOW_BYTES[compressed]:
        return ""
    how = f"compressed with {array.compression or 'a filter'}" if compressed else "not compressed"
    return f"a row of {row_length * array.dtype.itemsize} bytes touches {n_chunks} chunks of {chunk_bytes} bytes ({how})"


def _runs(rows: IntArray) -> Iterator[tuple[int, int]]:
    """Bounds, in `rows` (sorted, unique), of runs of consecutive numbers: each is one read."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    return pairwise([0, *breaks.tolist(), len(rows)] if len(rows) else [])
