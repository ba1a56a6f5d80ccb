"""Where nothing can be known, no model wins: not by the noise of the controls, and not by luck in one of several comparisons."""

import json
import re
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch

from training.checkpoints.model_file import SPEC
from training.data.simulation import Simulation, simulate

SEEDS = (42, 1, 2)


def wins(training, *settings, seed):
    """Comparisons that a model has won, after a short training on the CPU."""
    done = training(
        "fit", "name=run", "output_dir=.", "overwrite=true", "data.split=split.toml", "data.control=control", "data.num_workers=0",
        "data.batch_size=8", "data.perturbation_features_file=features.npz", "model=identity_sm", "data.set_size=32",
        "optim.lr=5e-4", "trainer.max_steps=100", "trainer.val_every_steps=50", "trainer.device=cpu", f"seed={seed}", *settings,
    )  # fmt: skip
    assert done.code == 0, done.err
    done = training("evaluate", "run")
    assert done.code == 0, done.err
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["controls_set_aside"]
    assert metrics["comparisons"]
    assert "beats no change" not in metrics["verdict"]
    return [(c["scope"], c["metric"], c["baseline"]) for c in metrics["comparisons"] if c["outcome"] == "better"]


def write_split(path, dataset_cell_type, val, test):
    names = [json.dumps(list(each)) for each in (val, test)]
    Path("split.toml").write_text(
        f'[datasets]\nd = "{path}"\n[fewshot."d.{dataset_cell_type}"]\nval = {names[0]}\ntest = {names[1]}\n'
    )


@pytest.mark.slow
@pytest.mark.parametrize("cell_type", ["A172", "T98G"])
def test_perturbations_that_cannot_be_told_apart(training, tmp_path, monkeypatch, real_if_here, cell_type):
    """Constant features of cells with next to no signal. Judged by controls that were trained on, all 6 models won."""
    monkeypatch.chdir(tmp_path)
    screen = anndata.read_h5ad(real_if_here)
    screen[screen.obs["cell_type"] == cell_type].copy().write_h5ad("cells.h5ad")
    names = sorted(set(screen.obs["perturbation"][screen.obs["cell_type"] == cell_type]) - {"control"})
    write_split("cells.h5ad", cell_type, names[:1], names[1:6])
    vectors: dict[str, Any] = {name: np.ones(4, np.float32) for name in [*names, "control"]}
    np.savez("features.npz", **vectors)

    assert {seed: wins(training, "data.output_space=gene", seed=seed) for seed in SEEDS} == {seed: [] for seed in SEEDS}


@pytest.mark.slow
def test_shuffled_labels(training, tmp_path, monkeypatch):
    """Labels of simulated cells at random, controls too, each time in another way."""
    monkeypatch.chdir(tmp_path)
    settings = Simulation(n_cells=2000, n_genes=120, n_perturbations=20, n_cell_types=1, n_modules=4, n_embedding=0)
    simulate(settings, Path("cells.h5ad"))
    screen = anndata.read_h5ad("cells.h5ad")
    Path("cells_features.npz").rename("features.npz")
    names = sorted(set(screen.obs["perturbation"]) - {"control"})
    won = {}
    for seed in SEEDS:
        write_split(f"shuffled{seed}.h5ad", "type_0", names[:2], names[2:10])
        screen.obs["perturbation"] = np.random.default_rng(seed).permutation(np.asarray(screen.obs["perturbation"]))
        screen.write_h5ad(f"shuffled{seed}.h5ad")
        won[seed] = wins(training, seed=seed)

    assert won == {seed: [] for seed in SEEDS}


def test_a_run_from_before_controls_were_set_aside_is_judged_and_wins_nothing(training, settings):
    """Its config.yaml has no section `evaluation`, and its model.pt does not know of controls that were set aside."""
    assert training("fit", *settings("evaluation.control_fraction=null")).code == 0
    config = Path("run/config.yaml")
    config.write_text(re.sub(r"\n# How a trained model is judged[^\n]*\nevaluation:\n(  [^\n]*\n)*", "\n", config.read_text()))
    assert "evaluation" not in config.read_text()
    content = torch.load("run/model.pt", weights_only=True)
    del content[SPEC]["set_aside"]
    torch.save(content, "run/model.pt")

    done = training("evaluate", "run")

    assert done.code == 0, done.err
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["controls_set_aside"] is False
    assert "controls not set aside" in metrics["verdict"]
    assert not [c for c in metrics["comparisons"] if c["outcome"] == "better"]
    assert training("evaluate", "run", "--checkpoint", "last").code == 0
    done = training("fit", *settings("evaluation.control_fraction=null", "trainer.max_steps=12", "resume=true"))
    assert done.code == 0, done.err


def test_what_is_set_aside_is_recorded_and_another_seed_is_refused(training, settings):
    assert training("fit", *settings()).code == 0

    rows = json.loads(Path("run/run.json").read_text())["split"]["rows"]
    assert {row["n_set_aside"] for row in rows} == {19}  # of 64 controls of each cell type
    card = torch.load("run/model.pt", weights_only=True)[SPEC]
    assert (card["set_aside"]["seed"], card["set_aside"]["control_fraction"]) == (0, 0.3)
    assert set(card["set_aside"]["measuring"]) == {f"simulated.type_{i}" for i in range(2)}
    done = training("evaluate", "run", "evaluation.seed=1")
    assert done.code == 2
    assert "evaluation.seed" in done.err
