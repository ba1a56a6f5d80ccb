import os
import subprocess
import sys
import tomllib
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from scipy import sparse

from training.data.simulation import Simulation, simulate
from training.data.simulation_truth import LEVELS, draw_network
from training.errors import RunError, UserError

SMALL = {"n_cells": 1000, "n_genes": 120, "n_perturbations": 12, "n_modules": 4, "n_embedding": 0}
DEEP = {**SMALL, "n_cells": 20_000, "n_perturbations": 8, "n_cell_types": 1, "n_gem_groups": 1}


def written(folder: Path, settings: Simulation) -> anndata.AnnData:
    """Simulated and read back, with `X` dense."""
    cells = anndata.read_h5ad(simulate(settings, folder / "cells.h5ad").h5ad)
    cells.X = cells.X.toarray()
    return cells


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> anndata.AnnData:
    """2,000 cells of each condition, without batch effects."""
    return written(tmp_path_factory.mktemp("deep"), Simulation(**DEEP))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_file_is_what_anndata_and_the_loader_expect(tmp_path):
    settings = Simulation(**{**SMALL, "n_hvg": 20, "n_embedding": 7})
    files = simulate(settings, tmp_path / "cells.h5ad")
    cells = anndata.read_h5ad(files.h5ad)

    assert cells.shape == (1000, 120)
    assert isinstance(cells.X, sparse.csr_matrix)
    assert cells.X.dtype == np.float32
    counts = cells.layers["counts"]
    assert counts.dtype == np.int32
    assert counts.data.min() >= 1
    np.testing.assert_allclose(cells.X.toarray(), np.log1p(counts.toarray() / counts.sum(1) * 1e4), rtol=1e-5)
    np.testing.assert_array_equal(cells.obsm["X_hvg"], cells.X.toarray()[:, cells.var["highly_variable"].to_numpy()])
    assert cells.obsm["X_hvg"].shape == (1000, 20)
    assert cells.obsm["X_state"].shape == (1000, 7)
    assert cells.obsm["X_state"].dtype == np.float32
    assert all(cells.obs[column].dtype == "category" for column in ("perturbation", "cell_type", "gem_group"))
    perturbations = list(cells.obs["perturbation"].cat.categories)
    assert perturbations[0] == "control"
    assert set(perturbations[1:]) <= set(cells.var_names)
    assert cells.obs.groupby(["cell_type", "perturbation"], observed=False).size().min() >= 2
    assert "log1p" in cells.uns
    assert cells.uns["simulation"]["n_genes"] == 120

    backed = anndata.read_h5ad(files.h5ad, backed="r")
    np.testing.assert_array_equal(backed.X[500:510].toarray(), cells.X[500:510].toarray())
    backed.file.close()
    with np.load(files.features) as features:
        assert list(features) == perturbations[1:]
        assert {vector.shape for vector in features.values()} == {(64,)}


def test_the_split_holds_the_same_perturbations_out_of_every_cell_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = simulate(Simulation(**SMALL), Path("sub/cells.h5ad"))
    split = tomllib.loads(files.split.read_text())

    assert split["datasets"] == {"simulated": "sub/cells.h5ad"}
    assert split["training"] == {"simulated": "train"}
    assert list(split["fewshot"]) == ["simulated.type_0", "simulated.type_1"]
    first, second = split["fewshot"].values()
    assert first == second
    assert (len(first["val"]), len(first["test"])) == (1, 2)
    held_out = {*first["val"], *first["test"]}
    assert len(held_out) == 3
    assert held_out < set(anndata.read_h5ad(files.h5ad, backed="r").obs["perturbation"].cat.categories[1:])


