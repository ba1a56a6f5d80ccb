from collections import Counter

import numpy as np
import pytest

from training.data.h5ad import Labels
from training.data.sets import SetPlan, cut, group_cells, set_lengths, validation_batches
from training.data.table import CellTable

SEED = 3
SIZES = {"control": 150, "P1": 100, "P2": 37, "P3": 9, "P4": 3, "P5": 2}


def labels(words):
    names, codes = np.unique(np.array(words), return_inverse=True)
    return Labels(codes.astype(np.int32), tuple(map(str, names)))


def make_table(sizes=SIZES, cell_types=("A", "B"), datasets=("d",), gem_group=None, file=None):
    """All combinations, in an order of cells that tells nothing."""
    cells = [(d, t, p) for d in datasets for t in cell_types for p, n in sizes.items() for _ in range(n)]
    cells = [cells[i] for i in np.random.default_rng(0).permutation(len(cells))]
    n = len(cells)
    return CellTable(
        dataset=labels([d for d, _, _ in cells]),
        cell_type=labels([t for _, t, _ in cells]),
        perturbation=labels([p for _, _, p in cells]),
        gem_group=None if gem_group is None else labels([gem_group(i, *cells[i]) for i in range(n)]),
        file=labels(["f"] * n if file is None else [file(i, *cells[i]) for i in range(n)]),
        row=np.arange(n),
        split=np.zeros(n, np.int8),
        control="control",
    )


def make_plan(table, set_size=16, batch_size=4, seed=SEED, matching="cell_type"):
    return SetPlan(group_cells(table, np.ones(table.n_cells, bool), matching), set_size, batch_size, seed)


def epoch_of(plan, epoch):
    return [plan.batch(epoch * plan.batches_per_epoch + i) for i in range(plan.batches_per_epoch)]


def sets_of(plan, epoch):
    return [each for batch in epoch_of(plan, epoch) for each in batch]


def as_lists(batches):
    return [[(each.cells.tolist(), each.controls.tolist()) for each in batch] for batch in batches]


@pytest.mark.parametrize(
    ("n_cells", "set_size", "lengths"),
    [
        (1024, 512, [512, 512]),
        (1000, 512, [512, 256, 128]),  # 104 cells sit out
        (140, 512, [128]),
        (127, 512, [64]),  # too small for the shortest length of the others: one set
        (3, 512, [2]),
        (1, 512, []),
        (99, 100, [50, 25]),
        (7, 8, [4, 2]),
        (5, 2, [2, 2]),
    ],
)
def test_a_group_is_cut_into_full_sets_and_then_shorter_ones(n_cells, set_size, lengths):
    assert cut(n_cells, set_size) == lengths


