"""A tiny simulated screen, and the command line in this process: what it prints, its exit code, what it leaves behind."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from training.__main__ import main
from training.data.simulation import Simulation, simulate

SETTINGS = Simulation(
    n_cells=640, n_genes=60, n_perturbations=12, n_gem_groups=2, n_modules=4, feature_dim=8, n_hvg=10, n_embedding=6
)

SMALL = (
    "model=identity_sm",
    "model.hidden_dim=16",
    "model.num_layers=1",
    "model.num_heads=2",
    "model.head_dim=8",
    "model.intermediate_dim=32",
    "model.set_size=16",
    "data.batch_size=4",
    "data.num_workers=0",
    "trainer.val_every_steps=4",
    "trainer.log_every_steps=2",
    "trainer.device=cpu",
    "checkpoints.every_steps=4",
    "optim.lr=1e-3",
)


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def _screen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("screen")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # the split file names the data as it was typed
        simulate(SETTINGS, Path("cells.h5ad"))
    return folder


@pytest.fixture
def screen(_screen, tmp_path, monkeypatch) -> Path:
    """A folder of one's own with cells.h5ad, cells_features.npz and cells_split.toml; it is the working directory."""
    shutil.copytree(_screen, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def training(capfd) -> Callable[..., Done]:
    """`training VERB ...`."""

    def call(*arguments: object) -> Done:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Done(code, out, err)

    return call


@pytest.fixture
def settings(screen) -> Callable[..., list[str]]:
    """Settings of a run of 8 steps in `run/`; KEY=VALUE words replace or add to them."""

    def chosen(*changes: str) -> list[str]:
        words = {
            "name": "run",
            "output_dir": ".",
            "data.split": "cells_split.toml",
            "data.control": "control",
            "data.perturbation_features_file": "cells_features.npz",
            "trainer.max_steps": "8",
        }
        words |= dict(word.split("=", 1) for word in (*SMALL, *changes))
        return [f"{key}={value}" for key, value in words.items()]

    return chosen
