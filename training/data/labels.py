"""Labels that are not what they seem: words that stand for no label, and one thing under two names.

All work is on names and conditions, of which there are thousands, and not on cells, of which there are millions.
"""

import logging
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from training.cells import IntArray
from training.config import CellSetsConfig
from training.data.combinations import SEPARATORS, joined_by, parts
from training.data.h5ad import Labels
from training.data.table import SPLITS, CellTable, key
from training.errors import UserError
from training.text import some

log = logging.getLogger(__name__)

PLACEHOLDERS = frozenset({"", "nan", "none", "<na>", "na", "n/a", "null", "*", "unassigned"})
"""What files have for a cell without a label, in lower case: mostly what `astype(str)` makes of a missing value."""

IdentityOf = Callable[[str], tuple[str, ...]]

_LOOK_ALIKE = str.maketrans(
    "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧο" + "АВЕЅІЈКМНОРСТХУаеѕіјорсху",  # noqa: RUF001 (Greek, then Cyrillic)
    "ABEZHIKMNOPTYXo" + "ABESIJKMHOPCTXYaesijopcxy",
    "\u00ad\u200b\u200c\u200d\u2060\ufeff",  # these have no width
)


def canonical(label: str) -> str:
    """The label as the eye reads it: letters of Unicode's compatible form, Latin for what looks Latin, single blanks."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", label).translate(_LOOK_ALIKE))


def identity(label: str, control: str, separator: str | None) -> tuple[str, ...]:
    """What a perturbation's label names, however it is written: equal for `A+B`, `B+A ` and `B+A+control`; empty for controls."""
    return parts(canonical(label), canonical(control), None if separator is None else canonical(separator))


def check_labels(table: CellTable, config: CellSetsConfig) -> None:
    """Refuse labels that stand for no label, and one thing under two names where that spoils the split; warn where it may not.

    Raises: UserError naming files, column, labels with their numbers of cells, and the line of Python that mends the files.
    """
    perturbation = _Column(table, config.perturbation_column, table.perturbation)
    cell_type = _Column(table, config.cell_type_column, table.cell_type)
    for column in (perturbation, cell_type):
        _refuse_placeholders(column)
    if table.gem_group is not None and config.gem_group_column is not None:
        _refuse_placeholders(_Column(table, config.gem_group_column, table.gem_group))
    _refuse_twins_of_control(perturbation, config.separator)
    everywhere = np.zeros(table.n_cells, np.int64)
    own = partial(identity, control=table.control, separator=config.separator)
    folded = partial(identity, control=table.control.casefold(), separator=config.separator)
    _check_twins(perturbation, own, folded, everywhere, key(table.dataset, table.cell_type), config.split)
    dataset = table.dataset.codes.astype(np.int64)
    whole = partial(identity, control="", separator=None)
    _check_twins(cell_type, whole, whole, dataset, dataset, config.split)
    _warn_of_separator(perturbation, config.separator)


@dataclass(frozen=True)
class _Column:
    """An `obs` column, for messages about its labels."""

    table: CellTable
    name: str
    labels: Labels

    @cached_property
    def code(self) -> dict[str, int]:
        """Code by name."""
        return {name: code for code, name in enumerate(self.labels.names)}

    @cached_property
    def n_cells(self) -> list[int]:
        """Cells by code."""
        numbers: list[int] = np.bincount(self.labels.codes, minlength=len(self.labels.names)).tolist()
        return numbers

    def counted(self, names: Iterable[str]) -> str:
        """`'A+B' (40 cells)` for each."""
        return some(f"{name!r} ({self.n_cells[self.code[name]]:,} cells)" for name in names)

    def groups(self, groups: Iterable[Sequence[str]]) -> str:
        """`'A+B' (40 cells) beside 'B+A' (3 cells)` for each."""
        return some(f"{self.counted(group[:1])} beside {self.counted(group[1:])}" for group in groups)

    def paths(self, names: Collection[str]) -> list[str]:
        """Files that have cells of one of the names."""
        here = np.isin(self.labels.codes, [self.code[name] for name in names])
        return [self.table.file.names[code] for code in np.unique(self.table.file.codes[here])]

    def mended(self, names: Collection[str], change: str) -> str:
        """A line of Python that changes the files that have one of the names."""
        return f"for path in {self.paths(names)}: adata = anndata.read_h5ad(path); {change}; adata.write_h5ad(path)"

    def renamed(self, new: Mapping[str, str]) -> str:
        """A line of Python that gives labels their new names."""
        column = f"adata.obs[{self.name!r}]"
        return self.mended(new, f"{column} = {column}.astype(str).replace({dict(new)})")

    def one_name(self, group: Sequence[str], kept: str | None = None) -> dict[str, str]:
        """Every name of the group but one -> that one: `kept`, else the name of most cells."""
        new = kept or max(group, key=lambda name: self.n_cells[self.code[name]])
        return {name: new for name in group if name != new}