@pytest.mark.parametrize("set_size", [2, 3, 16, 100, 512])
def test_a_cut_leaves_out_little_and_never_a_whole_group(set_size):
    smallest = max(2, set_size // 4)
    for n_cells in range(2, 3 * set_size):
        lengths = cut(n_cells, set_size)
        assert set(lengths) <= set(set_lengths(set_size))
        assert lengths == sorted(lengths, reverse=True)
        left_out = n_cells - sum(lengths)
        assert 0 <= left_out <= (2 * smallest - 1 if n_cells >= smallest else n_cells // 2)


def test_sets_are_of_one_condition_with_controls_of_its_cell_type_and_data_set():
    table = make_table(datasets=("d", "e"))
    for each in sets_of(make_plan(table), 0):
        assert len(each.cells) == len(each.controls)
        assert len({table.condition(cell) for cell in each.cells}) == 1
        assert table.is_control[each.controls].all()
        assert {(c.dataset, c.cell_type) for c in map(table.condition, (*each.controls, *each.cells))} == {
            (table.condition(each.cells[0]).dataset, table.condition(each.cells[0]).cell_type)
        }


def test_no_cell_comes_twice_in_an_epoch():
    plan = make_plan(make_table())
    cells = np.concatenate([each.cells for each in sets_of(plan, 0)])
    assert len(np.unique(cells)) == len(cells) == plan.cells_per_epoch


def test_every_cell_of_a_group_of_two_or_more_has_its_turn():
    table = make_table()
    plan = make_plan(table)
    seen = {int(cell) for epoch in range(40) for each in sets_of(plan, epoch) for cell in each.cells}
    assert seen == set(range(table.n_cells))


def test_a_group_of_one_cell_is_left_out():
    table = make_table({"control": 20, "P1": 20, "LONELY": 1})
    seen = {
        table.condition(cell).perturbation for epoch in range(3) for each in sets_of(make_plan(table), epoch) for cell in each.cells
    }
    assert seen == {"control", "P1"}


def test_batches_hold_sets_of_one_length_and_as_many_cells_as_the_others():
    plan = make_plan(make_table(), set_size=16, batch_size=4)
    cells_in: dict[int, list[int]] = {}
    for batch in epoch_of(plan, 0):
        lengths = {len(each.cells) for each in batch}
        assert len(lengths) == 1
        cells_in.setdefault(lengths.pop(), []).append(sum(len(each.cells) for each in batch))
    assert set(cells_in) == {16, 8, 4, 2}
    for of_length in cells_in.values():
        assert sum(n != 64 for n in of_length) <= 1
        assert max(of_length) <= 64


def test_an_epoch_is_a_new_draw_of_the_same_size():
    plan = make_plan(make_table())
    first, second = epoch_of(plan, 0), epoch_of(plan, 1)
    assert Counter(len(b[0].cells) for b in first) == Counter(len(b[0].cells) for b in second)
    assert [len(b[0].cells) for b in first] != [len(b[0].cells) for b in second]
    members = [
        {frozenset(each.cells.tolist()) for batch in epoch for each in batch if len(each.cells) > 4} for epoch in (first, second)
    ]
    assert not members[0] & members[1]


def test_a_batch_is_a_function_of_seed_and_place_alone():
    table = make_table()
    plan = make_plan(table)
    n = plan.batches_per_epoch
    in_order = [plan.batch(g) for g in range(3 * n)]
    other = make_plan(table)
    for g in np.random.default_rng(1).permutation(3 * n):
        assert as_lists([other.batch(int(g))]) == as_lists([in_order[g]])
    assert as_lists([make_plan(table, seed=SEED + 1).batch(0)]) != as_lists([in_order[0]])


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_stream_without_overlap(world_size):
    plan = make_plan(make_table())
    n = plan.batches_per_epoch
    places = [m * world_size + rank for rank in range(world_size) for m in range(-(-n // world_size))]
    taken = [plan.batch(g) for g in places if g < n]
    assert sorted(as_lists(taken)) == sorted(as_lists(epoch_of(plan, 0)))


def test_controls_are_drawn_without_replacement_where_there_are_enough_and_afresh_each_time():
    table = make_table({"control": 40, "P1": 64})
    plan = make_plan(table)
    draws = [each.controls for epoch in range(30) for each in sets_of(plan, epoch) if not table.is_control[each.cells[0]]]
    assert all(len(set(draw)) == 16 for draw in draws)
    assert len({tuple(draw) for draw in draws}) == len(draws)
    counts = np.bincount(np.concatenate(draws), minlength=table.n_cells)[table.is_control]
    assert counts.min() > 0.6 * counts.mean()  # 80 cells, about 48 draws each: 3 standard deviations are 0.4
    assert counts.max() < 1.4 * counts.mean() + 5


def test_few_controls_are_drawn_with_replacement():
    table = make_table({"control": 5, "P1": 64})
    for each in sets_of(make_plan(table), 0):
        assert table.is_control[each.controls].all()
        assert len(each.controls) == len(each.cells)


def test_a_set_of_controls_starts_from_other_controls():
    table = make_table({"control": 64, "P1": 64})
    of_controls = [each for each in sets_of(make_plan(table), 0) if table.is_control[each.cells[0]]]
    assert of_controls
    assert not any(set(each.cells) & set(each.controls) for each in of_controls)


def test_matching_by_gem_group_keeps_sets_and_controls_in_one_gem_group_of_one_file():
    table = make_table(gem_group=lambda i, *_: f"g{i % 3}", file=lambda i, *_: f"f{i % 2}")
    assert table.gem_group is not None
    groups = group_cells(table, np.ones(table.n_cells, bool), "gem_group")
    assert groups.n_unmatched == 0
    for each in sets_of(SetPlan(groups, 16, 4, SEED), 0):
        both = np.concatenate([each.cells, each.controls])
        assert len({(table.gem_group.codes[cell], table.file.codes[cell], table.cell_type.codes[cell]) for cell in both}) == 1
        assert len({table.condition(cell) for cell in each.cells}) == 1


def test_a_gem_group_without_controls_takes_those_of_the_cell_type():
    table = make_table({"control": 40, "P1": 40}, gem_group=lambda i, d, t, p: "bare" if p == "P1" and t == "A" else "full")
    groups = group_cells(table, np.ones(table.n_cells, bool), "gem_group")
    assert groups.n_unmatched == 1
    bare = [each for each in sets_of(SetPlan(groups, 16, 4, SEED), 0) if table.condition(each.cells[0]).perturbation == "P1"]
    assert {
        table.condition(c).cell_type for each in bare if table.condition(each.cells[0]).cell_type == "A" for c in each.controls
    } == {"A"}


def validate(table, max_sets=None, seed=SEED):
    groups = group_cells(table, ~table.is_control, "cell_type")
    return validation_batches(groups, 16, 4, seed, max_sets)


def test_validation_is_fixed_and_cut_like_training():
    table = make_table()
    batches = validate(table)
    assert as_lists(batches) == as_lists(validate(table))
    assert as_lists(batches) != as_lists(validate(table, seed=SEED + 1))
    lengths = Counter(len(each.cells) for batch in batches for each in batch)
    assert lengths == Counter(2 * [length for p, n in SIZES.items() if p != "control" for length in cut(n, 16)])
    for batch in batches:
        assert len({len(each.cells) for each in batch}) == 1
        assert sum(len(each.cells) for each in batch) <= 64
        for each in batch:
            assert len({table.condition(cell) for cell in each.cells}) == 1
            assert table.is_control[each.controls].all()


@pytest.mark.parametrize("max_sets", [1, 3, 7, 10, 13])
def test_a_limit_of_validation_sets_is_spread_over_cell_types_and_perturbations(max_sets):
    table = make_table()
    kept = [each for batch in validate(table, max_sets) for each in batch]
    assert len(kept) == max_sets
    per_type = Counter(table.condition(each.cells[0]).cell_type for each in kept)
    per_condition = Counter(table.condition(each.cells[0]) for each in kept)
    assert max(per_type["A"], per_type["B"]) - min(per_type["A"], per_type["B"]) <= 1
    if max_sets <= 10:  # conditions
        assert set(per_condition.values()) == {1}
        assert all(len(each.cells) == cut(SIZES[table.condition(each.cells[0]).perturbation], 16)[0] for each in kept)
    else:
        assert len(per_condition) == 10


def test_a_limit_takes_cell_types_by_turns_however_many_perturbations_they_have():
    table = make_table()
    one_of_b = np.equal(table.cell_type.codes, 0) | np.equal(table.perturbation.codes, table.perturbation.names.index("P1"))
    groups = group_cells(table, one_of_b & ~table.is_control, "cell_type")
    kept = [each for batch in validation_batches(groups, 16, 4, SEED, 3) for each in batch]
    assert Counter(table.condition(each.cells[0]).cell_type for each in kept) == {"A": 2, "B": 1}
