"""What is in which split and in which sets: counted, and as the text that is printed before training."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from training.cells import Condition, IntArray, Split
from training.data.sets import Groups, cut
from training.data.table import SPLITS, UNUSED, CellTable
from training.text import aligned, some


@dataclass(frozen=True)
class SplitRow:
    """What a split has of one cell type."""

    dataset: str
    cell_type: str
    split: Split
    n_perturbations: int
    n_cells: int
    """Perturbed cells."""
    n_controls: int
    """Controls of the cell type, which all splits draw on."""
    n_set_aside: int
    """Controls of the cell type that only measure: no training set and no baseline has them."""
    n_sets: int
    """Sets per epoch; in `train` those of controls too, unless `include_controls` is off."""
    n_in_no_set: int
    """Perturbed cells that are in no set, as the split is cut or would be: of `train` in no epoch; held-out sets never change."""


@dataclass(frozen=True)
class LeftOut:
    """Cells of the files that no split has."""

    why: Literal["no table of the split file names them", "perturbation without features"]
    name: str
    """`dataset.cell type`, or the perturbation."""
    n_cells: int


@dataclass(frozen=True)
class SplitReport:
    """The split as it came out: printed before training and kept in `run.json`."""

    rows: tuple[SplitRow, ...]
    leaks: tuple[str, ...]
    """Held-out conditions whose cell type and perturbation are trained on, if only in another data set or under another name."""
    unseen: tuple[str, ...]
    """Held-out perturbations that no training set has; a model with one-hot vectors knows nothing of them."""
    training_sets: tuple[tuple[int, int], ...]
    """Length of a training set, and sets of this length per epoch; the longest first."""
    in_no_set: tuple[str, ...]
    """Conditions that are trained or validated on by the split file, but whose cells are in no set."""
    not_judged: tuple[str, ...]
    """Test conditions that are too few cells for an evaluation."""
    left_out: tuple[LeftOut, ...]


def cells_in_no_split(table: CellTable) -> tuple[LeftOut, ...]:
    """Cells of cell types that the split file names nowhere; a cell type of a data set is in splits whole or not at all."""
    unused = np.equal(table.split, UNUSED)
    numbers = Counter(zip(table.dataset.codes[unused].tolist(), table.cell_type.codes[unused].tolist(), strict=True))
    return tuple(
        LeftOut("no table of the split file names them", f"{table.dataset.names[dataset]}.{table.cell_type.names[cell_type]}", n)
        for (dataset, cell_type), n in sorted(numbers.items())
    )


def cells_without_features(table: CellTable, perturbations: tuple[str, ...]) -> tuple[LeftOut, ...]:
    """Cells of the perturbations that are left out since they have no features."""
    number_of = dict(zip(table.perturbation.names, np.bincount(table.perturbation.codes).tolist(), strict=True))
    return tuple(LeftOut("perturbation without features", name, number_of[name]) for name in perturbations)


def count_sets(
    table: CellTable, by_condition: Mapping[tuple[Split, Condition], IntArray], groups: Mapping[Split, Groups], set_size: int
) -> tuple[tuple[SplitRow, ...], tuple[tuple[int, int], ...]]:
    """Rows of the report, and length and number of training sets.

    Args:
        table: All cells of the three splits.
        by_condition: Cells of each condition in each split.
        groups: How each split is cut.
        set_size: Cells in a full set.
    """
    n_perturbations: Counter[tuple[str, str, Split]] = Counter()
    n_cells: Counter[tuple[str, str, Split]] = Counter()
    n_controls: Counter[tuple[str, str]] = Counter()
    for (split, condition), cells in by_condition.items():
        if condition.perturbation != table.control:
            n_perturbations[condition.dataset, condition.cell_type, split] += 1
            n_cells[condition.dataset, condition.cell_type, split] += len(cells)
        else:
            n_controls[condition.dataset, condition.cell_type] += len(cells)
    kept = map(table.condition, np.flatnonzero(table.is_set_aside).tolist())
    n_set_aside = Counter((control.dataset, control.cell_type) for control in kept)
    rows = []
    for split, of_split in groups.items():
        n_sets, n_in_no_set = _cut_groups(of_split, set_size, is_new_each_epoch=split == "train")
        n_in_no_set[table.is_control[of_split.first]] = 0
        for cell_type in np.unique(of_split.cell_type):
            here = np.equal(of_split.cell_type, cell_type)
            condition = table.condition(of_split.first[here][0])
            of_type, at = (condition.dataset, condition.cell_type), (condition.dataset, condition.cell_type, split)
            rows.append(SplitRow(
                *at, n_perturbations[at], n_cells[at], n_controls[of_type], n_set_aside[of_type],
                int(n_sets[here].sum()), int(n_in_no_set[here].sum()),
            ))  # fmt: skip
    rows.sort(key=lambda row: (row.dataset, row.cell_type, SPLITS.index(row.split)))
    lengths: Counter[int] = Counter()
    for size, n_groups in zip(*np.unique(groups["train"].sizes, return_counts=True), strict=True):
        for length in cut(int(size), set_size):
            lengths[length] += int(n_groups)
    return tuple(rows), tuple(sorted(lengths.items(), reverse=True))


def _cut_groups(groups: Groups, set_size: int, *, is_new_each_epoch: bool) -> tuple[IntArray, IntArray]:
    """How many sets each group gives, and how many of its cells are in no set: what an epoch leaves over has its turn in another.

    Shape: (groups,), (groups,).
    """
    sizes, of_group = np.unique(groups.sizes, return_inverse=True)
    cuts = [cut(int(size), set_size) for size in sizes]
    n_sets = np.array([len(each) for each in cuts], np.int64)[of_group]
    in_sets = groups.sizes * groups.gives_sets if is_new_each_epoch else np.array([sum(each) for each in cuts], np.int64)[of_group]
    return n_sets, groups.sizes - in_sets


def conditions_in_sets(table: CellTable, groups: Groups) -> tuple[Condition, ...]:
    """Perturbed conditions with a cell in a set, sorted."""
    chosen = groups.gives_sets & ~table.is_control[groups.first]
    _, where = np.unique(groups.condition[chosen], return_index=True)
    return tuple(table.condition(cell) for cell in groups.first[chosen][where])


def summary_of(report: SplitReport, validation: Literal["split", "test", "none"]) -> str:
    """The report as text."""
    head = ("data set", "cell type", "split", "perturbations", "cells", "controls", "set aside", "sets", "in no set")
    rows = [head, *(tuple(_shown(value) for value in vars(row).values()) for row in report.rows)]
    lines = [f"  {line}" for line in aligned(rows, right=range(3, len(head)))]
    sets = ", ".join(f"{number:,} of {length}" for length, number in report.training_sets)
    lines.append(f"Training sets per epoch: {sets or 'none'} cells; a group that fills no full set gives shorter ones")
    if report.in_no_set:
        lines.append(f"In no set, so neither trained nor validated on: {some(report.in_no_set)}")
    for why in dict.fromkeys(each.why for each in report.left_out):
        cells = [each for each in report.left_out if each.why == why]
        named = some(f"{each.name} ({each.n_cells:,})" for each in cells)
        lines.append(f"In no split: {sum(each.n_cells for each in cells):,} cells, {why}: {named}")
    leaks = report.leaks
    lines.append(f"Leak check: {len(leaks)} held-out conditions are trained on" + (": " + some(leaks) if leaks else ""))
    if report.unseen:
        lines.append(f"Never trained on in any cell type: {some(report.unseen)}")
    if report.not_judged:
        lines.append(f"Cannot be judged, fewer than 2 cells: {some(report.not_judged)}")
    if validation == "test":
        lines.append("Validation uses the test cells, as data.validation says: the test is no longer held out")
    return "\n".join(["Cells per split", *lines])


def _shown(value: str | int) -> str:
    return value if isinstance(value, str) else f"{value:,}"
