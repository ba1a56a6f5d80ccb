"""The file of predictions: what anndata reads back, where each cell started, and what happens when something goes wrong."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

from training.cells import Condition
from training.errors import RunError, UserError
from training.tasks.perturbation.evaluation.predict import Provenance, predict
from training.tasks.perturbation.evaluation.requests import Request

SOURCE = Provenance(run="demo", checkpoint="model.pt", step=8, asked="split test")
ASKED = (Request(Condition("x", "rpe1", "B"), 20), Request(Condition("x", "k562", "A"), 11))
D, G = 5, 3


@pytest.fixture
def screen(make_screen):
    rng = np.random.default_rng(4)
    cells = {
        ("x", "k562", "control", "train"): rng.normal(size=(30, D)),
        ("x", "rpe1", "control", "train"): rng.normal(9, 1, size=(16, D)),
    }
    return make_screen(cells | {("x", "k562", "A", "test"): rng.normal(size=(4, D))}, genes=rng.normal(size=(D, G)), gem_groups=3)


@pytest.fixture
def output(tmp_path):
    return tmp_path / "new" / "predicted.h5ad"


def starting_cells(screen, obs):
    """Index in the table of the control that each predicted cell started from."""
    place = {row: cell for cell, row in enumerate(screen.table.row)}
    return np.array([place[row] for row in obs["control_row"]])


@pytest.mark.parametrize(("kind", "genes"), [("gene", 0), ("all", G), ("embedding", 0)])
def test_values_are_those_of_the_model_to_the_bit(screen, make_predictor, output, kind, genes):
    predictor = make_predictor(kind, D, genes)
    predict(screen, predictor, ASKED, output, SOURCE)

    adata = ad.read_h5ad(output)
    starts = screen.reader.values["input"][starting_cells(screen, adata.obs)]
    expected = [predictor.predict_cells("B", starts[:20], None), predictor.predict_cells("A", starts[20:], None)]
    cells = np.concatenate([one.cells for one in expected])
    if kind == "gene":
        assert np.array_equal(adata.X, cells)
        assert not adata.obsm
        assert list(adata.var_names) == [f"GENE{i}" for i in range(D)]
    if kind == "all":
        assert np.array_equal(adata.X, np.concatenate([one.genes for one in expected]))
        assert list(adata.var_names) == [f"GENE{i}" for i in range(G)]
    if kind == "embedding":
        assert adata.X is None
    if kind != "gene":
        assert np.array_equal(adata.obsm["X_state"], cells)
    assert cells.min() < 0, "nothing is clipped"
    assert cells.dtype == np.float32


def test_obs_says_what_was_asked_and_where_it_started(screen, make_predictor, output):
    predict(screen, make_predictor("gene", D), ASKED, output, SOURCE)

    adata = ad.read_h5ad(output)
    assert list(adata.obs["perturbation"]) == ["B"] * 20 + ["A"] * 11
    assert list(adata.obs["cell_type"]) == ["rpe1"] * 20 + ["k562"] * 11
    assert all(
        isinstance(adata.obs[name].dtype, pd.CategoricalDtype) for name in ("perturbation", "cell_type", "dataset", "gem_group")
    )
    assert set(adata.obs["control_file"]) == {"screen.h5ad"}
    cells = starting_cells(screen, adata.obs)
    assert [screen.table.condition(cell) for cell in cells] == [Condition("x", name, "control") for name in adata.obs["cell_type"]]
    assert list(adata.obs["gem_group"]) == [f"gem{screen.table.gem_group.codes[cell]}" for cell in cells]
    assert adata.obs_names.is_unique
    assert adata.uns["incubator"] == {"run": "demo", "checkpoint": "model.pt", "step": 8, "asked": "split test", "seed": 42}


def test_controls_repeat_only_where_there_are_too_few_and_that_is_said(screen, make_predictor, output, caplog):
    predict(screen, make_predictor("gene", D), ASKED, output, SOURCE)

    cells = starting_cells(screen, ad.read_h5ad(output).obs)
    assert sorted(np.unique(cells[:20], return_counts=True)[1]) == [1] * 12 + [2] * 4  # 20 of 16
    assert len(set(cells[20:])) == 11
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "some controls are used again (B in rpe1: 20 of 16)" in warnings[0]


def test_a_request_does_not_depend_on_the_others(screen, make_predictor, output, tmp_path):
    predictor = make_predictor("gene", D)
    predict(screen, predictor, ASKED, output, SOURCE)
    predict(screen, predictor, ASKED[::-1], tmp_path / "reversed.h5ad", SOURCE)

    one, other = ad.read_h5ad(output), ad.read_h5ad(tmp_path / "reversed.h5ad")
    assert np.array_equal(one.X[20:], other.X[:11])
    assert np.array_equal(one.X[:20], other.X[11:])


def test_one_window_is_in_memory_at_a_time(screen, make_predictor, output):
    predict(screen, make_predictor("all", D, G), (Request(Condition("x", "k562", "A"), 2000),), output, SOURCE)

    assert screen.reader.asked == [8] * 250
    assert ad.read_h5ad(output, backed="r").shape == (2000, G)


def test_gem_groups_of_the_controls_reach_the_model(make_screen, make_predictor, output):
    rng = np.random.default_rng(4)
    screen = make_screen({("x", "k562", "control", "train"): rng.normal(size=(12, D))}, gem_groups=2)
    predictor = make_predictor("gene", D, gem_group_embedding=True)
    predict(screen, predictor, (Request(Condition("x", "k562", "A"), 8),), output, SOURCE)

    adata = ad.read_h5ad(output)
    cells = starting_cells(screen, adata.obs)
    codes = screen.table.gem_group.codes[cells].astype(np.int64)
    assert np.array_equal(adata.X, predictor.predict_cells("A", screen.reader.values["input"][cells], codes).cells)


def test_predictions_may_be_written_again_but_nothing_else_is_overwritten(screen, make_predictor, tmp_path):
    predictor, mine = make_predictor("gene", D), tmp_path / "mine.h5ad"
    predict(screen, predictor, ASKED, mine, SOURCE)
    before = mine.read_bytes()
    predict(screen, predictor, ASKED[:1], mine, SOURCE)
    assert len(ad.read_h5ad(mine)) == 20
    assert mine.read_bytes() != before

    for theirs in (tmp_path / "data.h5ad", tmp_path / "notes.h5ad"):
        if theirs.stem == "data":
            ad.AnnData(np.zeros((2, 2), np.float32)).write_h5ad(theirs)
        else:
            theirs.write_text("not HDF5")
        content = theirs.read_bytes()
        with pytest.raises(UserError, match=f"{theirs.name}: exists already and holds no predictions"):
            predict(screen, predictor, ASKED, theirs, SOURCE)
        assert theirs.read_bytes() == content


def test_places_that_cannot_be_written_are_refused(screen, make_predictor, tmp_path):
    (tmp_path / "file").write_text("")
    for output, message in [
        ("predicted.csv", "written to an .h5ad file"),
        ("file/predicted.h5ad", "predicted.h5ad: cannot be written: .*file: File exists"),
    ]:
        with pytest.raises(UserError, match=message):
            predict(screen, make_predictor("gene", D), ASKED, tmp_path / output, SOURCE)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nothing_is_left_behind_when_it_fails(screen, make_predictor, tmp_path):
    predictor = make_predictor("gene", D)
    with torch.no_grad():
        predictor._model.project_out[-1].bias[0] = float("inf")

    with pytest.raises(RunError, match="NaN or infinite"):
        predict(screen, predictor, ASKED, tmp_path / "predicted.h5ad", SOURCE)
    assert not list(tmp_path.iterdir())
