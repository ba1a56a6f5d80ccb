"""Reads the `.npz` files of a tabular run, and refuses what a classifier of two classes cannot be trained on."""

import hashlib
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from training.errors import UserError, did_you_mean
from training.runner.bucket.bucket import open_bucket
from training.tasks.tabular.config import ArraysConfig
from training.text import escaped, some

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]
Split = Literal["train", "val"]


@dataclass(frozen=True)
class Rows:
    """The rows of one split.

    Shape: x (n, d), y (n,), probability (n,).
    """

    x: FloatArray
    y: IntArray
    """0 or 1."""
    probability: Float64Array | None = None
    """The true probability of class 1, where the data are made up and it is known (`probability_train`, `probability_val`)."""

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class TabularData:
    """All that a run reads."""

    train: Rows
    val: Rows
    columns: tuple[str, ...] | None
    """Names of the columns, where the files have them (`columns`, which `training pack-table` writes)."""
    fingerprint: str
    """Hash of all values."""

    @property
    def n_columns(self) -> int:
        """Width of a row."""
        return int(self.train.x.shape[1])

    def summary(self) -> str:
        """What was read, for people."""
        names = "" if self.columns is None else f": {some(self.columns)}"
        return "\n".join([
            f"{self.n_columns} columns{names}",
            *(f"{split}: {len(rows):,} rows, {rows.y.mean():.1%} of class 1"
              for split, rows in (("train", self.train), ("val", self.val))),
        ])  # fmt: skip


def read_arrays(config: ArraysConfig) -> TabularData:
    """Read both splits and check them against each other.

    Raises: UserError that names the file, the array, the element and what is accepted; RunError if a bucket cannot be reached.
    """
    train_file = _opened(config.train, "data.train")
    val_file = train_file if config.val == config.train else _opened(config.val, "data.val")
    train, val = _rows(train_file, config.train, "train"), _rows(val_file, config.val, "val")
    present = sorted(set(train.y.tolist()))
    if len(present) == 1:
        raise UserError(
            f"{config.train}: y_train: every label is {present[0]} (accepted: both 0 and 1 occur); nothing can be learnt from one "
            "class: shuffle the rows before they are split"
        )
    if train.x.shape[1] != val.x.shape[1]:
        raise UserError(
            f"{config.val}: X_val has {val.x.shape[1]} columns (accepted: {train.x.shape[1]}, as X_train of {config.train}); make "
            "both files from the same columns: training pack-table CSV --target COLUMN"
        )
    columns = _columns(train_file, config.train, train.x.shape[1])
    if columns != (other := _columns(val_file, config.val, train.x.shape[1])) and columns and other:
        raise UserError(
            f"{config.val}: columns: {some(other)} (accepted: {some(columns)}, as in {config.train}); make both files together: "
            "training pack-table CSV --target COLUMN"
        )
    return TabularData(train, val, columns or other, _fingerprint(train, val))


def _opened(place: str, key: str) -> dict[str, Any]:
    """Every array of a file, by name; one that cannot be read is the exception that says why."""
    if "://" not in place:
        return _loaded(Path(place).expanduser(), place, key)
    url, _, name = place.rpartition("/")
    if not name or url.endswith("/"):
        raise UserError(f"{key}: {place}: no object of a bucket (accepted: gs://BUCKET/NAME.npz)")
    bucket = open_bucket(url)
    stored = bucket.about(name)
    if stored is None:
        raise UserError(f"{key}: {place}: there is no such object; to see what is there: gcloud storage ls {url}/")
    with TemporaryDirectory() as folder:
        if not bucket.fetch({name: stored}, "", Path(folder)):
            raise UserError(f"{key}: {place}: was removed while it was downloaded")
        return _loaded(Path(folder) / name, place, key)


_UNREADABLE = (ValueError, OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error, MemoryError)
"""What numpy and zipfile raise at a file that is damaged, or not theirs."""


def _loaded(path: Path, place: str, key: str) -> dict[str, Any]:
    accepted = "accepted: a .npz file, as np.savez writes it"
    try:
        with path.open("rb") as stream:
            is_zip = zipfile.is_zipfile(stream)
    except FileNotFoundError:
        there = sorted(found.name for found in path.parent.glob("*.npz")) if path.parent.is_dir() else []
        raise UserError(f"{key}: {place}: no such file{did_you_mean(path.name, there)} ({accepted})") from None
    except OSError as error:
        raise UserError(f"{key}: {place}: cannot be read: {error.strerror} ({accepted})") from None
    if not is_zip:
        raise UserError(f"{key}: {place}: is no .npz file ({accepted}); from a table: training pack-table CSV --target COLUMN")
    arrays: dict[str, Any] = {}
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            for name in file.files:
                try:
                    arrays[name] = file[name]
                except _UNREADABLE as error:
                    arrays[name] = error
    except _UNREADABLE as error:
        raise UserError(f"{key}: {place}: not a readable .npz file: {_plain(error)} ({accepted})") from None
    return arrays


def _rows(arrays: Mapping[str, Any], place: str, split: Split) -> Rows:
    x, y = _features(arrays, place, f"X_{split}"), _labels(arrays, place, f"y_{split}")
    if len(x) != len(y):
        raise UserError(
            f"{place}: y_{split} has {len(y):,} labels and X_{split} {len(x):,} rows (accepted: one label a row); save both from "
            "the same split"
        )
    return Rows(x, y, _probability(arrays, place, f"probability_{split}", len(x)))


