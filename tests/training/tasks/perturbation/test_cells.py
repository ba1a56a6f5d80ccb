import pickle
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import anndata
import numpy as np
import pytest

from training.cells import Condition, Sizes
from training.config import CellSetsConfig
from training.data.split_report import SplitRow
from training.errors import UserError
from training.tasks.perturbation.cells import open_cells

SPLIT = """
[datasets]
d = "one.h5ad"
e = "two.h5ad"
[training]
d = "train"
[zeroshot]
"e.C" = "test"
[fewshot."d.B"]
val = ["P1"]
test = ["P3"]
"""


@pytest.fixture
def here(tmp_path, monkeypatch, write_h5ad) -> Path:
    """Data set d: cell types A and B; data set e: B and C, of which only C is used; P1, P2, P3; 10 cells a condition."""
    monkeypatch.chdir(tmp_path)
    write_h5ad(Path("one.h5ad"), gem_groups=("g1", "g2"), obsm={"X_hvg": 5, "X_state": 4})
    write_h5ad(Path("two.h5ad"), gem_groups=("g2", "g3"), obsm={"X_hvg": 5, "X_state": 4}, cell_types=("B", "C"), seed=1)
    Path("split.toml").write_text(SPLIT)
    return tmp_path


def opened(set_size=8, seed=5, **changes):
    return open_cells(CellSetsConfig(**({"split": "split.toml", "control": "control"} | changes)), set_size, seed)


def test_conditions_cells_and_controls_of_each_split(here):
    cells = opened()
    assert cells.conditions("val") == (Condition("d", "B", "P1"),)
    assert cells.conditions("test") == (Condition("d", "B", "P3"), *(Condition("e", "C", p) for p in ("P1", "P2", "P3")))
    assert cells.conditions("train") == (*(Condition("d", "A", p) for p in ("P1", "P2", "P3")), Condition("d", "B", "P2"))
    for split in ("train", "val", "test"):
        for condition in cells.conditions(split):
            members, controls = cells.cells_of(condition, split), cells.controls_of(condition)
            assert len(members) == len(controls) == 10
            assert {cells.table.condition(cell) for cell in members} == {condition}
            assert {cells.table.condition(cell) for cell in controls} == {
                Condition(condition.dataset, condition.cell_type, "control")
            }
    assert len(cells.cells_of(Condition("d", "B", "P1"), "train")) == 0


def test_cells_that_no_split_uses_are_gone(here):
    cells = opened()
    assert cells.table.n_cells == 120
    assert not any(cells.table.condition(cell) == Condition("e", "B", "P1") for cell in range(120))


def test_controls_of_a_perturbation_that_the_data_lack_are_those_of_its_cell_type(here):
    cells = opened()
    assert cells.controls_of(Condition("e", "C", "NEW")).tolist() == cells.controls_of(Condition("e", "C", "P1")).tolist()


@pytest.mark.parametrize(
    ("settings", "judged", "sizes"),
    [
        ({}, "input", Sizes(12, 4, None, 0)),
        ({"embed_key": "X_state", "output_space": "all", "gem_group_column": "gem_group"}, "genes", Sizes(4, 4, 12, 3)),
        ({"embed_key": "X_state", "output_space": "gene"}, "genes", Sizes(4, 4, 5, 0)),
        ({"embed_key": "X_state", "output_space": "embedding"}, "input", Sizes(4, 4, None, 0)),
        ({"embed_key": "X_hvg", "output_space": "gene", "gem_group_column": "gem_group"}, "input", Sizes(5, 4, None, 3)),
    ],
)
def test_sizes_and_what_is_judged_follow_from_the_representations(here, write_h5ad, settings, judged, sizes):
    cells = (
        opened(**settings, gene_alignment="by_name")
        if "X_hvg" not in str(settings) and settings.get("output_space") != "gene"
        else None
    )
    if cells is None:  # marked genes differ between the two files, so that one is left
        Path("split.toml").write_text('[datasets]\nd = "one.h5ad"\n[training]\nd = "train"\n[fewshot."d.B"]\nval = ["P1"]')
        cells = opened(**settings)
        sizes = Sizes(sizes.input_dim, sizes.perturbation_dim, sizes.num_decoder_genes, min(2, sizes.num_gem_groups))
    assert (cells.judged, cells.sizes) == (judged, sizes)
    assert len(cells.input_names) == sizes.input_dim
    assert len(cells.judged_names) == (sizes.num_decoder_genes or sizes.input_dim)
    assert len(cells.gem_group_names) == sizes.num_gem_groups
    chosen = np.arange(3)
    assert cells.reader.read(cells.judged, chosen).shape == (3, len(cells.judged_names))


