"""What is in which split, and how it is cut into sets: counted, and as the text that is printed before training."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from training.cells import Condition, IntArray, Split
from training.data.sets import Groups, cut
from training.data.table import SPLITS, CellTable
from training.refusal import some


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


@dataclass(frozen=True)
class SplitReport:
    """The split as it came out: printed before training and kept in `run.json`."""

    rows: tuple[SplitRow, ...]
    leaks: tuple[str, ...]
    """Held-out conditions whose cell type and perturbation are trained on, if only in another data set."""
    unseen: tuple[str, ...]
    """Held-out perturbations that no training cell has; a model with one-hot vectors knows nothing of them."""
    training_sets: tuple[tuple[int, int], ...]
    """Length of a training set, and sets of this length per epoch; the longest first."""


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
    lengths: Counter[int] = Counter()
    n_perturbations: Counter[tuple[str, str, Split]] = Counter()
    n_cells: Counter[tuple[str, str, Split]] = Counter()
    n_controls: Counter[tuple[str, str]] = Counter()
    n_sets: Counter[tuple[str, str, Split]] = Counter()
    for (split, condition), cells in by_condition.items():
        if condition.perturbation != table.control:
            n_perturbations[condition.dataset, condition.cell_type, split] += 1
            n_cells[condition.dataset, condition.cell_type, split] += len(cells)
        else:
            n_controls[condition.dataset, condition.cell_type] += len(cells)
    for split, of_split in groups.items():
        for first, size in zip(of_split.cells[of_split.starts[:-1]], of_split.sizes, strict=True):
            condition, sets = table.condition(first), cut(int(size), set_size)
            n_sets[condition.dataset, condition.cell_type, split] += len(sets)
            lengths.update(sets if split == "train" else ())
    kept = map(table.condition, np.flatnonzero(table.is_set_aside).tolist())
    n_set_aside = Counter((control.dataset, control.cell_type) for control in kept)
    rows = [
        SplitRow(*at, n_perturbations[at], n_cells[at], n_controls[at[:2]], n_set_aside[at[:2]], n_sets[at])
        for at in sorted(n_sets, key=lambda at: (*at[:2], SPLITS.index(at[2])))
    ]
    return tuple(rows), tuple(sorted(lengths.items(), reverse=True))


def summary_of(report: SplitReport, validation: Literal["split", "test", "none"]) -> str:
    """The report as text."""
    head = ("data set", "cell type", "split", "perturbations", "cells", "controls", "set aside", "sets")
    rows = [head, *(tuple(_shown(value) for value in vars(row).values()) for row in report.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  " + "  ".join(word.ljust(w) if i < 3 else word.rjust(w) for i, (word, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    sets = ", ".join(f"{number:,} of {length}" for length, number in report.training_sets)
    lines.append(f"Training sets per epoch: {sets or 'none'} cells; a group that fills no full set gives shorter ones")
    leaks = report.leaks
    lines.append(f"Leak check: {len(leaks)} held-out conditions are trained on" + (": " + some(leaks) if leaks else ""))
    if report.unseen:
        lines.append(f"Never trained on in any cell type: {some(report.unseen)}")
    if validation == "test":
        lines.append("Validation uses the test cells, as data.validation says: the test is no longer held out")
    return "\n".join(["Cells per split", *lines])


def _shown(value: str | int) -> str:
    return value if isinstance(value, str) else f"{value:,}"
