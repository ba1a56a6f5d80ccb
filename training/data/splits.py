"""The split file: which cells are trained on, validated on and tested on. Read as cell-load reads it, but nothing is guessed.

    [datasets]                          name = file, folder of .h5/.h5ad, or pattern with * ? [] {a,b}, from the working directory
    [training]                          name = "train": all cell types that stand nowhere below
    [zeroshot]                          "dataset.cell type" = "train" | "val" | "test": all its perturbations
    [fewshot."dataset.cell type"]       val = ["A"], test = ["B"]: these perturbations; the others are trained on

Controls of a cell type that is used are in `train`, whatever the split of its perturbations, and every split draws on them.

Source: cell-load 0.10.4 (MIT), whose TOML this is; the behaviour, not the code.
"""

import glob
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from training.cells import Split
from training.data.h5ad import Labels
from training.data.h5ad_errors import why_no_file
from training.data.table import SPLITS, UNUSED, BoolArray, CellTable, SplitArray
from training.errors import UserError, did_you_mean
from training.text import some

TABLES = ("datasets", "training", "zeroshot", "fewshot")
SUFFIXES = (".h5", ".h5ad")


@dataclass(frozen=True, order=True)
class CellType:
    """A cell type of a data set, as `dataset.cell type` names it."""

    dataset: str
    name: str


@dataclass(frozen=True)
class HeldOut:
    """Perturbations of a few-shot cell type that are not trained on."""

    val: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class SplitFile:
    """A split file, parsed; whether its names occur in the data is for `assign_splits` to find out."""

    path: Path
    datasets: Mapping[str, str]
    training: tuple[str, ...]
    zeroshot: Mapping[CellType, Split]
    fewshot: Mapping[CellType, HeldOut]


def read_split_file(path: Path) -> SplitFile:
    """Parse the TOML and check its form.

    Raises: UserError naming the line (not TOML, a key set twice) or the table and key, and what is accepted.
    """
    content = _parse(path)
    for table, entries in content.items():
        if table not in TABLES:
            _refuse(path, f"[{table}]", f"no such table{did_you_mean(table, TABLES)} (accepted: {', '.join(TABLES)})")
        if not isinstance(entries, dict):
            _refuse(path, table, f"is a table: write [{table}] on a line of its own")
    datasets = _words(path, "datasets", content)
    if not datasets:
        _refuse(path, "[datasets]", 'names no data; write NAME = "FILE, FOLDER OR PATTERN"')
    training = _words(path, "training", content)
    for name, value in training.items():
        if name not in datasets:
            _refuse(path, f"[training] {name}", f"no such data set in [datasets]{did_you_mean(name, datasets)} ({some(datasets)})")
        if value != "train":
            _refuse(path, f"[training] {name}", f'{value!r}; the one accepted value is "train"')
    zeroshot = {_cell_type(path, "zeroshot", key, datasets): value for key, value in _words(path, "zeroshot", content).items()}
    for cell_type, value in zeroshot.items():
        if value not in SPLITS:
            where = f'[zeroshot] "{cell_type.dataset}.{cell_type.name}"'
            _refuse(path, where, f"{value!r}{did_you_mean(value, SPLITS)} (accepted: {', '.join(SPLITS)})")
    for key, entries in content.get("fewshot", {}).items():
        if (whole := _uncut(key, entries)[0]) != key:
            _refuse(path, f"[fewshot] {key}", f'is cut at a dot; put the name in quotes: [fewshot."{whole}"]')
    fewshot = {_cell_type(path, "fewshot", key, datasets): _held_out(path, key, v) for key, v in content.get("fewshot", {}).items()}
    for both in sorted(zeroshot.keys() & fewshot.keys()):
        _refuse(path, f'"{both.dataset}.{both.name}"', "is in [zeroshot] and in [fewshot]; keep one")
    used = {*training, *(cell_type.dataset for cell_type in (*zeroshot, *fewshot))}
    for name in datasets:
        if name not in used:
            _refuse(path, f"[datasets] {name}", f"is used nowhere; add it to [training], [zeroshot] or [fewshot]{_used(used)}")
    return SplitFile(path, datasets, tuple(training), zeroshot, fewshot)  # type: ignore[arg-type]  # the values were checked


def find_files(split: SplitFile) -> dict[str, tuple[Path, ...]]:
    """Files of each data set.

    Raises: UserError if a path is missing, a pattern (or one of its {alternatives}) matches nothing, or two data sets share a file.
    """
    found: dict[str, tuple[Path, ...]] = {}
    owner: dict[str, str] = {}
    for name, pattern in split.datasets.items():
        where = f"[datasets] {name}"
        paths = [path for alternative in _alternatives(pattern) for path in _files(split.path, where, alternative)]
        found[name] = tuple(sorted({os.path.realpath(path): path for path in paths}.values()))  # Path.resolve() raises on a loop
        for path in found[name]:
            if (first := owner.setdefault(os.path.realpath(path), name)) != name:
                _refuse(split.path, where, f"{path} belongs to {first} too; its cells would count twice")
    return found


