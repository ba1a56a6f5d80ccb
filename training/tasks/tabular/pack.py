"""`training pack-table`: from a CSV file to the two `.npz` files that a run reads.

Follows the lesson's notebook: text is coded by its alphabetical order, gaps are filled with the median or the most frequent
text, columns are scaled to mean 0 and standard deviation 1, and 20 % of the rows validate. Medians, most frequent texts, means and
scales are those of the training rows alone (there: of all rows), and stand in the files.
"""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.errors import UserError
from training.files import partial_file
from training.tasks.tabular.table_file import CsvTable, read_csv
from training.text import escaped, some

log = logging.getLogger(__name__)

LESSON_COLUMNS = ("Pclass", "Sex", "Age", "SibSp", "Parch", "Fare", "Embarked")
"""Columns that are taken where a file has all of them and none are named."""
VAL_FRACTION = 0.2
SPLIT_SEED = 42
MOST_LEVELS = 20
"""A text column with more different texts holds names or identifiers, not categories."""

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Column:
    """How the values of a column become numbers. For text, `fill` is a code, and `levels[code]` the text."""

    name: str
    levels: tuple[str, ...] | None
    fill: float
    """What stands for no value: the median of the training rows, or their most frequent text."""
    mean: float
    scale: float
    """Standard deviation over the training rows; 1 for a column that is constant there."""


@dataclass(frozen=True)
class PackedTable:
    """What `pack_table` has written."""

    train: Path
    val: Path
    columns: tuple[Column, ...]
    classes: tuple[str, str]
    n_train: int
    n_val: int

    def summary(self) -> str:
        """For people."""
        return "\n".join([
            f"{self.train}: {self.n_train:,} rows", f"{self.val}: {self.n_val:,} rows",
            f"class 0 is {self.classes[0]}, class 1 is {self.classes[1]}",
            *(_described(column) for column in self.columns),
        ])  # fmt: skip


