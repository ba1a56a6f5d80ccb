"""Controls that measure: who they are follows from names alone, and nobody trains on them."""

from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest

from training.cells import Condition
from training.config import CellSetsConfig, EvaluationConfig
from training.data.set_aside import LEAST_CELLS, SetAside, trained_on_measuring
from training.tasks.perturbation.cells import open_cells

CONTROL = Condition("d", "A", "control")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def opened(fraction=0.3, seed=0, **changes):
    config = CellSetsConfig(**({"split": "split.toml", "control": "control"} | changes))
    return open_cells(config, 8, 42, EvaluationConfig(control_fraction=fraction, seed=seed))


def write_split(pattern="*.h5ad", held_out=("P1", "P2")):
    val, test = held_out
    text = f'[datasets]\nd = "{pattern}"\n[training]\nd = "train"\n[fewshot."d.A"]\nval = ["{val}"]\ntest = ["{test}"]\n'
    Path("split.toml").write_text(text)


def names(cells, chosen):
    """Names of cells, as their files have them."""
    table = cells.table
    files = {path: anndata.read_h5ad(path, backed="r").obs_names for path in table.file.names}
    return {files[table.file.names[table.file.codes[cell]]][table.row[cell]] for cell in chosen}


def aside(cells, cell_type="A"):
    return names(cells, cells.set_aside_of(replace(CONTROL, cell_type=cell_type)))


@pytest.fixture
def screen(here, write_h5ad):
    """Two cell types of 100 controls each in one file of 800 cells and two GEM groups."""
    write_split("cells.h5ad")
    return write_h5ad(here / "cells.h5ad", n_cells=800, gem_groups=("g1", "g2"))


def test_each_cell_type_gives_its_share_and_keeps_the_rest(screen):
    cells = opened()

    for cell_type in "AB":
        control = replace(CONTROL, cell_type=cell_type)
        kept, given = set(cells.controls_of(control)), set(cells.set_aside_of(control))
        assert (len(kept), len(given)) == (70, 30)
        assert not kept & given
        assert cells.table.is_control[sorted(kept | given)].all()


def test_each_gem_group_gives_its_share(screen):
    cells = opened(gem_group_column="gem_group")
    table = cells.table

    for cell_type in "AB":
        for gem_group in range(2):
            own = table.is_control & (table.cell_type.codes == "AB".index(cell_type)) & (table.gem_group.codes == gem_group)
            assert abs((own & table.is_set_aside).sum() - 0.3 * own.sum()) <= 1


@pytest.mark.parametrize("gem_group_column", [None, "gem_group"])
def test_neither_the_order_of_rows_nor_files_nor_what_else_is_there_matters(screen, here, gem_group_column):
    before = {cell_type: aside(opened(gem_group_column=gem_group_column), cell_type) for cell_type in "AB"}
    shuffled = screen[np.random.default_rng(0).permutation(screen.n_obs)].copy()
    (here / "cells.h5ad").unlink()

    shuffled.write_h5ad(here / "other_name.h5ad")
    write_split("other_name.h5ad")
    assert {t: aside(opened(gem_group_column=gem_group_column), t) for t in "AB"} == before

    (here / "other_name.h5ad").unlink()
    halves = np.arange(screen.n_obs) % 2 == 0
    shuffled[halves].copy().write_h5ad(here / "one.h5ad")
    shuffled[~halves].copy().write_h5ad(here / "two.h5ad")
    write_split("*.h5ad")
    assert {t: aside(opened(gem_group_column=gem_group_column), t) for t in "AB"} == before

    only_a = shuffled[(shuffled.obs.cell_type == "A") & (shuffled.obs.perturbation != "P3")].copy()
    only_a.write_h5ad(here / "one.h5ad")
    write_split("one.h5ad")
    assert aside(opened(gem_group_column=gem_group_column)) == before["A"]


def test_another_seed_sets_others_aside_and_the_seed_of_the_training_has_no_part_in_it(screen):
    one, other = opened(seed=0), opened(seed=1)

    assert aside(one) != aside(other)
    assert aside(replace(one, seed=7)) == aside(one)
    assert one.fingerprint != other.fingerprint


def test_no_set_and_no_pool_has_them(screen):
    cells = opened(gem_group_column="gem_group", control_matching="gem_group")
    plan = cells.plan(4)
    sets = [each for i in range(3 * plan.batches_per_epoch) for each in plan.batch(i)]
    sets += [each for batch in cells.validation(4) for each in batch]
    used = np.concatenate([np.concatenate([each.cells, each.controls]) for each in sets])

    assert cells.table.is_set_aside.sum() == 60
    assert not cells.table.is_set_aside[used].any()
    trained = cells.table.is_control & ~cells.table.is_set_aside
    assert set(np.flatnonzero(trained)) <= set(used)  # all the others are trained on