def _array(arrays: Mapping[str, Any], place: str, name: str) -> npt.NDArray[Any]:
    """One array of numbers."""
    if name not in arrays:
        near = did_you_mean(name, arrays, limit=1)
        there = some(map(escaped, arrays)) or "none"
        raise UserError(f"{place}: no array {name} (it has: {there}{escaped(near)}); write it with np.savez(..., {name}={name})")
    array = arrays[name]
    if isinstance(array, BaseException):
        if "allow_pickle" in str(array):
            raise UserError(
                f"{place}: {name} holds Python objects, which are not read: unpickling can run code (accepted: an array of "
                f"numbers); write it with {name}={name}.astype('float32')"
            )
        raise UserError(f"{place}: {name} is damaged: {_plain(array)}; write the file again")
    if array.dtype.kind not in "fiub":
        raise UserError(
            f"{place}: {name} is of type {array.dtype} (accepted: numbers); turn text into numbers first: training pack-table CSV "
            "--target COLUMN does"
        )
    return np.asarray(array)


def _features(arrays: Mapping[str, Any], place: str, name: str) -> FloatArray:
    stored = _array(arrays, place, name)
    if stored.ndim != 2:
        remedy = f"; one column is {name}.reshape(-1, 1)" if stored.ndim == 1 else ""
        raise UserError(f"{place}: {name} has shape {stored.shape} (accepted: two dimensions, rows and columns){remedy}")
    if not stored.size:
        raise UserError(f"{place}: {name} is empty: its shape is {stored.shape} (accepted: at least one row and one column)")
    with np.errstate(over="ignore"):  # what overflows is refused as infinite
        x = np.ascontiguousarray(stored, np.float32)
    wrong = np.argwhere(~np.isfinite(x))
    if len(wrong):
        row, column = map(int, wrong[0])
        rows = len(np.unique(wrong[:, 0]))
        raise UserError(
            f"{place}: {name}[{row}, {column}]{_named(arrays, column)} is {stored[row, column]} (accepted: finite numbers of 32 "
            f"bit; {len(wrong):,} values of {rows:,} rows are none); fill what is missing (training pack-table takes the median) "
            "or leave these rows out"
        )
    return x


def _labels(arrays: Mapping[str, Any], place: str, name: str) -> IntArray:
    stored = _array(arrays, place, name)
    if stored.ndim == 2 and stored.shape[1] == 1:
        stored = stored[:, 0]
    if stored.ndim != 1:
        remedy = f"; one-hot labels become {name}.argmax(axis=1)" if stored.ndim == 2 else ""
        raise UserError(f"{place}: {name} has shape {stored.shape} (accepted: one label a row, shape (rows,)){remedy}")
    if not len(stored):
        raise UserError(f"{place}: {name} is empty (accepted: a label for each row)")
    wrong = np.flatnonzero(~np.isin(stored, (0, 1)))
    if len(wrong):
        row = int(wrong[0])
        found = np.unique(stored[np.isfinite(stored)]) if stored.dtype.kind == "f" else np.unique(stored)
        whole = bool(np.all(found == np.round(found)))
        levels = len(found) == 2 and whole and np.isfinite(stored).all()
        remedy = f"; write {name} = ({name} == {found[1]:g}).astype(int)" if levels else ""
        kind = "" if whole and np.isfinite(stored[row]) else ", which is no class"
        raise UserError(
            f"{place}: {name}[{row}] is {stored[row]}{kind} (accepted: 0 and 1, the two classes, as integers or whole floats; "
            f"{len(wrong):,} labels are neither){remedy}"
        )
    return stored.astype(np.int64)


def _probability(arrays: Mapping[str, Any], place: str, name: str, n: int) -> Float64Array | None:
    if name not in arrays:
        return None
    stored = _array(arrays, place, name).astype(np.float64)
    if stored.shape != (n,):
        raise UserError(f"{place}: {name} has shape {stored.shape} (accepted: ({n},), one true probability a row, or no {name})")
    wrong = np.flatnonzero(~((stored >= 0) & (stored <= 1)))
    if len(wrong):
        row = int(wrong[0])
        raise UserError(f"{place}: {name}[{row}] is {stored[row]} (accepted: probabilities from 0 to 1, or no {name})")
    return stored


def _columns(arrays: Mapping[str, Any], place: str, n: int) -> tuple[str, ...] | None:
    if "columns" not in arrays:
        return None
    stored = arrays["columns"]
    if isinstance(stored, BaseException) or stored.dtype.kind != "U" or stored.shape != (n,):
        raise UserError(f"{place}: columns: is not {n} names (accepted: one text for each column of X, or no array columns)")
    return tuple(escaped(str(name)) for name in stored)


def _named(arrays: Mapping[str, Any], column: int) -> str:
    names = arrays.get("columns")
    known = isinstance(names, np.ndarray) and names.dtype.kind == "U" and names.ndim == 1 and column < len(names)
    return f" ({escaped(str(names[column]))})" if known and names is not None else ""


def _plain(error: BaseException) -> str:
    return escaped(" ".join(str(error).split()))[:200] or type(error).__name__


def _fingerprint(*splits: Rows) -> str:
    digest = hashlib.sha256()
    for rows in splits:
        for array in (rows.x, rows.y):
            digest.update(repr((array.shape, array.dtype.str)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
