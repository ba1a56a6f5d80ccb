"""Which cells make a set, and which sets make a batch. Integers only: no files, no values, no torch.

A group holds the cells that may share a set: those of one (data set, cell type, perturbation), and where controls are matched by
GEM group also of one (file, GEM group), since the labels of GEM groups start anew in each file. In every epoch a group's cells are
permuted and cut:

1. into sets of `set_size`, as many as it fills;
2. the rest into one set of `set_size / 2` and one of `set_size / 4`, where it fills them (never below 2);
3. a group too small for the shortest of these gives one set, of the largest of `set_size / 8`, `/ 16`, ... that it fills;
4. what is left sits this epoch out: the next permutation gives each cell its turn.

A group of one cell gives no set, any other one or more: a cell that is alone of its condition (in its GEM group, where controls are
matched by it) is never trained on. `split_report.py` counts such cells, `set_checks.py` refuses a run that has nearly no others.

No cell comes twice in an epoch, none is masked. A batch holds sets of one length, and as many more as they are shorter, so that the
cells in a batch stay the same; the last batch of each length may be smaller. How many sets and batches there are follows from the
sizes of the groups, so every epoch has the same number.

Everything drawn is a function of (seed, purpose, epoch, batch), never of what was drawn before.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from training.cells import CellSet, IntArray
from training.data.table import BoolArray, CellTable, key

SHORTEST_SHARE = 4
"""The rest of a group gives no set shorter than `set_size` / this. Short sets make noisy steps: the biased energy distance of two
samples of S cells is about (mean distance) / S whatever the model does."""

# Purposes of random numbers. Always four words after one another, since SeedSequence pads shorter ones with zeros.
SETS, CONTROLS, VALIDATION_SETS, VALIDATION_CONTROLS = range(4)


@dataclass(frozen=True)
class Groups:
    """Cells that may share a set, and the controls that go with them.

    Shape: cells (N,), starts (groups + 1,), condition, cell_type and pool_of (groups,).
    """

    cells: IntArray
    """Group after group; group g is `cells[starts[g]:starts[g + 1]]`."""
    starts: IntArray
    condition: IntArray
    """Number of the group's (data set, cell type, perturbation)."""
    cell_type: IntArray
    """Number of the group's (data set, cell type)."""
    pools: tuple[IntArray, ...]
    """Control cells that are drawn from."""
    pool_of: IntArray
    """Place in `pools` of a group's controls."""
    n_unmatched: int
    """Groups whose GEM group has no control, so that they draw on those of their cell type."""

    @property
    def sizes(self) -> IntArray:
        """Cells in each group."""
        return np.diff(self.starts)

    @property
    def first(self) -> IntArray:
        """A cell of each group. Shape: (groups,)."""
        return self.cells[self.starts[:-1]]

    @property
    def gives_sets(self) -> BoolArray:
        """Whether a group gives a set in every epoch: it does unless it is a single cell. Shape: (groups,)."""
        return self.sizes > 1


def group_cells(table: CellTable, chosen: BoolArray, matching: Literal["cell_type", "gem_group"]) -> Groups:
    """The chosen cells by group; a group whose GEM group has no control takes those of its cell type.

    Every cell type has controls (`assemble.py` refuses the others); those that are set aside to measure with are in no pool.
    """
    by_type = key(table.dataset, table.cell_type)
    condition = key(table.dataset, table.cell_type, table.perturbation)
    fine, group = by_type, condition
    if matching == "gem_group":
        assert table.gem_group is not None
        fine = key(table.dataset, table.cell_type, table.file, table.gem_group)
        group = key(table.dataset, table.cell_type, table.perturbation, table.file, table.gem_group)
    index = np.flatnonzero(chosen)
    cells = index[np.argsort(group[index], kind="stable")]
    starts = np.append(np.flatnonzero(np.diff(group[cells], prepend=-1)), len(cells))
    first = cells[starts[:-1]]
    pools, pool_of, n_unmatched = _pools(np.flatnonzero(table.is_control & ~table.is_set_aside), fine, by_type, first)
    return Groups(cells, starts, condition[first], by_type[first], pools, pool_of, n_unmatched)