def test_the_reader_reads_the_cells_of_the_table(here):
    cells = opened()
    for cell in (0, 60, 119):
        path = cells.table.file.names[cells.table.file.codes[cell]]
        expected = anndata.read_h5ad(path).X[cells.table.row[cell]].toarray().ravel()
        assert cells.reader.read("input", np.array([cell]))[0].tolist() == expected.tolist()


def test_the_report_counts_cells_and_sets_of_each_split(here):
    cells = opened()
    assert cells.report.rows == (
        SplitRow("d", "A", "train", 3, 30, 10, 0, 8, 0),  # 3 perturbations and the controls, 10 cells each: a set of 8 and one of 2
        SplitRow("d", "B", "train", 1, 10, 10, 0, 4, 0),
        SplitRow("d", "B", "val", 1, 10, 10, 0, 2, 0),
        SplitRow("d", "B", "test", 1, 10, 10, 0, 2, 0),
        SplitRow("e", "C", "train", 0, 0, 10, 0, 2, 0),  # controls of a zero-shot cell type
        SplitRow("e", "C", "test", 3, 30, 10, 0, 6, 0),
    )
    assert sum(row.n_sets for row in cells.report.rows if row.split == "train") == sum(
        len(cells.plan(2).batch(i)) for i in range(cells.plan(2).batches_per_epoch)
    )
    assert cells.report.training_sets == ((8, 7), (2, 7))
    text = cells.summary()
    assert "Training sets per epoch: 7 of 8, 7 of 2 cells" in text
    assert "data set" in text
    assert any(line.split() == ["e", "C", "test", "3", "30", "10", "0", "6", "0"] for line in text.splitlines())
    assert "Leak check: 0 held-out conditions" in text
    assert asdict(cells.report)["rows"][0]["n_cells"] == 30


def test_without_control_sets_no_control_is_trained_on_but_all_are_drawn_on(here):
    cells = opened(include_controls=False)
    plan = cells.plan(2)
    sets = [each for i in range(plan.batches_per_epoch) for each in plan.batch(i)]
    assert not any(cells.table.is_control[each.cells].any() for each in sets)
    assert all(cells.table.is_control[each.controls].all() for each in sets)
    assert ("e", "C", "train") not in {(row.dataset, row.cell_type, row.split) for row in cells.report.rows}
    assert len(cells.controls_of(Condition("e", "C", "P1"))) == 10


def test_validation_sets_hold_validation_conditions_alone(here):
    cells = opened()
    sets = [each for batch in cells.validation(2) for each in batch]
    assert {cells.table.condition(cell) for each in sets for cell in each.cells} == {Condition("d", "B", "P1")}
    of_test = [each for batch in opened(validation="test").validation(2) for each in batch]
    assert {cells.table.condition(cell) for each in of_test for cell in each.cells} == set(cells.conditions("test"))
    assert len([each for batch in opened(validation="test", max_validation_sets=3).validation(2) for each in batch]) == 3
    assert opened(validation="none").validation(2) == []


def test_a_held_out_condition_that_another_data_set_trains_on_is_a_leak(here):
    Path("split.toml").write_text(
        '[datasets]\nd = "one.h5ad"\ne = "two.h5ad"\n[training]\nd = "train"\n[fewshot."e.B"]\nval = ["P1"]\ntest = ["P3"]'
    )
    leaks = opened().report.leaks
    assert leaks == (
        "val: P1 in e.B: trained on in data set d (10 cells)",
        "test: P3 in e.B: trained on in data set d (10 cells)",
    )
    assert "Leak check: 2 held-out conditions are trained on: val: P1 in e.B" in opened().summary()


def test_a_perturbation_that_is_never_trained_on_is_named(here):
    Path("split.toml").write_text(SPLIT.replace('[training]\nd = "train"\n', ""))
    report = opened().report
    assert report.unseen == ("P1", "P3")
    assert "Never trained on in any cell type: P1, P3" in opened().summary()


def test_validating_on_the_test_cells_is_said_in_the_summary(here):
    assert "no longer held out" in opened(validation="test").summary()
    assert "no longer held out" not in opened().summary()


def test_dropped_perturbations_take_their_cells_along(here):
    np.savez("features.npz", P1=np.ones(3), P2=np.zeros(3), control=np.zeros(3))
    cells = opened(perturbation_features_file="features.npz", missing_features="drop")
    assert cells.table.perturbation.names == ("P1", "P2", "control")
    assert cells.table.n_cells == 90
    assert cells.sizes.perturbation_dim == 3


