"""Labels that are no labels, and labels that name one thing twice: refused or named before anything is trained.

Works on the distinct labels, not on cells. Labels are compared by what they name (`identity`): the parts of a combination whatever
their order, without the control, blanks at the ends, doubled blanks, and letters of other alphabets that look like Latin ones.
"""

import logging
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np

from training.config import CellSetsConfig
from training.data.combinations import parts
from training.data.h5ad import Labels
from training.data.table import SPLITS, CellTable
from training.refusal import Refused, some

log = logging.getLogger(__name__)

PLACEHOLDERS = frozenset(("", "nan", "none", "<na>", "na", "n/a", "null", "*", "unassigned"))
"""What programs write for a missing label, whatever its case."""
LOOK_ALIKES = str.maketrans("АВЕКМНОРСТУХаеорсухІіЈјѕΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABEKMHOPCTYXaeopcyxIiJjsABEZHIKMNOPTYXo")  # noqa: RUF001
"""Cyrillic and Greek letters that look like Latin ones."""


def identity(label: str, config: CellSetsConfig) -> tuple[str, ...]:
    """What a perturbation's label names; equal for `A+B`, `B+A` and `B +A`, and empty for the control."""
    separator = config.separator
    return tuple(sorted({spelt(part) for part in parts(spelt(label), spelt(config.control), separator)}))


def spelt(label: str) -> str:
    """A label as it looks: one blank between words, none at the ends, Latin letters for those that look like them."""
    return " ".join(unicodedata.normalize("NFKC", label).translate(LOOK_ALIKES).split())


def check_labels(table: CellTable, config: CellSetsConfig) -> None:
    """Refuse or name labels of the cells of the three splits that cannot be meant.

    Raises: Refused for a placeholder, for a second spelling of the control, and for a perturbation that is held out under one name
        and trained on under another in the same cell type.
    """
    _refuse_placeholders(table, table.perturbation, config.perturbation_column, config)
    _refuse_placeholders(table, table.cell_type, config.cell_type_column, config)
    names = table.perturbation.names
    for name in names:
        if name != config.control and not identity(name, config):
            raise Refused(
                f"{_file(table)}: obs/{config.perturbation_column} {name!r} ({_count(table.perturbation, name)} cells) names "
                f"the control {config.control!r} in another way; {_rename(config.perturbation_column, name, config.control)}"
            )
    twins = _alike(names, {name: identity(name, config) for name in names})
    for group in twins:
        _refuse_leak(table, group, config)
        log.warning("%s", _named(table, table.perturbation, config.perturbation_column, group))
    folded = {name: tuple(part.casefold() for part in identity(name, config)) for name in names}
    for group in _alike(names, folded):
        if group not in twins:
            log.warning("%s", _named(table, table.perturbation, config.perturbation_column, group))
    types = table.cell_type.names
    for group in _alike(types, {name: spelt(name).casefold() for name in types}):
        log.warning("%s", _named(table, table.cell_type, config.cell_type_column, group))


def _refuse_placeholders(table: CellTable, labels: Labels, column: str, config: CellSetsConfig) -> None:
    found = [name for name in labels.names if name.strip().casefold() in PLACEHOLDERS and name != config.control]
    if found:
        counts = some([f"{name!r} in {_count(labels, name)} cells" for name in found])
        raise Refused(
            f"{_file(table)}: obs/{column} has labels that stand for a missing one: {counts}; leave these cells out: "
            f"adata = adata[~adata.obs[{column!r}].isin({found})].copy(), then adata.write_h5ad(...), or give them another label"
        )


def _refuse_leak(table: CellTable, group: Sequence[str], config: CellSetsConfig) -> None:
    """Refuse twins of which one is trained on and another held out in the same cell type."""
    own = np.isin(table.perturbation.codes, [table.perturbation.names.index(name) for name in group])
    for cell_type in np.unique(table.cell_type.codes[own]):
        here = own & (table.cell_type.codes == cell_type)
        splits = {
            table.perturbation.names[code]: {SPLITS[s] for s in np.unique(table.split[here & (table.perturbation.codes == code)])}
            for code in np.unique(table.perturbation.codes[here])
        }
        trained = [name for name, found in splits.items() if "train" in found]
        held_out = [name for name, found in splits.items() if found - {"train"} and name not in trained]
        if trained and held_out:
            raise Refused(
                f"{_file(table)}: {trained[0]!r} is trained on and {held_out[0]!r} held out in cell type "
                f"{table.cell_type.names[cell_type]!r}, but they name the same perturbation; "
                f"{_rename(config.perturbation_column, held_out[0], trained[0])} and name {trained[0]!r} in {config.split}"
            )


def _named(table: CellTable, labels: Labels, column: str, group: Sequence[str]) -> str:
    counted = " and ".join(f"{name!r} ({_count(labels, name)} cells)" for name in group)
    return (
        f"{_file(table)}: obs/{column} has {counted}, which are told apart; if they are one, {_rename(column, group[1], group[0])}"
    )


def _rename(column: str, old: str, new: str) -> str:
    return f"adata.obs[{column!r}] = adata.obs[{column!r}].astype(str).replace({{{old!r}: {new!r}}}) makes them one"


def _alike(names: Iterable[str], key: Mapping[str, Hashable]) -> list[list[str]]:
    """Names with the same key, where there are several."""
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for name in names:
        groups[key[name]].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _count(labels: Labels, name: str) -> int:
    return int(np.equal(labels.codes, labels.names.index(name)).sum())


def _file(table: CellTable) -> str:
    return some(table.file.names, 1)
