"""Which cells are in which split and in which sets."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from tests.training.data.few_cells import BY_GEM_GROUP, CONTROLS, SPLIT, opened, write
from training.cells import Condition
from training.data.split_report import LeftOut


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def in_no_set(cells):
    return {(row.cell_type, row.split): row.n_in_no_set for row in cells.report.rows}


def test_cells_alone_in_their_gem_group_are_counted_by_split_and_conditions_without_a_set_are_named():
    of_a = [("A", "P1", "g1", 8), ("A", "P1", "g2", 1), ("A", "P3", "g1", 1), ("A", "P3", "g2", 1)]
    of_b = [("B", "P1", "g1", 4), ("B", "P2", "g1", 1), ("B", "P2", "g2", 1), ("B", "P3", "g1", 1), ("B", "P3", "g2", 3)]
    write([*CONTROLS, ("A", "control", "g3", 1), *of_a, *of_b])  # controls are drawn on, in sets or not
    cells = opened(**BY_GEM_GROUP)

    assert in_no_set(cells) == {("A", "train"): 3, ("B", "train"): 0, ("B", "val"): 2, ("B", "test"): 2}
    assert cells.report.in_no_set == ("train: P3 in d.A (2 cells)", "val: P2 in d.B (2 cells)")
    assert "In no set, so neither trained nor validated on: train: P3 in d.A (2 cells), val: P2 in d.B" in cells.summary()
    assert in_no_set(opened()) == {("A", "train"): 0, ("B", "train"): 0, ("B", "val"): 0, ("B", "test"): 0}
    assert opened().report.in_no_set == ()


def test_what_one_training_epoch_leaves_over_is_in_sets_and_what_fixed_held_out_sets_leave_over_is_not():
    write([*CONTROLS, ("A", "P1", "g1", 11), ("B", "P1", "g1", 8), ("B", "P2", "g1", 11), ("B", "P3", "g1", 11)])
    cells = opened()

    assert in_no_set(cells) == {("A", "train"): 0, ("B", "train"): 0, ("B", "val"): 1, ("B", "test"): 1}  # 8 + 2 of 11
    trained = {int(cell) for i in range(90) for each in cells.plan(2).batch(i) for cell in each.cells}
    assert set(cells.cells_of(Condition("d", "A", "P1"), "train").tolist()) <= trained
    validated = {int(cell) for batch in cells.validation(2) for each in batch for cell in each.cells}
    assert len(validated) == 10


def test_the_count_is_that_of_the_sets_that_are_drawn():
    random = np.random.default_rng(1)
    labels = [(t, p, f"g{g}") for t in "AB" for p in ("control", "P1", "P2", "P3") for g in range(9)]
    write([(*label, int(random.integers(1, 4)) if label[1] != "control" else 9) for label in labels])
    cells = opened(**BY_GEM_GROUP, set_size=4)
    plan = cells.plan(4)
    seen = np.zeros(cells.table.n_cells, bool)
    for i in range(40 * plan.batches_per_epoch):
        for each in plan.batch(i):
            seen[each.cells] = True

    perturbed = cells.table.is_in("train") & ~cells.table.is_control
    counted = sum(row.n_in_no_set for row in cells.report.rows if row.split == "train")
    assert 0 < counted == (perturbed & ~seen).sum() < perturbed.sum()


def test_a_condition_without_a_set_counts_neither_as_trained_nor_as_a_leak():
    write([*CONTROLS, ("A", "P1", "g1", 8), ("A", "P3", "g1", 1), ("B", "P1", "g1", 8), ("B", "P2", "g1", 8), ("B", "P3", "g1", 8)])
    cells = opened()
    assert Condition("d", "A", "P3") in cells.conditions("train")
    assert cells.trained_on == (Condition("d", "A", "P1"), Condition("d", "B", "P1"))
    assert cells.report.unseen == ("P2", "P3")
    assert "Never trained on in any cell type: P2, P3" in cells.summary()

    write([("B", "control", "g1", 20), ("B", "P1", "g1", 8), ("B", "P3", "g1", 1)], "e.h5ad")
    two = SPLIT.replace("[training]", 'e = "e.h5ad"\n[training]\ne = "train"')
    Path("split.toml").write_text(two)
    assert opened().report.leaks == ()
    write([("B", "control", "g1", 20), ("B", "P1", "g1", 8), ("B", "P3", "g1", 2)], "e.h5ad")
    Path("split.toml").write_text(two)
    assert opened().report.leaks == ("test: P3 in d.B: trained on in data set e (2 cells)",)


def test_test_conditions_of_one_cell_are_named():
    write([*CONTROLS, ("A", "P1", "g1", 8), ("B", "P1", "g1", 8), ("B", "P2", "g1", 8), ("B", "P3", "g1", 1)])
    assert opened().report.not_judged == ("P3 in d.B",)
    assert "Cannot be judged, fewer than 2 cells: P3 in d.B" in opened().summary()
    write([*CONTROLS, ("A", "P1", "g1", 8), ("B", "P1", "g1", 8), ("B", "P2", "g1", 8), ("B", "P3", "g1", 1), ("B", "P3", "g2", 1)])
    assert opened(**BY_GEM_GROUP).report.not_judged == ()  # judged without sets


def test_cells_that_no_split_has_are_counted():
    write([*CONTROLS, ("A", "P1", "g1", 8), ("B", "P1", "g1", 8), ("B", "P2", "g1", 8), ("B", "P3", "g1", 5)])
    Path("split.toml").write_text(SPLIT.replace('[training]\nd = "train"\n', ""))
    np.savez("features.npz", P1=np.ones(3), P2=np.ones(3), control=np.zeros(3))
    cells = opened(perturbation_features_file="features.npz", missing_features="drop")

    assert cells.report.left_out == (
        LeftOut("no table of the split file names them", "d.A", 48),
        LeftOut("perturbation without features", "P3", 5),
    )
    assert "In no split: 48 cells, no table of the split file names them: d.A (48)" in cells.summary()
    assert "In no split: 5 cells, perturbation without features: P3 (5)" in cells.summary()
    assert asdict(cells.report)["left_out"][1]["n_cells"] == 5
    assert sum(each.n_cells for each in cells.report.left_out) + cells.table.n_cells == 109


def test_controls_that_are_set_aside_are_no_lost_cells():
    write([*CONTROLS, ("A", "P1", "g1", 8), ("B", "P1", "g1", 8), ("B", "P2", "g1", 8), ("B", "P3", "g1", 8)])
    cells = opened()
    assert [row.n_set_aside for row in cells.report.rows] == [12, 12, 12, 12]
    assert set(in_no_set(cells).values()) == {0}
    assert cells.report.left_out == ()