def test_the_fingerprint_is_of_what_is_read_not_of_where_it_lies(here, write_h5ad, tmp_path_factory, monkeypatch):
    first = opened().fingerprint
    assert opened(set_size=4, seed=6).fingerprint == first
    Path("split.toml").write_text("# the same\n" + SPLIT)
    assert opened().fingerprint == first
    Path("split.toml").write_text(SPLIT.replace('"P3"', '"P2"'))
    assert opened().fingerprint != first
    Path("split.toml").write_text(SPLIT)
    moved = shutil.copytree(here, tmp_path_factory.mktemp("elsewhere") / "copy")
    monkeypatch.chdir(moved)
    assert opened().fingerprint == first
    np.savez("features.npz", P1=np.ones(3), P2=np.ones(3), P3=np.ones(3), control=np.ones(3))
    assert opened(perturbation_features_file="features.npz").fingerprint != first
    adata = anndata.read_h5ad("two.h5ad")
    adata.X.data[5] += 1
    adata.write_h5ad("two.h5ad")
    assert opened().fingerprint != first


def test_cells_go_through_pickle(here):
    cells = opened()
    cells.check_trainable()
    copy = pickle.loads(pickle.dumps(cells))
    assert copy.conditions("test") == cells.conditions("test")
    assert copy.reader.read("input", np.arange(4)).tolist() == cells.reader.read("input", np.arange(4)).tolist()


def test_a_gem_group_without_controls_is_logged_once(here, caplog):
    adata = anndata.read_h5ad("one.h5ad")
    adata[~((adata.obs.perturbation == "control") & (adata.obs.gem_group == "g1"))].copy().write_h5ad("one.h5ad")
    with caplog.at_level("INFO"):
        cells = opened(set_size=2, control_matching="gem_group", gem_group_column="gem_group")
        cells.plan(2)
        cells.check_trainable()
    said = Counter(
        record.getMessage().split(":")[0] for record in caplog.records if "no control in their GEM group" in record.getMessage()
    )
    assert said == {"train": 1, "val": 1}


def test_a_cell_type_in_two_files_of_a_data_set_is_reported(here, caplog):
    with caplog.at_level("INFO"):
        opened()
        assert "several files" not in caplog.text
        Path("split.toml").write_text('[datasets]\nd = "{one,two}.h5ad"\n[training]\nd = "train"\n')
        opened()
    assert "cells of several files share sets and controls in d.B (2);" in caplog.text


def test_a_cell_type_without_controls_is_refused(here):
    adata = anndata.read_h5ad("one.h5ad")
    adata[~((adata.obs.perturbation == "control") & (adata.obs.cell_type == "B"))].copy().write_h5ad("one.h5ad")
    with pytest.raises(
        UserError, match=r"one\.h5ad: the 30 cells of cell type 'B' have no control: none of them is 'control'.*split\.toml"
    ):
        opened()


def test_a_cell_type_without_controls_does_no_harm_where_it_is_unused(here):
    adata = anndata.read_h5ad("two.h5ad")
    adata[~((adata.obs.perturbation == "control") & (adata.obs.cell_type == "B"))].copy().write_h5ad("two.h5ad")
    assert opened().table.n_cells == 120


def test_no_validation_cells_are_refused_unless_the_run_says_so(here):
    Path("split.toml").write_text(SPLIT.replace('val = ["P1"]\n', ""))
    with pytest.raises(
        UserError, match=r"split\.toml: no cell is in val \(train: 80 .*\), but data.validation is split.*data.validation: none"
    ):
        opened().check_trainable()
    opened(validation="none").check_trainable()
    opened(validation="test").check_trainable()


def test_validation_on_test_cells_needs_test_cells(here):
    Path("split.toml").write_text('[datasets]\nd = "one.h5ad"\n[training]\nd = "train"\n')
    with pytest.raises(UserError, match=r"split\.toml: no cell is in test .*but data.validation is test"):
        opened(validation="test").check_trainable()


def test_nothing_to_train_on_is_refused(here):
    Path("split.toml").write_text('[datasets]\nd = "one.h5ad"\n[zeroshot]\n"d.A" = "val"\n')
    opened().check_trainable()  # the controls are there
    with pytest.raises(UserError, match=r"split\.toml: no cell is left to train on"):
        opened(include_controls=False).check_trainable()


def test_a_set_size_above_every_group_is_refused_with_the_largest(here):
    opened(set_size=10).check_trainable()
    with pytest.raises(UserError, match=r"set_size 11 is larger than every group .*P1 in d\.A, has 10 \(accepted: 2 to 10\)"):
        opened(set_size=11).check_trainable()
