"""What is refused and warned of before sets are drawn; each remedy is followed to the letter."""

from pathlib import Path

import pytest

from tests.training.data.few_cells import BY_GEM_GROUP, CONTROLS, SPLIT, opened, write
from training.errors import UserError

B_HELD_OUT = [("B", "P1", "g1", 8), ("B", "P2", "g1", 8), ("B", "P3", "g1", 8)]
EIGHT_LANES = [("A", "control", f"g{i}", 9) for i in range(8)] + [("B", "control", f"g{i}", 9) for i in range(8)]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def alone(cell_type, perturbation, n=8):
    """Cells that are each the only one of their condition in their GEM group."""
    return [(cell_type, perturbation, f"g{i}", 1) for i in range(n)]


def test_perturbed_training_cells_that_are_all_alone_are_refused_with_a_remedy_that_helps():
    write([*EIGHT_LANES, *alone("A", "P1"), *alone("A", "P2"), *alone("B", "P1"), *B_HELD_OUT[1:]])
    with pytest.raises(
        UserError,
        match=r"split\.toml: 0 of 24 perturbed training cells are in a set; each of the others is the only cell of its "
        r"perturbation in its GEM group \(data\.control_matching: gem_group\); data\.control_matching: cell_type puts 24 in sets "
        r"\(accepted: 10% or more\)",
    ):
        opened(set_size=4, **BY_GEM_GROUP).check_trainable()
    mended = opened(set_size=4, **BY_GEM_GROUP | {"control_matching": "cell_type"})
    mended.check_trainable()
    assert sum(row.n_in_no_set for row in mended.report.rows if row.split == "train") == 0


@pytest.mark.parametrize(("together", "is_refused"), [(2, True), (4, False)])
def test_a_tenth_of_the_perturbed_cells_must_be_in_sets(together, is_refused, caplog):
    write([*EIGHT_LANES, *(pair for p in "456" for pair in alone("A", f"P{p}")), ("A", "P1", "g0", together), *B_HELD_OUT[1:]])
    cells = opened(set_size=2, **BY_GEM_GROUP)
    if is_refused:
        with pytest.raises(UserError, match="2 of 26 perturbed training cells are in a set"):
            cells.check_trainable()
    else:
        cells.check_trainable()
        assert "split.toml: 4 of 28 perturbed training cells are in a set" in caplog.text
        assert "data.control_matching: cell_type puts 28 in sets" in caplog.text


def test_from_one_half_in_sets_on_nothing_is_warned_of(caplog):
    write([*EIGHT_LANES, *alone("A", "P1"), ("A", "P4", "g0", 4), ("A", "P4", "g1", 4), *B_HELD_OUT[1:]])
    opened(set_size=2, **BY_GEM_GROUP).check_trainable()
    assert "in a set" not in caplog.text


def test_a_column_that_gives_each_cell_a_name_of_its_own_is_refused():
    """As the column of guide molecules or barcodes does."""
    write([*CONTROLS, *(("A", f"cell{i}", "g1", 1) for i in range(20)), *B_HELD_OUT[1:]])
    with pytest.raises(
        UserError,
        match=r"0 of 20 perturbed training cells .* in its cell type; data\.perturbation_column \(perturbation\) must name",
    ):
        opened().check_trainable()
    write([("A", "control", "control", 20), ("B", "control", "control", 20), ("A", "cell1", "P1", 20),
           ("B", "cell2", "P2", 8), ("B", "cell3", "P3", 8)])  # fmt: skip
    opened(perturbation_column="gem_group").check_trainable()


def test_training_on_controls_that_share_no_set_is_refused_until_less_is_held_out():
    write([("A", "control", "g1", 1), ("B", "control", "g1", 1), ("A", "P1", "g1", 8), *B_HELD_OUT])
    Path("split.toml").write_text('[datasets]\nd = "d.h5ad"\n[zeroshot]\n"d.A" = "val"\n"d.B" = "test"\n')
    with pytest.raises(UserError, match=r"no cell is left to train on but 2 controls that share no set; .* or hold out less"):
        opened().check_trainable()
    Path("split.toml").write_text(SPLIT)
    opened().check_trainable()


