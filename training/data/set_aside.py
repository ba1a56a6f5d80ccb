"""Control cells that are set aside to measure with: no model is trained on them, and no baseline is fitted on them.

A predicted and a real shift are both differences from control cells. Where the model has trained on the controls that measure,
their sampling noise is in both shifts and passes for agreement. So a share of the controls of every cell type is set aside when
the split is made, before anything is trained. Which ones is a function of (seed, data set, GEM group, name of the cell): the order
of rows and files does not count, nor does what else is in the files.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from training.cells import CellReader, Condition
from training.config import EvaluationConfig
from training.data.table import SET_ASIDE, CellTable, key
from training.text import some

LEAST_CELLS = 8
"""A cell type that cannot give so many sets none aside and is not judged; each draw of an evaluation halves them."""

SAMPLED_CELLS = 32
MAX_NAMESAKES = 0.1
"""Share of cells of other files that may have the name of one that was trained on: barcodes of two files meet by chance."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SetAside:
    """What a model keeps of the controls that were set aside from its training, and of the others: hashes of their names."""

    seed: int
    control_fraction: float
    measuring: dict[str, tuple[int, ...]]
    """`dataset.cell_type` -> the cells that were set aside, sorted; of every cell type that was trained on."""
    trained: tuple[int, ...]
    """The controls of all cell types that were trained on, sorted."""
    content: dict[str, str] = field(default_factory=dict)
    """`dataset.cell_type` -> hash of the values of some of the cells that were set aside: names can be given anew."""
    files: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """`dataset.cell_type` -> fingerprints of the files that hold its controls."""


def set_controls_aside(table: CellTable, names: Sequence[str], config: EvaluationConfig) -> tuple[CellTable, SetAside | None]:
    """The table with a share of the training controls of each cell type moved to `SET_ASIDE`, and what a model keeps of it.

    Each GEM group gives its share, and keeps one control at least; a cell type that would give fewer than `LEAST_CELLS` gives none.

    Args:
        table: Cells of the three splits.
        names: Names of the controls among them, in the order of the table.
        config: The share and the seed.
    """
    if config.control_fraction is None:
        return table, None
    split, measuring = table.split.copy(), {}
    controls = np.flatnonzero(table.is_control)
    name_of = dict(zip(controls.tolist(), names, strict=True))
    by_type = key(table.dataset, table.cell_type)[controls]
    for code in np.unique(by_type):
        own = controls[by_type == code]
        chosen = _chosen(table, own.tolist(), name_of, config)
        if len(chosen) < LEAST_CELLS:
            chosen = []
        split[chosen] = SET_ASIDE
        condition = table.condition(own[0])
        measuring[context_of(condition)] = _hashes(name_of[cell] for cell in chosen)
    trained = _hashes(name for cell, name in name_of.items() if split[cell] != SET_ASIDE)
    if none := [name for name, cells in measuring.items() if not cells]:
        log.warning(
            "too few controls to set %d aside (evaluation.control_fraction %g): training evaluate will not judge %s",
            LEAST_CELLS, config.control_fraction, some(none),
        )  # fmt: skip
    return replace(table, split=split), SetAside(config.seed, config.control_fraction, measuring, trained)


def with_content(
    aside: SetAside, table: CellTable, names: Sequence[str], reader: CellReader, fingerprints: Sequence[str]
) -> SetAside:
    """The record with the values of up to `SAMPLED_CELLS` measuring cells of each cell type, and its files, by their fingerprints.

    Args:
        aside: The record.
        table: With controls set aside.
        names: Names of the controls, in the order of the table.
        reader: Of the values.
        fingerprints: Of the files of the table.
    """
    content, files = {}, {}
    controls = np.flatnonzero(table.is_control)
    by_type = key(table.dataset, table.cell_type)[controls]
    for code in np.unique(by_type):
        own = np.flatnonzero(by_type == code)
        context = context_of(table.condition(controls[own[0]]))
        files[context] = tuple(sorted({fingerprints[i] for i in np.unique(table.file.codes[controls[own]])}))
        measuring = [i for i in own if table.split[controls[i]] == SET_ASIDE]
        chosen = sorted(measuring, key=lambda i: _hashes([names[int(i)]]))[:SAMPLED_CELLS]
        digest = hashlib.sha256()
        for i in chosen:
            digest.update(reader.read("input", controls[[i]]).tobytes())
        content[context] = digest.hexdigest()[:16]
    return replace(aside, content=content, files=files)


def context_of(condition: Condition) -> str:
    """`dataset.cell_type`: what shares controls."""
    return f"{condition.dataset}.{condition.cell_type}"


def trained_on_measuring(model: SetAside | None, now: SetAside | None, contexts: Iterable[str]) -> frozenset[str]:
    """Those of `contexts` (`dataset.cell_type`) whose measuring controls the model may have trained on.

    In a cell type that the model knows, others than those that were set aside then may have been, by name or by their values. One
    that it does not know may be a known one under another name: it counts where it lies in a file that was trained on, or where
    more than `MAX_NAMESAKES` of its measuring controls are called like controls that were trained on.

    Args:
        model: What the model was trained without; None if it was trained with all controls.
        now: What measures; None if all controls do.
        contexts: The cell types in question.
    """
    if model is None or now is None:
        return frozenset(contexts)
    trained, files = frozenset(model.trained), {file for own in model.files.values() for file in own}
    found = set()
    for name in contexts:
        own = now.measuring[name]
        if name in model.measuring:
            is_seen = (model.measuring[name], model.content.get(name)) != (own, now.content.get(name))
        else:
            is_seen = len(trained.intersection(own)) > MAX_NAMESAKES * len(own) or not files.isdisjoint(now.files.get(name, ()))
        found.update([name] if is_seen else [])
    return frozenset(found)


def _chosen(table: CellTable, controls: Sequence[int], name_of: Mapping[int, str], config: EvaluationConfig) -> list[int]:
    """The cells that the controls of one cell type give: GEM group after GEM group, rounding carried on to the next."""
    assert config.control_fraction is not None
    labels = table.gem_group
    gem_group_of = ["" if labels is None else labels.names[labels.codes[cell]] for cell in controls]
    groups: dict[str, list[tuple[bytes, int]]] = {}
    for cell, gem_group in zip(controls, gem_group_of, strict=True):
        words = (str(config.seed), table.dataset.names[table.dataset.codes[cell]], gem_group, name_of[cell])
        rank = hashlib.blake2b("\0".join(words).encode(), digest_size=16).digest()
        groups.setdefault(gem_group, []).append((rank, cell))
    chosen: list[int] = []
    owed = 0.0
    for _, members in sorted(groups.items()):
        owed += config.control_fraction * len(members)
        n = max(0, min(round(owed), len(members) - 1))
        owed -= n
        chosen += [cell for _, cell in sorted(members)[:n]]
    return chosen


def _hashes(names: Iterable[str]) -> tuple[int, ...]:
    """A number of 48 bits for each name, sorted."""
    return tuple(sorted(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest()) for name in names))