def test_a_seed_decides_every_byte(tmp_path):
    first, again, other = (
        simulate(Simulation(**SMALL, seed=seed), tmp_path / name / "cells.h5ad") for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first.h5ad.read_bytes() == again.h5ad.read_bytes()
    assert first.features.read_bytes() == again.features.read_bytes()
    with h5py.File(first.h5ad) as a, h5py.File(other.h5ad) as b:
        assert a["X/data"].shape != b["X/data"].shape
        assert list(a["uns/truth/perturbations"]) != list(b["uns/truth/perturbations"])


def test_the_truth_is_what_many_cells_show(deep):
    truth, labels = deep.uns["truth"], deep.obs["perturbation"].to_numpy()
    control = deep.X[labels == "control"]
    # Errors in units of their standard errors have a root mean square of 1, give or take 1 / sqrt(2 x 120 genes).
    error = control.mean(0) - truth["control_mean"][0]
    assert 0.75 < np.sqrt(np.mean(error**2 / (control.var(0) / len(control)))) < 1.25
    for name, shift in zip(truth["perturbations"], truth["shift"][0], strict=True):
        perturbed = deep.X[labels == name]
        error = perturbed.mean(0) - control.mean(0) - shift
        variance = perturbed.var(0) / len(perturbed) + control.var(0) / len(control)
        assert 0.75 < np.sqrt(np.mean(error**2 / variance)) < 1.25
        assert np.linalg.norm(shift) > 3 * np.sqrt(variance.sum()), "or the test could not fail"
    np.testing.assert_array_equal(truth["differentially_expressed"], np.abs(truth["shift"]) >= 0.1)


def test_counts_vary_more_than_poisson_and_as_the_genes_dispersions_say(deep):
    network = draw_network(Simulation(**DEEP))
    counts = deep.layers["counts"].toarray()[deep.obs["perturbation"] == "control"].astype(float)
    depth = counts.sum(1, keepdims=True) / counts.sum(1).mean()
    mean = (counts / depth).mean(0)
    excess = ((counts - depth * mean) ** 2 - depth * mean).mean(0) / (depth**2).mean() / mean**2
    steady = (np.abs(network.program_loadings).sum(0) == 0) & (mean > 1) & (mean < 500)
    assert np.corrcoef(np.log(excess[steady]), -np.log(LEVELS[network.level][steady]))[0, 1] > 0.95
    assert 0.85 < np.median(excess[steady] * LEVELS[network.level][steady]) < 1.15


@pytest.mark.parametrize("state_dependence", [0.0, 2.0])
def test_cells_respond_according_to_the_program_that_they_run(tmp_path, state_dependence):
    settings = Simulation(**{**DEEP, "state_dependence": state_dependence})
    cells = written(tmp_path, settings)
    network, truth, labels = draw_network(settings), cells.uns["truth"], cells.obs["perturbation"].to_numpy()
    program = network.program_loadings[0]
    control = cells.X[labels == "control"]
    differences = []
    for name, shift in zip(truth["perturbations"], truth["shift"][0], strict=True):
        response = np.where(program == 0, shift, 0)  # genes of the program would respond to the program itself
        perturbed, untouched = (np.corrcoef(x @ program, x @ response)[0, 1] for x in (cells.X[labels == name], control))
        differences.append(perturbed - untouched)
    if state_dependence:
        assert np.mean(differences) > 0.15
    else:
        assert abs(np.mean(differences)) < 0.05


def test_gem_groups_differ_and_perturbations_are_spread_unevenly_over_them(tmp_path):
    settings = Simulation(**{**DEEP, "n_gem_groups": 2})
    cells = written(tmp_path, settings)
    control = cells.obs["perturbation"] == "control"
    first, second = (cells.X[control & (cells.obs["gem_group"] == name)].mean(0) for name in ("gem_0", "gem_1"))
    drawn = draw_network(settings).gem_group_shift
    assert np.corrcoef(second - first, drawn[1] - drawn[0])[0, 1] > 0.8
    share = (cells.obs["gem_group"] == "gem_0").groupby(cells.obs["perturbation"], observed=False).mean()
    assert abs(share["control"] - 0.5) < 0.05
    assert share.drop("control").std() > 0.05


def test_perturbed_cells_lose_their_target_but_for_those_that_escape(deep):
    labels = deep.obs["perturbation"].to_numpy()
    counts = deep.layers["counts"].toarray()
    for name in deep.uns["truth"]["perturbations"]:
        gene = deep.var_names.get_loc(name)
        left = counts[labels == name, gene].mean() / counts[labels == "control", gene].mean()
        assert 0.1 < left < 0.75


@dataclass(frozen=True)
class Screen:
    """Observed mean shifts of one cell type each, and what tells of them."""

    shifts: list[np.ndarray]
    features: np.ndarray
    is_held_out: np.ndarray


def screen(folder: Path, settings: Simulation) -> Screen:
    cells = written(folder, settings)
    held_out = tomllib.loads((folder / "cells_split.toml").read_text())["fewshot"]["simulated.type_0"]
    with np.load(folder / "cells_features.npz") as stored:
        features = dict(stored)
    shifts = []
    for cell_type in cells.obs["cell_type"].cat.categories:
        mine = cells[cells.obs["cell_type"] == cell_type]
        labels = mine.obs["perturbation"].to_numpy()
        shifts.append(np.array([mine.X[labels == name].mean(0) for name in features]) - mine.X[labels == "control"].mean(0))
    return Screen(shifts, np.array(list(features.values())), np.isin(list(features), held_out["val"] + held_out["test"]))


def held_out_cosines(seen: Screen, features: np.ndarray) -> tuple[float, float]:
    """Cosine with the observed shift of held-out perturbations: of the mean training shift, and of ridge regression on features."""
    train = ~seen.is_held_out
    x = features - features[train].mean(0)
    gram = x[train] @ x[train].T
    solver = x @ x[train].T @ np.linalg.inv(gram + 0.1 * gram.diagonal().mean() * np.eye(len(gram)))
    scores = []
    for shifts in seen.shifts:
        mean = shifts[train].mean(0)
        ridge = mean + solver @ (shifts[train] - mean)
        scores += [(cosine(mean, shifts[i]), cosine(ridge[i], shifts[i])) for i in np.flatnonzero(seen.is_held_out)]
    baseline, regression = np.mean(scores, axis=0)
    return float(baseline), float(regression)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [42, 1])