@pytest.mark.parametrize(("n_controls", "n_aside"), [(1, 0), (2, 0), (9, 0), (26, 8), (25, 8), (24, 0)])
def test_a_cell_type_with_few_controls_gives_none(here, write_h5ad, n_controls, n_aside):
    adata = write_h5ad(here / "cells.h5ad", n_cells=800)
    controls = np.flatnonzero((adata.obs.perturbation == "control") & (adata.obs.cell_type == "B"))
    adata[np.setdiff1d(np.arange(adata.n_obs), controls[n_controls:])].copy().write_h5ad(here / "cells.h5ad")
    write_split("cells.h5ad")
    cells = opened()

    assert len(aside(cells, "B")) == n_aside
    assert n_aside == 0 or n_aside >= LEAST_CELLS
    assert len(cells.controls_of(replace(CONTROL, cell_type="B"))) == n_controls - n_aside
    assert len(aside(cells)) == 30


def test_without_a_share_all_controls_are_trained_on(screen):
    cells = opened(fraction=None)

    assert not cells.table.is_set_aside.any()
    assert cells.set_aside is None
    assert len(cells.controls_of(CONTROL)) == 100


@pytest.mark.parametrize("fraction", [0, 1, 0.05, 0.51])
def test_a_share_that_leaves_too_little_on_one_side_is_refused(fraction):
    with pytest.raises(ValueError, match="control_fraction"):
        EvaluationConfig(control_fraction=fraction)


def test_a_model_is_known_to_have_trained_on_what_measures(screen, here):
    cells = opened()
    model = cells.set_aside
    assert model is not None
    assert trained_on_measuring(model, opened().set_aside, ["d.A", "d.B"]) == frozenset()
    assert trained_on_measuring(model, opened(seed=1).set_aside, ["d.A", "d.B"]) == {"d.A", "d.B"}
    assert trained_on_measuring(model, opened(fraction=None).set_aside, ["d.A"]) == {"d.A"}
    assert trained_on_measuring(None, cells.set_aside, ["d.A"]) == {"d.A"}

    # A cell type of another file that the model never saw has no controls that it trained on.
    only_a = SetAside(0, 0.3, {"d.A": model.measuring["d.A"]}, (1, 2, 3), model.content, {"d.A": ("another file",)})
    assert trained_on_measuring(only_a, cells.set_aside, ["d.A", "d.B"]) == frozenset()

    # Under another name of the data set others measure, most of which were trained on.
    text = Path("split.toml").read_text()
    Path("split.toml").write_text(text.replace("d = ", "renamed = ").replace('"d.A"', '"renamed.A"'))
    assert trained_on_measuring(model, opened().set_aside, ["renamed.A", "renamed.B"]) == {"renamed.A", "renamed.B"}

    # Under new names of data set and cells: the file is known.
    screen.obs_names = [f"new_{name}" for name in screen.obs_names]
    screen.write_h5ad(here / "new_names.h5ad")
    Path("split.toml").write_text(Path("split.toml").read_text().replace("cells.h5ad", "new_names.h5ad"))
    assert trained_on_measuring(model, opened().set_aside, ["renamed.A", "renamed.B"]) == {"renamed.A", "renamed.B"}

    # The names, given anew to other cells: the values are others.
    mixed = screen[np.random.default_rng(0).permutation(screen.n_obs)].copy()
    mixed.obs = mixed.obs.sort_values(["cell_type", "perturbation"])
    names_before = anndata.read_h5ad("cells.h5ad").obs.sort_values(["cell_type", "perturbation"]).index
    mixed = screen[mixed.obs_names].copy()
    mixed.obs_names = names_before
    mixed.write_h5ad(here / "names_anew.h5ad")
    Path("split.toml").write_text(text.replace("cells.h5ad", "names_anew.h5ad"))
    assert opened().set_aside.measuring == model.measuring
    assert trained_on_measuring(model, opened().set_aside, ["d.A", "d.B"]) == {"d.A", "d.B"}
    Path("split.toml").write_text(text)

    # Of a file with fewer controls others measure, some of which were trained on.
    fewer = screen[(screen.obs.perturbation != "control") | (np.arange(screen.n_obs) % 3 > 0)].copy()
    fewer.write_h5ad(here / "fewer.h5ad")
    write_split("fewer.h5ad")
    assert trained_on_measuring(model, opened().set_aside, ["d.A", "d.B"]) == {"d.A", "d.B"}
