"""Files of a tabular run, and the one Lightning loop that a run of this task needs."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest

from training.tasks.tabular.arrays import TabularData, read_arrays
from training.tasks.tabular.batches import TabularBatches
from training.tasks.tabular.config import TabularConfig
from training.tasks.tabular.model import TabularSpec
from training.tasks.tabular.objective import MONITORED, Classification, build_objective
from training.tasks.tabular.outputs import PrintEpochs, WriteHistory, history_of
from training.tasks.tabular.pack import pack_table
from training.tasks.tabular.simulation import PROBABILITY, simulate_table
from training.trainer.early_stopping import EarlyStopping

ROOT = Path(__file__).parents[4]
REAL = ROOT.parent / "shared" / "data" / "titanic.csv"


def arrays(n_train: int = 40, n_val: int = 20, seed: int = 0) -> dict[str, Any]:
    """Arrays of both splits: three columns, the first of which decides, with noise."""
    rng = np.random.default_rng(seed)
    made: dict[str, Any] = {}
    for split, n in (("train", n_train), ("val", n_val)):
        x = rng.normal(size=(n, 3))
        made[f"X_{split}"], made[f"y_{split}"] = x, (x[:, 0] + 0.5 * rng.normal(size=n) > 0).astype(np.int64)
    return made


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write an `.npz` of the usual arrays, some of them changed, or left out where the change is None."""

    def written(name: str = "both.npz", **changes: Any) -> Path:
        kept = {key: value for key, value in (arrays() | changes).items() if value is not None}
        np.savez(tmp_path / name, **kept)
        return tmp_path / name

    return written


@pytest.fixture(scope="session")
def passengers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The two files of a made-up table of 891 rows."""
    folder = tmp_path_factory.mktemp("passengers")
    simulate_table(folder / "passengers.csv")
    packed = pack_table(folder / "passengers.csv", "Survived", folder, probability=PROBABILITY)
    return packed.train, packed.val


def config_of(files: tuple[Path, Path], output: Path, **sections: Any) -> TabularConfig:
    """A run of two files."""
    train, val = map(str, files)
    settings = {"task": "tabular", "name": "run", "output_dir": str(output), "data": {"train": train, "val": val}}
    return TabularConfig.model_validate({**settings, "trainer": {"device": "cpu"}, **sections})


@dataclass
class Trained:
    """What a run leaves in memory."""

    config: TabularConfig
    data: TabularData
    module: Classification
    stopping: EarlyStopping
    trainer: L.Trainer

    @property
    def history(self) -> list[float]:
        """Validation losses."""
        return history_of(self.config.directory / "eval_history.csv")


def fit(
    config: TabularConfig,
    data: TabularData | None = None,
    *,
    steps: int | None = None,
    checkpoint: Path | None = None,
    start: int = 0,
) -> Trained:
    """Train as the trainer of this project does, in `steps` steps of the run or all of it, from a checkpoint of step `start`."""
    config.directory.mkdir(parents=True, exist_ok=True)
    data = data or read_arrays(config.data)
    module = build_objective(config, TabularSpec(config.model, data.n_columns, data.columns))
    stopping = EarlyStopping(config.early_stopping, MONITORED, keeps_weights=config.early_stopping.restore_best)
    history = WriteHistory(config.directory / "eval_history.csv", start)
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_steps=steps or config.trainer.max_epochs, max_epochs=-1, val_check_interval=1,
        check_val_every_n_epoch=None, num_sanity_val_steps=0, logger=False, log_every_n_steps=1,
        callbacks=[stopping, PrintEpochs(config, stopping), history],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    batches = TabularBatches(data, config.trainer.max_epochs, start_step=start)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)  # Lightning's hints
        trainer.fit(module, datamodule=batches, ckpt_path=checkpoint, weights_only=True)
    return Trained(config, data, module, stopping, trainer)