def test_held_out_perturbations_are_predictable_from_their_own_features_alone(tmp_path, seed):
    seen = screen(tmp_path, Simulation(seed=seed, n_embedding=0))
    mean, ridge = held_out_cosines(seen, seen.features)
    assert mean < 0.45
    assert ridge > mean + 0.25
    # A shuffle may fit 15 perturbations by chance: of 300 shuffles of a seed the best was 0.05 above the mean shift.
    shuffled = [held_out_cosines(seen, np.random.default_rng(i).permutation(seen.features))[1] for i in range(20)]
    assert np.mean(shuffled) < mean
    assert np.max(shuffled) < mean + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [42, 1])
def test_features_that_do_not_inform_predict_nothing(tmp_path, seed):
    seen = screen(tmp_path, Simulation(seed=seed, n_embedding=0, informativeness=0))
    mean, ridge = held_out_cosines(seen, seen.features)
    assert ridge < mean


@pytest.mark.slow
def test_memory_does_not_grow_with_the_cells(tmp_path):
    def peak(n_cells: int) -> int:
        tracemalloc.start()
        simulate(Simulation(**{**SMALL, "n_genes": 1000, "n_cells": n_cells}), tmp_path / f"{n_cells}.h5ad")
        bytes_ = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return bytes_

    grown = peak(6000) - peak(1000)
    assert grown < 5000 * 1000 * 4 / 10, "dense, the additional cells are 20 MB"


@pytest.mark.parametrize(
    ("setting", "value", "accepted"),
    [
        ("n_cells", 100, "accepted: 300 or more"),
        ("n_perturbations", 501, "accepted: 4 to 500"),
        ("informativeness", 1.5, "accepted: 0 to 1"),
        ("informativeness", float("nan"), "accepted: 0 to 1"),
        ("held_out_fraction", 0.0, "0 of 60 perturbations; accepted: at least 2"),
        ("n_hvg", 1001, "accepted: 0 to 1000"),
    ],
)
def test_impossible_settings_are_refused(setting, value, accepted):
    with pytest.raises(UserError, match=rf"simulate: {setting} is {value}.*{accepted}"):
        Simulation(**{setting: value})


@pytest.mark.parametrize("name", ["cells.h5ad", "cells_features.npz", "cells_split.toml"])
def test_nothing_that_exists_is_overwritten(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} exists"):
        simulate(Simulation(**SMALL), tmp_path / "cells.h5ad")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_an_output_that_is_no_h5ad_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cells.csv; accepted: a file name that ends in .h5ad"):
        simulate(Simulation(**SMALL), tmp_path / "cells.csv")


def test_an_output_below_a_file_fails(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file/cells.h5ad could not be written"):
        simulate(Simulation(**SMALL), tmp_path / "file" / "cells.h5ad")


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path):
    """In a process of its own: HDF5 does not forgive a file that it cannot close."""
    command = f"ulimit -f 300; exec {sys.executable} -m training simulate {tmp_path}/cells.h5ad n_cells=1000 n_perturbations=12"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # the limit cuts off a .pyc too, which every later process would fall over
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1, done.stderr
    assert "failed: simulate: " in done.stderr
    assert "could not be written" in done.stderr
    assert list(tmp_path.iterdir()) == []