def set_lengths(set_size: int) -> list[int]:
    """`set_size` and its halves, down to 2."""
    lengths = [set_size]
    while lengths[-1] > 2:
        lengths.append(max(2, lengths[-1] // 2))
    return lengths


def cut(n_cells: int, set_size: int) -> list[int]:
    """Lengths of the sets that a group gives in an epoch, the longest first."""
    smallest = max(2, set_size // SHORTEST_SHARE)
    sets: list[int] = []
    for length in set_lengths(set_size):
        if sets and length < smallest:
            break
        sets += [length] * (n_cells // length)
        n_cells %= length
    return sets


class SetPlan:
    """An endless stream of training batches: a position in it is all that a place in the data is.

    Place g is batch g mod `batches_per_epoch` of epoch g // `batches_per_epoch`; rank r of W takes place m W + r at micro-step m.

    Args:
        groups: The cells that are trained on.
        set_size: Cells in a full set.
        batch_size: Full sets in a batch.
        seed: Of everything drawn.
    """

    def __init__(self, groups: Groups, set_size: int, batch_size: int, seed: int) -> None:
        self._groups, self._set_size, self._batch_size, self._seed = groups, set_size, batch_size, seed
        self._sets = _cut_all(groups, set_size)
        self._labels = np.repeat(np.arange(len(groups.sizes)), groups.sizes)
        self._epoch: tuple[int, IntArray, list[IntArray]] | None = None
        n_sets = [int((self._sets.length == length).sum()) for length in set_lengths(set_size)]
        per_batch = [_sets_per_batch(length, set_size, batch_size) for length in set_lengths(set_size)]
        self.batches_per_epoch = sum(-(-n // per) for n, per in zip(n_sets, per_batch, strict=True))
        """Batches in an epoch, the same in every epoch."""
        self.cells_per_epoch = int(self._sets.length.sum())
        """Cells that take part in an epoch; the others have their turn in the next ones."""

    def batch(self, global_index: int) -> list[CellSet]:
        """Sets of one length, as place `global_index` of the stream has them."""
        epoch, i = divmod(global_index, self.batches_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, *self._plan(epoch))
        _, order, batches = self._epoch
        rng = _rng(self._seed, CONTROLS, epoch, i)
        return [_draw(rng, self._groups, self._sets, order, each) for each in batches[i]]

    def _plan(self, epoch: int) -> tuple[IntArray, list[IntArray]]:
        """Cells of an epoch in their order, and the sets of each batch. 0.2 s at 1M cells in 2,000 groups; kept for the epoch."""
        rng = _rng(self._seed, SETS, epoch, 0)
        order = _shuffle_within(rng, self._groups, self._labels)
        batches: list[IntArray] = []
        for length in set_lengths(self._set_size):
            of_length = rng.permutation(np.flatnonzero(self._sets.length == length))
            batches += _in_batches(of_length, _sets_per_batch(length, self._set_size, self._batch_size))
        return order, [batches[i] for i in rng.permutation(len(batches))]


def validation_batches(groups: Groups, set_size: int, batch_size: int, seed: int, max_sets: int | None) -> list[list[CellSet]]:
    """Sets and controls that are the same at every validation of every run with this seed, in batches of one length.

    Where there are more than `max_sets`, every condition keeps its largest sets first, and cell types take turns.
    """
    order = _shuffle_within(_rng(seed, VALIDATION_SETS, 0, 0), groups, np.repeat(np.arange(len(groups.sizes)), groups.sizes))
    sets = _cut_all(groups, set_size)
    kept = np.sort(_spread(_rng(seed, VALIDATION_SETS, 1, 0), groups, sets)[:max_sets])
    batches: list[list[CellSet]] = []
    for length in set_lengths(set_size):
        for batch in _in_batches(kept[sets.length[kept] == length], _sets_per_batch(length, set_size, batch_size)):
            rng = _rng(seed, VALIDATION_CONTROLS, 0, len(batches))
            batches.append([_draw(rng, groups, sets, order, each) for each in batch])
    return batches


@dataclass(frozen=True)
class _Sets:
    """Every set of an epoch as a window on the permuted cells. Shape: (sets,)."""

    group: IntArray
    start: IntArray
    length: IntArray


def _rng(seed: int, purpose: int, epoch: int, batch: int) -> np.random.Generator:
    return np.random.default_rng([seed, purpose, epoch, batch])


def _pools(controls: IntArray, fine: IntArray, by_type: IntArray, first: IntArray) -> tuple[tuple[IntArray, ...], IntArray, int]:
    """Controls by the finer key, behind them those by cell type; the pool of each of `first`; how many take theirs by cell type."""
    pools: list[IntArray] = []
    place: list[dict[int, int]] = []
    for of_cell in (fine, by_type):
        ordered = controls[np.argsort(of_cell[controls], kind="stable")]
        keys, starts = np.unique(of_cell[ordered], return_index=True)
        place.append({int(k): len(pools) + i for i, k in enumerate(keys)})
        pools += np.split(ordered, starts[1:])
    pool_of = [place[0].get(int(fine[cell]), place[1][int(by_type[cell])]) for cell in first]
    return tuple(pools), np.array(pool_of, np.int64), sum(int(fine[cell]) not in place[0] for cell in first)


def _cut_all(groups: Groups, set_size: int) -> _Sets:
    cuts = {int(size): np.array(cut(int(size), set_size), np.int64) for size in np.unique(groups.sizes)}
    lengths = [cuts[int(size)] for size in groups.sizes]
    starts = [start + np.cumsum(each) - each for start, each in zip(groups.starts, lengths, strict=False)]
    group = np.repeat(np.arange(len(lengths)), [len(each) for each in lengths])
    return _Sets(group, np.concatenate(starts), np.concatenate(lengths))


def _sets_per_batch(length: int, set_size: int, batch_size: int) -> int:
    return batch_size * (set_size // length)


def _shuffle_within(rng: np.random.Generator, groups: Groups, labels: IntArray) -> IntArray:
    """The groups' cells, each group in an order of its own: one permutation of all, put back into groups."""
    mixed = rng.permutation(len(labels))
    return groups.cells[mixed[np.argsort(labels[mixed], kind="stable")]]


def _in_batches(sets: IntArray, per_batch: int) -> list[IntArray]:
    return [sets[i : i + per_batch] for i in range(0, len(sets), per_batch)]


def _draw(rng: np.random.Generator, groups: Groups, sets: _Sets, order: IntArray, chosen: int) -> CellSet:
    """One set with its controls, drawn without replacement where there are enough."""
    start, length = sets.start[chosen], sets.length[chosen]
    cells = order[start : start + length]
    pool = groups.pools[groups.pool_of[sets.group[chosen]]]
    # A set of controls lies in its own pool (which is sorted). It starts from other controls where there are enough of them.
    place = np.searchsorted(pool, cells[0])
    if place < len(pool) and pool[place] == cells[0] and len(pool) >= 2 * length:
        pool = np.setdiff1d(pool, cells, assume_unique=True)
    return CellSet(cells, rng.choice(pool, size=length, replace=len(pool) < length))


def _spread(rng: np.random.Generator, groups: Groups, sets: _Sets) -> IntArray:
    """Sets in the order in which a limit keeps them: first sets of all conditions before second ones, cell types by turns."""
    condition, cell_type = groups.condition[sets.group], groups.cell_type[sets.group]
    nth_set = _count_within(condition, np.lexsort((-sets.length, condition)))
    conditions, of_set = np.unique(condition, return_inverse=True)
    type_of_condition = np.zeros(len(conditions), np.int64)
    type_of_condition[of_set] = cell_type
    mixed = rng.permutation(len(conditions))
    turn = _count_within(type_of_condition, mixed[np.argsort(type_of_condition[mixed], kind="stable")])
    return np.lexsort((cell_type, turn[of_set], nth_set))


def _count_within(label: IntArray, order: IntArray) -> IntArray:
    """How many entries with the same label come before an entry in `order`, which is sorted by label."""
    ordered = label[order]
    runs = np.flatnonzero(np.diff(ordered, prepend=-1))
    before = np.arange(len(ordered)) - np.repeat(runs, np.diff(np.append(runs, len(ordered))))
    counts = np.empty(len(label), np.int64)
    counts[order] = before
    return counts
