"""Why an .h5ad file, or a part of it, cannot be read: the cause by its name, and what to do about it."""

import errno
import os
import re
from importlib.metadata import version
from pathlib import Path

import h5py

from training.errors import did_you_mean
from training.text import some

FILTERS = {
    1: "gzip",
    4: "szip",
    307: "bzip2",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32026: "blosc2",
}
"""Filters that HDF5 may lack, by the number that a file has them under. Source: the HDF Group's list of registered filters."""


def rewritten(path: Path, *statements: str, modules: str = "anndata") -> str:
    """One line of Python that changes a file with anndata: it reads the file, runs the statements on `adata`, and writes it."""
    start = f"import {modules}; path = {str(path)!r}; adata = anndata.read_h5ad(path)"
    return "; ".join([start, *statements, "adata.write_h5ad(path)"])


def how_to_make_unique(path: Path, column: str | None, *, index_is_unique: bool) -> str:
    """What helps where gene names occur twice in the index of `var` (None) or in a column of it."""
    if column is None:
        return f"make them unique: {rewritten(path, 'adata.var_names_make_unique()')}"
    unique = f"adata.var[{column!r}] = anndata.utils.make_index_unique(pd.Index(adata.var[{column!r}].astype(str)))"
    make = f"make them unique: {rewritten(path, unique, modules='anndata, pandas as pd')}"
    return f"set data.gene_name_column: null (the index of var, whose names are unique) or {make}" if index_is_unique else make


def why_no_file(path: Path) -> str:
    """Why there is no file at `path`: a folder, a link that leads nowhere, a misspelt name or no such folder."""
    if os.path.isdir(path):
        return "this is a folder"
    if os.path.islink(path):
        target = os.path.realpath(path)
        return f"is a link to {target}, which {'leads back to itself' if os.path.islink(target) else 'does not exist'}"
    if not os.path.isdir(path.parent):
        return f"there is no such file; nor is there a folder {path.parent}"
    return f"there is no such file{did_you_mean(path.name, (p.name for p in path.parent.iterdir()))}"


def why_not_opened(path: Path, error: Exception) -> str:
    """Why HDF5 does not open a file that exists."""
    if "truncated" in str(error):
        return f"the file is cut short at {path.stat().st_size} bytes; copy it again ({error})"
    if "unable to lock file" in str(error) and getattr(error, "errno", None) in (errno.EAGAIN, errno.EACCES):
        return (
            "another process holds the file open for writing (HDF5 locks it meanwhile); close it there, for example in a notebook "
            f"with adata.file.close(), or end that process ({error})"
        )
    what = "this is no HDF5 file, so no .h5ad" if "signature" in str(error) else "HDF5 cannot open it"
    if "signature" in str(error) and _begins_with(path, b"\x1f\x8b"):
        what = "this is a gzip file; gunzip it first"
    return f"{what} ({path.stat().st_size} bytes; {error})"


def why_not_read(path: Path, what: str, file: h5py.File | None, error: Exception) -> str:
    """Why `what`, a place in an open file, could not be read."""
    try:
        missing = _missing_filters(file[what]) if file is not None else {}
    except (OSError, RuntimeError, KeyError, ValueError, AttributeError):  # damage all around, or no such place
        missing = {}
    if missing:
        names = some(f"{FILTERS.get(number, name) or 'unknown'} (id {number})" for number, name in missing.items())
        return (
            f"{what} is compressed with the filter {names}, which this HDF5 lacks; the Python package hdf5plugin has such filters: "
            f"where it is installed, write the file again: {rewritten(path, modules='hdf5plugin, anndata')}"
        )
    text = str(error).strip("\"'")
    if attribute := re.search(r"can't locate attribute: '([^']*)'", text):
        return (
            f"{what} lacks the attribute {attribute[1]!r}, which anndata writes; write the file again from its source with anndata"
        )
    if type(error).__name__ == "IORegistryError":  # anndata's own exceptions are not public
        spec = re.search(r"encoding_type='([^']*)', encoding_version='([^']*)'", text)
        encoding = f"{spec[1]!r}, version {spec[2]!r}" if spec else "something"
        here = f"anndata {version('anndata')}"
        return f"{what} is stored as {encoding}, which {here} cannot read; write it again from its source with {here}"
    if cause := re.search(r"errno = \d+, error message = '([^']*)'", text):
        return f"{what} cannot be read: {cause[1]} ({type(error).__name__}: {text.splitlines()[0]})"
    reason = f"{type(error).__name__}: {text.splitlines()[0] if text else 'no reason'}"
    return f"{what} cannot be read; the file is damaged, copy or write it again ({reason})"


def _missing_filters(stored: h5py.Group | h5py.Dataset) -> dict[int, str]:
    """Filters of the datasets in `stored` that this HDF5 lacks: number -> name in the file."""
    if isinstance(stored, h5py.Group):
        return {number: name for part in stored.values() for number, name in _missing_filters(part).items()}
    properties = stored.id.get_create_plist()
    filters = [properties.get_filter(i) for i in range(properties.get_nfilters())]
    return {number: name.decode(errors="replace") for number, _, _, name in filters if not h5py.h5z.filter_avail(number)}


def _begins_with(path: Path, sign: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(sign)) == sign