def pack_table(
    csv_file: Path,
    target: str,
    folder: Path,
    columns: Sequence[str] | None = None,
    probability: str | None = None,
    seed: int = SPLIT_SEED,
) -> PackedTable:
    """Write `train_data.npz` and `val_data.npz` to `folder`.

    Args:
        csv_file: A table with a header.
        target: Column with the two classes; they become 0 and 1 in the order of numbers or of the alphabet.
        folder: Made if it is not there.
        columns: Columns that the model sees; None: the lesson's seven where the file has them, else all but `target`.
        probability: Column with the true probability of class 1, where the data are made up; it is stored beside the rows.
        seed: Of the split. With 42 these are the rows of scikit-learn's `train_test_split(..., test_size=0.2, random_state=42)`.

    Raises: UserError for a table that cannot be used, or files that exist; nothing is written then.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed {seed} (accepted: 0 to 2**32 - 1)")
    table = read_csv(csv_file)
    y, classes = _target(table, target)
    chosen = _chosen(table, target, columns, probability)
    val_rows, train_rows = split_rows(len(table.rows), seed)
    for name, rows in (("training", train_rows), ("validation", val_rows)):
        if len(set(y[rows].tolist())) < 2:
            raise UserError(
                f"{csv_file}: column {target}: the {len(rows)} {name} rows have one class (accepted: rows of both); add rows, or "
                "split with another --seed"
            )
    values, described = _encoded(table, chosen, train_rows)
    written = PackedTable(folder / "train_data.npz", folder / "val_data.npz", described, classes, len(train_rows), len(val_rows))
    truth = None if probability is None else _probabilities(table, probability)
    arrays = {
        path: _arrays(split, rows, values, y, truth, written)
        for path, split, rows in ((written.train, "train", train_rows), (written.val, "val", val_rows))
    }
    _save(arrays)
    return written


def split_rows(n: int, seed: int) -> tuple[IntArray, IntArray]:
    """Rows that validate and rows that are trained on, as scikit-learn 1.7's `train_test_split` draws them.

    Shape: (ceil(n / 5),), (n - ceil(n / 5),).
    """
    shuffled = np.random.RandomState(seed).permutation(n).astype(np.int64)
    n_val = int(np.ceil(n * VAL_FRACTION))
    return shuffled[:n_val], shuffled[n_val:]


def _chosen(table: CsvTable, target: str, columns: Sequence[str] | None, probability: str | None) -> tuple[str, ...]:
    hidden = {target, probability}
    if columns is not None:
        for name in columns:
            table.column(name)
        if refused := [name for name in columns if name in hidden]:
            raise UserError(f"--columns: {some(refused)}: is what is to be predicted; leave it out")
        if len(set(columns)) < len(columns) or not columns:
            raise UserError(f"--columns: {','.join(columns)}: names a column twice, or none (accepted: different names)")
        return tuple(columns)
    if target not in LESSON_COLUMNS and set(LESSON_COLUMNS) <= set(table.columns):
        log.info("columns: %s (others with --columns)", ", ".join(LESSON_COLUMNS))
        return LESSON_COLUMNS
    rest = tuple(name for name in table.columns if name not in hidden)
    identifiers = [name for name in rest if _is_identifier(table, name)]
    if identifiers:
        usable = ",".join(name for name in rest if name not in identifiers)
        raise UserError(
            f"{table.path}: {some(map(escaped, identifiers))}: looks like an identifier: more than {MOST_LEVELS} different "
            "texts, or a different whole number in every row. Say which columns the model may see: --columns "
            f"{escaped(usable) or 'A,B,C'}"
        )
    if not rest:
        raise UserError(f"{table.path}: has no column besides {target} (accepted: at least one)")
    return rest


def _is_identifier(table: CsvTable, name: str) -> bool:
    numbers = table.numbers(name)
    if numbers is None:
        return len({cell for cell in table.column(name) if cell is not None}) > MOST_LEVELS
    whole = bool(np.all(np.isfinite(numbers) & (numbers == np.round(numbers))))
    return whole and len(numbers) > MOST_LEVELS and len(np.unique(numbers)) == len(numbers)


def _target(table: CsvTable, name: str) -> tuple[IntArray, tuple[str, str]]:
    cells = table.column(name)
    if None in cells:
        row = cells.index(None)
        raise UserError(f"{table.cell(row, name)}: the target has no value (accepted: one of two classes); leave such rows out")
    numbers = table.numbers(name)
    if numbers is not None and len(uneven := np.flatnonzero(numbers != np.round(numbers))):
        raise UserError(f"{table.cell(int(uneven[0]), name)}: is no class (accepted: two whole numbers, or two texts)")
    keys: list[Any] = [cell or "" for cell in cells] if numbers is None else numbers.tolist()
    levels = sorted(set(keys))
    if len(levels) == 1:
        raise UserError(f"{table.cell(0, name)}: is the class of every row (accepted: two classes)")
    if len(levels) > 2:
        rarest = min(levels, key=keys.count) if len(levels) < MOST_LEVELS else levels[-1]
        shown = some((level if numbers is None else f"{level:g}" for level in levels), 5)
        why = f"the target has {len(levels)} classes: {escaped(shown)} (accepted: two)"
        raise UserError(f"{table.cell(keys.index(rarest), name)}: {why}; leave out rows of other classes")
    texts = [escaped(level) if numbers is None else f"{level:g}" for level in levels]
    return np.array([levels.index(key) for key in keys], np.int64), (texts[0], texts[1])


def _encoded(table: CsvTable, names: Sequence[str], train_rows: IntArray) -> tuple[Float64Array, tuple[Column, ...]]:
    """All rows as scaled numbers. Shape: (rows of the table, names)."""
    values, described = [], []
    for name in names:
        numbers, levels = _numbers_or_codes(table, name)
        seen = numbers[train_rows]
        seen = seen[np.isfinite(seen)]
        if not len(seen):
            raise UserError(f"{table.path}: column {escaped(name)}: no training row has a value; leave it out of --columns")
        fill = float(np.median(seen)) if levels is None else float(Counter(sorted(seen.tolist())).most_common(1)[0][0])
        filled = np.where(np.isfinite(numbers), numbers, fill)
        mean, scale = float(filled[train_rows].mean()), float(filled[train_rows].std())
        if scale == 0:
            log.warning("%s: column %s has one value in all training rows: it tells nothing", table.path, name)
        values.append((filled - mean) / (scale or 1.0))
        described.append(Column(name, levels, fill, mean, scale or 1.0))
    return np.stack(values, axis=1), tuple(described)


def _numbers_or_codes(table: CsvTable, name: str) -> tuple[Float64Array, tuple[str, ...] | None]:
    numbers = table.numbers(name)
    if numbers is not None:
        return numbers, None
    cells = table.column(name)
    levels = sorted({cell for cell in cells if cell is not None})
    if len(levels) > MOST_LEVELS:
        raise UserError(
            f"{table.path}: column {escaped(name)} has {len(levels)} different texts (accepted: at most {MOST_LEVELS}, as "
            "categories have); leave it out of --columns"
        )
    code = {level: number for number, level in enumerate(levels)}
    return np.array([np.nan if cell is None else code[cell] for cell in cells], np.float64), tuple(levels)


def _probabilities(table: CsvTable, name: str) -> Float64Array:
    numbers = table.numbers(name)
    if numbers is None or len(wrong := np.flatnonzero(~((numbers >= 0) & (numbers <= 1)))):
        row = 0 if numbers is None else int(wrong[0])
        raise UserError(f"{table.cell(row, name)}: is no probability (accepted: numbers from 0 to 1)")
    return numbers


def _arrays(
    split: str, rows: IntArray, values: Float64Array, y: IntArray, probability: Float64Array | None, packed: PackedTable
) -> dict[str, npt.NDArray[Any]]:
    columns = packed.columns
    arrays: dict[str, npt.NDArray[Any]] = {
        f"X_{split}": values[rows],
        f"y_{split}": y[rows],
        f"row_{split}": rows,
        "columns": np.array([column.name for column in columns]),
        "medians": np.array([column.fill for column in columns]),
        "means": np.array([column.mean for column in columns]),
        "scales": np.array([column.scale for column in columns]),
        "categories": np.array([json.dumps(column.levels) for column in columns]),
        "classes": np.array(packed.classes),
    }
    return arrays if probability is None else arrays | {f"probability_{split}": probability[rows]}


def _save(arrays: dict[Path, dict[str, npt.NDArray[Any]]]) -> None:
    for path in arrays:
        if path.exists():
            raise UserError(f"{path}: exists already (accepted: another folder, or remove it)")
    folder = next(iter(arrays)).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be made: {error.strerror} (accepted: a folder that can be written)") from None
    with ExitStack() as stack:
        for path, own in arrays.items():
            with stack.enter_context(partial_file(path)).open("wb") as stream:
                np.savez_compressed(stream, allow_pickle=False, **own)


def _described(column: Column) -> str:
    if column.levels is None:
        return f"  {column.name}: no value becomes {column.fill:g}; minus {column.mean:.4g}, divided by {column.scale:.4g}"
    codes = ", ".join(f"{level} {code}" for code, level in enumerate(column.levels))
    return f"  {column.name}: {codes}; no value becomes {column.levels[int(column.fill)]}; then scaled"
