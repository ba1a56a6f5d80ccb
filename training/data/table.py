"""Every cell of a run as integers: where it lies, what it is, and which split it belongs to. No values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from training.cells import Condition, IntArray, Split
from training.config import CellSetsConfig
from training.data.h5ad import H5adFile, Labels
from training.errors import UserError, did_you_mean
from training.text import some

BoolArray = npt.NDArray[np.bool_]
SplitArray = npt.NDArray[np.int8]

SPLITS: tuple[Split, ...] = ("train", "val", "test")
UNUSED, SET_ASIDE = -1, len(SPLITS)
"""In `CellTable.split`, beside places in `SPLITS`: the cell is in no split; it is a control that only measures (`set_aside.py`)."""


@dataclass(frozen=True)
class CellTable:
    """One row a cell, over all files. Names are sorted, and each occurs.

    Shape: row (N,), split (N,), and the codes of every `Labels` (N,).
    """

    dataset: Labels
    cell_type: Labels
    perturbation: Labels
    gem_group: Labels | None
    """None where the run names no such column."""
    file: Labels
    """`names` are paths."""
    row: IntArray
    """Row of the cell in its file."""
    split: SplitArray
    control: str
    """Name of the control among the perturbations."""

    @property
    def n_cells(self) -> int:
        """Rows of the table."""
        return len(self.row)

    @property
    def is_control(self) -> BoolArray:
        """Whether a cell is a control."""
        if self.control not in self.perturbation.names:
            return np.zeros(self.n_cells, bool)
        return np.equal(self.perturbation.codes, self.perturbation.names.index(self.control))

    def is_in(self, split: Split) -> BoolArray:
        """Whether a cell is in `split`; the controls of every used cell type are in `train`, but for those set aside."""
        return np.equal(self.split, SPLITS.index(split))

    @property
    def is_set_aside(self) -> BoolArray:
        """Whether a cell is a control that only measures: in no split, in no set, and in no pool of controls."""
        return np.equal(self.split, SET_ASIDE)

    def condition(self, cell: int) -> Condition:
        """How the cell was treated."""
        return Condition(*(column.names[column.codes[cell]] for column in (self.dataset, self.cell_type, self.perturbation)))

    def keep(self, chosen: BoolArray) -> "CellTable":
        """The table of the chosen cells alone; names that no longer occur are gone."""
        return replace(
            self,
            dataset=_compact(self.dataset, chosen),
            cell_type=_compact(self.cell_type, chosen),
            perturbation=_compact(self.perturbation, chosen),
            gem_group=None if self.gem_group is None else _compact(self.gem_group, chosen),
            file=_compact(self.file, chosen),
            row=self.row[chosen],
            split=self.split[chosen],
        )


def key(*columns: Labels) -> IntArray:
    """One number for each cell that is equal where all `columns` are, and sorts like them, the first column first.

    Shape: (N,).
    """
    codes = np.zeros(len(columns[0].codes), np.int64)
    for column in columns:
        codes = codes * len(column.names) + column.codes
    return codes


def read_table(files: Mapping[str, Sequence[H5adFile]], config: CellSetsConfig) -> CellTable:
    """Table of all cells of all data sets, datasets in sorted order; every cell is still `UNUSED`.

    Raises: UserError if a column is missing or a file has no cell with the control label.
    """
    datasets = [(name, file) for name in sorted(files) for file in files[name]]
    perturbations = [_perturbations(file, config) for _, file in datasets]
    cell_types = [file.labels(config.cell_type_column) for _, file in datasets]
    column = config.gem_group_column
    return CellTable(
        dataset=_join([_constant(name, file.n_obs) for name, file in datasets]),
        cell_type=_join(cell_types),
        perturbation=_join(perturbations),
        gem_group=None if column is None else _join([file.labels(column) for _, file in datasets]),
        file=_join([_constant(str(file.path), file.n_obs) for _, file in datasets]),
        row=np.concatenate([np.arange(file.n_obs, dtype=np.int64) for _, file in datasets]),
        split=np.full(sum(file.n_obs for _, file in datasets), UNUSED, np.int8),
        control=config.control,
    )


def _perturbations(file: H5adFile, config: CellSetsConfig) -> Labels:
    labels = file.labels(config.perturbation_column)
    if config.control not in labels.names:
        near = did_you_mean(config.control, labels.names) or f" (labels: {some(labels.names)})"
        raise UserError(f"{file.path}: no cell of obs/{config.perturbation_column} has the control label {config.control!r}{near}")
    return labels


def _constant(name: str, n_cells: int) -> Labels:
    return Labels(np.zeros(n_cells, np.int32), (name,))


def _join(parts: Sequence[Labels]) -> Labels:
    """The parts behind one another, over the sorted names that occur in any of them."""
    names = sorted({part.names[code] for part in parts for code in np.unique(part.codes)})
    place = {name: code for code, name in enumerate(names)}
    # A name without cells has no place; no code points at it.
    codes = [np.array([place.get(name, -1) for name in part.names], np.int32)[part.codes] for part in parts]
    return Labels(np.concatenate(codes), tuple(names))


def _compact(labels: Labels, chosen: BoolArray) -> Labels:
    return _join([Labels(labels.codes[chosen], labels.names)])