def _refuse_placeholders(column: _Column) -> None:
    is_perturbation = column.labels is column.table.perturbation
    control = column.table.control if is_perturbation else None
    names = [name for name in column.labels.names if name.strip().casefold() in PLACEHOLDERS and name != control]
    if names:
        drop = column.mended(names, f"adata = adata[~adata.obs[{column.name!r}].isin({names})].copy()")
        raise UserError(
            f"{some(column.paths(names))}: obs/{column.name}: {column.counted(names)}: such a word stands for no label; "
            f"give these cells their labels, or drop them: {drop}"
        )


def _refuse_twins_of_control(column: _Column, separator: str | None) -> None:
    control = column.table.control
    twins = [name for name in column.labels.names if name != control and not identity(name, control, separator)]
    if twins:
        raise UserError(
            f"{some(column.paths(twins))}: obs/{column.name}: {column.counted(twins)}: would be trained on as perturbations, "
            f"but name nothing besides the control {control!r}; make them controls: {column.renamed(dict.fromkeys(twins, control))}"
        )


def _check_twins(column: _Column, own: IdentityOf, folded: IdentityOf, scope: IntArray, place: IntArray, split_file: str) -> None:
    """Refuse twins of which one is held out where another is trained on; warn of others, and of names that differ by case alone.

    Args:
        column: The labels.
        own: What a label names.
        folded: What a label names that is written in lower case.
        scope: Each cell's scope; only names of one scope are compared. Shape: (N,).
        place: Where each cell is; training on one twin in the place where another is held out is a leak. Shape: (N,).
        split_file: Named in the refusal.
    """
    n_names = len(column.labels.names)
    named = [
        (pair // n_names, column.labels.names[pair % n_names]) for pair in np.unique(scope * n_names + column.labels.codes).tolist()
    ]
    twins = _alike((where, own(name), name) for where, name in named)
    if twins:
        _refuse_leaks(column, twins, place, split_file)
    others = {name for _, name in named}.difference(*twins)
    by_case = _alike((where, folded(name.casefold()), name) for where, name in named if name in others)
    for groups, what in ((twins, "name the same thing"), (by_case, "differ by case alone")):
        if groups:
            new = {name: kept for group in groups for name, kept in column.one_name(group).items()}
            log.warning(
                "%s: labels of obs/%s %s, and count as different ones: %s; to make them one: %s",
                some(column.paths(new)), column.name, what, column.groups(groups), column.renamed(new),
            )  # fmt: skip


def _alike(named: Iterable[tuple[int, tuple[str, ...], str]]) -> list[tuple[str, ...]]:
    """Names of one scope that name the same thing, where there are several; each group once."""
    groups: defaultdict[tuple[int, tuple[str, ...]], list[str]] = defaultdict(list)
    for where, what, name in named:
        groups[where, what].append(name)
    return list(dict.fromkeys(tuple(names) for names in groups.values() if len(names) > 1))


def _refuse_leaks(column: _Column, twins: Sequence[Sequence[str]], place: IntArray, split_file: str) -> None:
    """Refuse twins of which one is held out in a place where another is trained on."""
    group_of = {column.code[name]: group for group in twins for name in group}
    table, train = column.table, SPLITS.index("train")
    chosen = np.isin(column.labels.codes, list(group_of)) & ~table.is_control
    n_names = len(column.labels.names)
    state = (place[chosen] * n_names + column.labels.codes[chosen]) * len(SPLITS) + table.split[chosen]
    found = [
        (each // len(SPLITS) // n_names, each // len(SPLITS) % n_names, each % len(SPLITS)) for each in np.unique(state).tolist()
    ]
    trained = {(where, code) for where, code, split in found if split == train}
    for where, code, split in found:
        held_out = column.labels.names[code]
        other = next((name for name in group_of[code] if name != held_out and (where, column.code[name]) in trained), None)
        if split != train and other is not None:
            new = column.one_name(group_of[code], held_out)
            here = "cell type" if column.labels is table.perturbation else "data set"
            raise UserError(
                f"{split_file}: {held_out!r} of obs/{column.name} is held out, but {column.counted([other])} names the same thing "
                f"and is trained on in the same {here}; make them one: {column.renamed(new)}"
                f" (where {split_file} names {some(map(repr, new))}, write {held_out!r})"
            )


def _warn_of_separator(column: _Column, separator: str | None) -> None:
    """Say so where the separator that is set joins nothing, and another one joins labels out of others."""
    names, control = column.labels.names, column.table.control
    if separator is None or any(len(parts(name, control, separator)) > 1 for name in names):
        return
    joined = {other: joined_by(names, control, other) for other in SEPARATORS if other != separator}
    likely = max(joined, key=lambda other: len(joined[other]))
    if joined[likely]:
        log.warning(
            "obs/%s: data.separator %r joins no labels, but %r joins %s; so that they count as combinations, write separator: "
            "\"%s\" below data: in the run file, or 'data.separator=\"%s\"' on the command line",
            column.name, separator, likely, some(map(repr, joined[likely])), likely, likely,
        )  # fmt: skip