def test_validation_without_a_set_is_refused_and_each_remedy_helps():
    write([*CONTROLS, ("A", "P1", "g1", 8), ("B", "P1", "g1", 8), ("B", "P2", "g1", 1), ("B", "P3", "g1", 8)])
    with pytest.raises(
        UserError,
        match=r"split\.toml: the 1 cell in val makes no set \(P2 in d\.B: 1\), for no two of a perturbation share their cell type, "
        r"but data\.validation is split; hold out perturbations with more cells, or say data\.validation: test .*, "
        r"or say data\.validation: none",
    ):
        opened().check_trainable()
    opened(validation="test").check_trainable()
    opened(validation="none").check_trainable()
    Path("split.toml").write_text(SPLIT.replace("P2", "P1"))
    opened().check_trainable()


def test_test_cells_that_make_no_set_cannot_validate():
    write([*CONTROLS, ("A", "P1", "g1", 8), ("B", "P1", "g1", 8), ("B", "P2", "g1", 8), ("B", "P3", "g1", 1)])
    with pytest.raises(UserError, match=r"the 1 cell in test makes.*data\.validation is test; .* or say data\.validation: split"):
        opened(validation="test").check_trainable()
    opened(validation="split").check_trainable()


def test_validation_cells_alone_in_their_gem_groups_are_refused_and_cell_type_mends_it():
    write([*EIGHT_LANES, ("A", "P1", "g0", 8), ("B", "P1", "g0", 8), *alone("B", "P2"), *alone("B", "P3")])
    with pytest.raises(UserError) as refused:
        opened(**BY_GEM_GROUP).check_trainable()
    assert "the 8 cells in val make no set (P2 in d.B: 8), for no two of a perturbation share their GEM group" in str(refused.value)
    assert "say data.control_matching: cell_type, or say data.validation: none" in str(refused.value)
    assert "data.validation: test" not in str(refused.value)  # its cells are alone too
    opened(**BY_GEM_GROUP | {"control_matching": "cell_type"}).check_trainable()
    opened(**BY_GEM_GROUP, validation="none").check_trainable()


def test_what_is_not_validated_on_may_make_no_set():
    write([*CONTROLS, ("A", "P1", "g1", 8), ("B", "P1", "g1", 8), ("B", "P2", "g1", 8), ("B", "P3", "g1", 1)])
    opened().check_trainable()


def test_fewer_controls_than_a_set_are_warned_of_in_one_line(caplog):
    few = ("B", "control", "g1", 3)
    write([*CONTROLS[:2], few, ("A", "P1", "g1", 8), *B_HELD_OUT])
    opened().check_trainable()
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [
        "too few controls to set 8 aside (evaluation.control_fraction 0.3): training evaluate will not judge d.B",
        "cell types with fewer controls than cells in a set, whose controls repeat within it: d.B (3 for sets of 8)",
    ]


def test_where_controls_are_enough_for_the_sets_there_are_nothing_is_said(caplog):
    write([*CONTROLS, ("A", "P1", "g1", 60), ("B", "P1", "g1", 8), ("B", "P2", "g1", 8), ("B", "P3", "g1", 8)])
    opened(set_size=28).check_trainable()  # 40 controls, 28 of them to train with; sets of 8 in B
    assert "controls repeat" not in caplog.text


def test_gem_groups_with_few_controls_are_counted_by_cell_type(caplog):
    write([("A", "control", "g1", 2), ("A", "control", "g2", 4), ("A", "control", "g3", 40), ("B", "control", "g1", 40),
           *(("A", "P1", f"g{i}", 8) for i in (1, 2, 3)), *B_HELD_OUT])  # fmt: skip
    opened(**BY_GEM_GROUP, set_size=8).check_trainable()
    assert "d.A (in 2 GEM groups; at worst 1 for sets of 8)" in caplog.text
    assert "d.B" not in caplog.text