def assign_splits(split: SplitFile, table: CellTable) -> SplitArray:
    """Split of each cell: a place in `SPLITS`, or `UNUSED`.

    Shape: (N,).
    Raises: UserError if a cell type or perturbation of the split file matches no cell.
    """
    assigned = np.full(table.n_cells, UNUSED, np.int8)
    is_control = table.is_control
    for name in split.training:
        assigned[_is(table.dataset, name)] = SPLITS.index("train")
    for cell_type, value in split.zeroshot.items():
        where = f'[zeroshot] "{cell_type.dataset}.{cell_type.name}"'
        cells = _cells_of(split.path, where, cell_type, table)
        if not np.any(cells & ~is_control):
            _refuse(split.path, where, "has no cells but controls")
        assigned[cells] = SPLITS.index(value)
        assigned[cells & is_control] = SPLITS.index("train")
    for cell_type, held_out in split.fewshot.items():
        where = f'[fewshot."{cell_type.dataset}.{cell_type.name}"]'
        cells = _cells_of(split.path, where, cell_type, table)
        assigned[cells] = SPLITS.index("train")
        for value, perturbations in (("val", held_out.val), ("test", held_out.test)):
            for perturbation in perturbations:
                chosen = _perturbed_with(split.path, f"{where} {value}", perturbation, cells, table)
                assigned[chosen] = SPLITS.index(value)
    return assigned


def _parse(path: Path) -> dict[str, Any]:
    try:
        if os.path.islink(path) and not os.path.exists(path):
            raise UserError(f"{path}: {why_no_file(path)} (data.split)")
        text = path.read_text(encoding="utf-8-sig")  # Windows' editors begin a file with a byte order mark
    except (FileNotFoundError, NotADirectoryError):
        near = did_you_mean(path.name, (p.name for p in path.parent.glob("*.toml")))
        start = "" if path.is_absolute() else f"; relative paths start at the working directory {Path.cwd()}"
        raise UserError(f"{path}: no such split file{near}{start} (data.split)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable split file: {error} (data.split)") from None
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise UserError(f"{path}: not TOML: brackets are nested too deeply") from None
    except ValueError as error:  # a TOMLDecodeError, or Python's own for a number of thousands of digits
        line = re.search(r"at line (\d+)", str(error))
        shown = f": {text.splitlines()[int(line[1]) - 1].strip()}" if line else ""
        raise UserError(f"{path}: not TOML: {error}{shown}") from None


def _refuse(path: Path, where: str, why: str) -> NoReturn:
    raise UserError(f"{path}: {where}: {why}")


def _words(path: Path, table: str, content: Mapping[str, Any]) -> dict[str, str]:
    """A table whose values are words."""
    entries: dict[str, Any] = content.get(table, {})
    for key, value in entries.items():
        if isinstance(value, dict):
            whole, inside = _uncut(key, value)
            _refuse(path, f"[{table}] {key}", f'is cut at a dot; put the name in quotes: "{whole}.{next(iter(inside), "...")}"')
        if not isinstance(value, str):
            _refuse(path, f"[{table}] {key}", f"{value!r} is {type(value).__name__}, not text in quotes")
    return entries


def _uncut(key: str, value: Any) -> tuple[str, Any]:
    """The name that TOML cut at its dots into tables of tables, and what stands in the innermost."""
    while isinstance(value, dict) and (tables := [name for name, inner in value.items() if isinstance(inner, dict)]):
        key, value = f"{key}.{tables[0]}", value[tables[0]]
    return key, value


def _cell_type(path: Path, table: str, key: str, datasets: Iterable[str]) -> CellType:
    """The data set is the longest name that the key begins with: names of data sets and cell types may hold dots."""
    fitting = [name for name in datasets if key.startswith(f"{name}.") and len(key) > len(name) + 1]
    if not fitting:
        near = did_you_mean(key.partition(".")[0], datasets)
        why = f'is no "DATASET.CELL_TYPE", in quotes, with a data set of [datasets]{near} ({some(datasets)})'
        _refuse(path, f'[{table}] "{key}"', why)
    dataset = max(fitting, key=len)
    return CellType(dataset, key[len(dataset) + 1 :])


def _held_out(path: Path, key: str, entries: object) -> HeldOut:
    where = f'[fewshot."{key}"]'
    if not isinstance(entries, dict):
        _refuse(path, where, 'is a table with val = ["PERTURBATION", ...] and test = [...]')
    for name, value in entries.items():
        if name not in ("val", "test"):
            why = "what is in neither val nor test is trained on" if name == "train" else "no such key"
            _refuse(path, f"{where} {name}", f"{why}{did_you_mean(name, ('val', 'test'))} (accepted: val, test)")
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            _refuse(path, f"{where} {name}", f"{value!r} is not a list of perturbations in quotes")
    held_out = HeldOut(tuple(entries.get("val", ())), tuple(entries.get("test", ())))
    if not held_out.val and not held_out.test:
        _refuse(path, where, "holds nothing out: val and test are empty")
    if both := sorted(set(held_out.val) & set(held_out.test)):
        _refuse(path, where, f"{some(both)}: in val and in test; keep one")
    return held_out


