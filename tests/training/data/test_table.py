from pathlib import Path

import anndata
import numpy as np
import pytest

from training.cells import Condition
from training.config import CellSetsConfig
from training.data.h5ad import H5adFile
from training.data.table import SPLITS, UNUSED, key, read_table
from training.errors import UserError


def config(**changes):
    return CellSetsConfig(split="split.toml", **({"control": "control", "gem_group_column": "gem_group"} | changes))


@pytest.fixture
def written(tmp_path, write_h5ad):
    """What lies in b.h5ad (data set z) and in a.h5ad (data set y), whose labels overlap in part."""
    b = write_h5ad(tmp_path / "b.h5ad", cell_types=("T", "B"), perturbations=("P9", "P1"), gem_groups=("2", "10"))
    a = write_h5ad(tmp_path / "a.h5ad", cell_types=("B", "K"), perturbations=("P1", "Q"), gem_groups=("2", "3"), seed=1)
    return {("z", str(tmp_path / "b.h5ad")): b, ("y", str(tmp_path / "a.h5ad")): a}


@pytest.fixture
def table(written):
    files = {dataset: [H5adFile(Path(path))] for dataset, path in written}
    return read_table(files, config())


def test_every_cell_is_in_the_table_with_its_labels(written, table):
    assert table.n_cells == 160
    seen = set()
    for cell in range(table.n_cells):
        condition, path = table.condition(cell), table.file.names[table.file.codes[cell]]
        obs = written[condition.dataset, path].obs.iloc[table.row[cell]]
        assert (obs.cell_type, obs.perturbation) == (condition.cell_type, condition.perturbation)
        assert table.gem_group.names[table.gem_group.codes[cell]] == obs.gem_group
        assert table.is_control[cell] == (obs.perturbation == "control")
        seen.add((path, int(table.row[cell])))
    assert len(seen) == 160
    assert (table.split == UNUSED).all()


def test_names_are_the_sorted_union_and_data_sets_come_in_sorted_order(table):
    assert table.dataset.names == ("y", "z")
    assert table.dataset.codes.tolist() == [0] * 80 + [1] * 80
    assert table.cell_type.names == ("B", "K", "T")
    assert table.perturbation.names == ("P1", "P9", "Q", "control")
    assert table.gem_group.names == ("10", "2", "3")


def test_without_a_column_there_are_no_gem_groups(tmp_path, write_h5ad):
    write_h5ad(tmp_path / "a.h5ad")
    assert read_table({"d": [H5adFile(tmp_path / "a.h5ad")]}, config(gem_group_column=None)).gem_group is None


def test_keep_forgets_names_that_no_longer_occur(table):
    chosen = np.equal(table.cell_type.codes, table.cell_type.names.index("K"))
    kept = table.keep(chosen)
    assert kept.n_cells == chosen.sum() == 40
    assert (kept.dataset.names, kept.cell_type.names, kept.perturbation.names) == (("y",), ("K",), ("P1", "Q", "control"))
    assert [kept.condition(cell) for cell in range(40)] == [table.condition(cell) for cell in np.flatnonzero(chosen)]
    assert len(kept.file.names) == 1
    assert kept.row.tolist() == table.row[chosen].tolist()
    assert kept.is_control.tolist() == table.is_control[chosen].tolist()


def test_a_table_without_controls_has_none(table):
    assert not table.keep(~table.is_control).is_control.any()


def test_a_split_is_its_place_among_the_splits(table):
    table.split[:3] = [SPLITS.index(split) for split in ("test", "train", "val")]
    assert [np.flatnonzero(table.is_in(split)).tolist() for split in ("train", "val", "test")] == [[1], [2], [0]]


def test_a_key_is_equal_where_the_labels_are_and_sorts_like_conditions(table):
    keys = key(table.dataset, table.cell_type, table.perturbation)
    conditions = [table.condition(cell) for cell in range(table.n_cells)]
    order = np.argsort(keys, kind="stable")
    assert [conditions[i] for i in order] == sorted(conditions)
    assert len(set(keys.tolist())) == len(set(conditions)) == 12
    assert isinstance(conditions[0], Condition)


def test_a_file_without_the_control_label_is_refused_with_its_nearest_labels(tmp_path, write_h5ad):
    write_h5ad(tmp_path / "a.h5ad")
    write_h5ad(tmp_path / "b.h5ad", control="Control")
    files = [H5adFile(tmp_path / name) for name in ("a.h5ad", "b.h5ad")]
    with pytest.raises(
        UserError, match=r"b\.h5ad: no cell of obs/perturbation has the control label 'control'; did you mean Control\?"
    ):
        read_table({"d": files}, config(gem_group_column=None))
    with pytest.raises(UserError, match=r"a\.h5ad: no cell .* 'DMSO_TF' \(labels: P1, P2, P3, control\)"):
        read_table({"d": files}, config(gem_group_column=None, control="DMSO_TF"))


def test_a_missing_column_is_refused_with_the_nearest(tmp_path, write_h5ad):
    write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(UserError, match=r"a\.h5ad: .*'celltype'; did you mean cell_type"):
        read_table({"d": [H5adFile(tmp_path / "a.h5ad")]}, config(gem_group_column=None, cell_type_column="celltype"))


def test_a_category_without_cells_is_no_control(tmp_path, write_h5ad):
    adata = write_h5ad(tmp_path / "a.h5ad")
    perturbed = adata[adata.obs.perturbation != "control"].copy()
    perturbed.obs["perturbation"] = perturbed.obs.perturbation.cat.set_categories(["P1", "P2", "P3", "control"])
    perturbed.write_h5ad(tmp_path / "a.h5ad")
    assert "control" in anndata.read_h5ad(tmp_path / "a.h5ad").obs.perturbation.cat.categories
    with pytest.raises(UserError, match="no cell of obs/perturbation has the control label"):
        read_table({"d": [H5adFile(tmp_path / "a.h5ad")]}, config(gem_group_column=None))