def _used(used: set[str]) -> str:
    return f" (used: {some(sorted(used))})" if used else ""


def _alternatives(pattern: str) -> list[str]:
    """The patterns that {a,b} stands for, with the home folder for ~."""
    pattern = os.path.expanduser(pattern)
    brace = re.search(r"\{([^{}]*)\}", pattern)
    if brace is None or os.path.exists(pattern):
        return [pattern]
    parts = [pattern[: brace.start()] + option.strip() + pattern[brace.end() :] for option in brace[1].split(",")]
    return [alternative for part in parts for alternative in _alternatives(part)]


def _files(path: Path, where: str, pattern: str) -> list[Path]:
    """Files of one alternative: as cell-load has it, a pattern without suffix names folders."""
    if os.path.isfile(pattern):
        return [Path(pattern)]
    if os.path.islink(pattern) and not os.path.exists(pattern):
        _refuse(path, where, f"{pattern}: {why_no_file(Path(pattern))}")
    is_pattern = not os.path.isdir(pattern)
    patterns = [pattern] if is_pattern and pattern.endswith(SUFFIXES) else [f"{pattern.rstrip('/')}/*{end}" for end in SUFFIXES]
    found = sorted(Path(name) for each in patterns for name in glob.glob(each, recursive=True))
    if found:
        return found
    stores = [name for name in sorted(glob.glob(pattern if is_pattern else f"{pattern.rstrip('/')}/*")) if _is_zarr(name)]
    if not is_pattern and _is_zarr(pattern):
        stores = [pattern]
    if stores:
        _refuse(path, where, f"{pattern}: {_about_zarr(stores)}")
    if not is_pattern:
        holds = some(sorted(os.listdir(pattern))) or "nothing"
        _refuse(path, where, f"{pattern}: no .h5 or .h5ad file in this folder (it holds: {holds})")
    folder = Path(pattern).parent
    beside = sorted(os.listdir(folder)) if folder.is_dir() else []
    near = did_you_mean(Path(pattern).name, beside) or (f" (beside it: {some(beside)})" if beside else f"; {folder} is no folder")
    what = "no such file or folder"
    if any(sign in pattern for sign in "*?["):
        what = "matches no .h5 or .h5ad file" if pattern.endswith(SUFFIXES) else "matches no folder with .h5 or .h5ad files"
    _refuse(path, where, f"{pattern}: {what}{near}; relative paths start at {Path.cwd()}")


def _is_zarr(path: str) -> bool:
    return any(os.path.isfile(os.path.join(path, name)) for name in (".zgroup", "zarr.json"))


def _about_zarr(stores: list[str]) -> str:
    """What to do with zarr stores."""
    what = "this is a zarr store" if len(stores) == 1 else f"these are zarr stores ({some(stores, 3)})"
    target = os.path.splitext(stores[0].rstrip("/"))[0] + ".h5ad"
    line = f"import anndata; anndata.read_zarr({stores[0]!r}).write_h5ad({target!r})"
    return f"{what}, and .h5 or .h5ad is read; write {'it' if len(stores) == 1 else 'each'} as .h5ad: {line}; then name {target}"


def _is(labels: Labels, name: str) -> BoolArray:
    return np.equal(labels.codes, labels.names.index(name))


def _cells_of(path: Path, where: str, cell_type: CellType, table: CellTable) -> BoolArray:
    of_dataset = _is(table.dataset, cell_type.dataset)
    names = [table.cell_type.names[code] for code in np.unique(table.cell_type.codes[of_dataset])]
    if cell_type.name not in names:
        near = did_you_mean(cell_type.name, names)
        _refuse(path, where, f"no cell of {cell_type.dataset} has the cell type {cell_type.name!r}{near} ({some(names)})")
    return of_dataset & _is(table.cell_type, cell_type.name)


def _perturbed_with(path: Path, where: str, perturbation: str, cells: BoolArray, table: CellTable) -> BoolArray:
    if perturbation == table.control:
        _refuse(path, where, f"{perturbation!r} is the control; controls serve every split")
    names = [table.perturbation.names[code] for code in np.unique(table.perturbation.codes[cells])]
    if perturbation not in names:
        near = did_you_mean(perturbation, names) or f" (its perturbations: {some(names)})"
        _refuse(path, where, f"no cell of this cell type has the perturbation {perturbation!r}{near}")
    return cells & _is(table.perturbation, perturbation)
