"""The files and lines that a user of the lesson's script expects of a run.

`metrics.json` has every key of that script and more. One value differs: `stopped_epoch` is the last epoch that was trained,
where the script repeats `best_epoch` whenever it restores the best weights.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from training.errors import RunError, UserError
from training.files import partial_file, write_text
from training.runner.bucket.bucket import open_bucket
from training.tasks.tabular.arrays import TabularData
from training.tasks.tabular.config import TabularConfig
from training.tasks.tabular.evaluation import TabularEvaluation, evaluate
from training.tasks.tabular.model import Mlp
from training.tasks.tabular.objective import MONITORED, Classification, measured, probabilities
from training.trainer.early_stopping import EarlyStopping

log = logging.getLogger(__name__)

HISTORY, STATE_DICT, METRICS = "eval_history.csv", "state_dict.pt", "metrics.json"
ARTIFACTS = ("training.log", HISTORY, "model.pt", STATE_DICT, METRICS)
"""What the lesson's script leaves in its output folder, and `state_dict.pt`; `metrics.json` is copied last."""


def write_results(
    config: TabularConfig, data: TabularData, module: Classification, stopping: EarlyStopping, last_epoch: int
) -> TabularEvaluation:
    """Judge the weights that are kept, and write `state_dict.pt` and `metrics.json` into the run directory.

    Afterwards `module` has these weights. The last lines are the `validation_*` lines of these weights, and the verdict.

    Raises: RunError if the disk is full.
    """
    stopping.restore(module)
    model = module.model
    chose = config.early_stopping.restore_best or last_epoch < config.trainer.max_epochs
    evaluation = evaluate(probabilities(model, data.val), data, chose)
    metrics = metrics_of(config, data, model, stopping, last_epoch, evaluation)
    save_state_dict(model, config.directory / STATE_DICT)
    write_metrics(config.directory / METRICS, metrics)
    for line in validation_lines(metrics["final_val_loss"], metrics["final_val_accuracy"]):
        log.info("%s", line)
    log.info("%s", evaluation.verdict)
    return evaluation


def validation_lines(loss: float, accuracy: float) -> tuple[str, str]:
    """The two lines that a hyperparameter job looks for, each to be printed alone."""
    return f"validation_loss: {loss:.6f}", f"validation_accuracy: {accuracy:.6f}"


class PrintEpochs(Callback):
    """Prints the first, every `log_every_steps`-th, the last and each improved epoch. Stands behind `EarlyStopping`."""

    def __init__(self, config: TabularConfig, stopping: EarlyStopping) -> None:
        self.config, self.stopping = config, stopping

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Three lines, as the lesson's script prints them."""
        assert isinstance(module, Classification)
        epoch, last = trainer.global_step, self.config.trainer.max_epochs
        shown = epoch in (1, last) or epoch % self.config.trainer.log_every_steps == 0 or self.stopping.improved
        if trainer.sanity_checking or not shown:
            return
        loss, accuracy = module.validated[MONITORED], module.validated["val/accuracy"]
        trained = module.trained.get("train/loss_total")  # none before the first step of a process: a resume may validate first
        told = "" if trained is None else f" loss={float(trained):.4f}"
        log.info("epoch=%d%s val_loss=%.4f val_acc=%.4f", epoch, told, loss, accuracy)
        for line in validation_lines(loss, accuracy):
            log.info("%s", line)


class WriteHistory(Callback):
    """A row of eval_history.csv an epoch: `iter,val_loss`.

    Args:
        path: Of the file.
        start_step: Steps before a resume; later rows, of an attempt that was broken off, are dropped.
    """

    def __init__(self, path: Path, start_step: int = 0) -> None:
        self.path, self.start_step = path, start_step

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Write the header, or drop the rows that are trained again."""
        rows = history_of(self.path)[: self.start_step] if self.start_step else []
        write_text(self.path, "iter,val_loss\n" + "".join(f"{i},{value!r}\n" for i, value in enumerate(rows, 1)))

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Append a row."""
        assert isinstance(module, Classification)
        if not trainer.sanity_checking:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{trainer.global_step},{module.validated[MONITORED]!r}\n")


def history_of(path: Path) -> list[float]:
    """The validation losses of `eval_history.csv`, epoch by epoch."""
    lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else []
    return [float(line.partition(",")[2]) for line in lines if line]


def metrics_of(
    config: TabularConfig,
    data: TabularData,
    model: Mlp,
    stopping: EarlyStopping,
    last_epoch: int,
    evaluation: TabularEvaluation | None = None,
) -> dict[str, Any]:
    """The content of `metrics.json`: the lesson's keys, names of the columns, and the evaluation.

    `model` has the weights that are kept; `last_epoch` is the last that was trained.
    """
    loss, accuracy = measured(model, data.val)
    device = next(model.parameters()).device.type
    seed: dict[str, Any] = {
        "final_val_loss": loss,
        "final_val_accuracy": accuracy,
        "best_val_loss": stopping.best_value if stopping.best_step else None,
        "best_epoch": stopping.best_step,
        "stopped_epoch": last_epoch,
        "patience": config.early_stopping.patience,
        "min_delta": config.early_stopping.min_delta,
        "restore_best": config.early_stopping.restore_best,
        "max_epochs_requested": config.trainer.max_epochs,
        "learning_rate": config.optim.lr,
        "train_rows": len(data.train),
        "val_rows": len(data.val),
        "features": list(range(data.n_columns)),
        "model_uri": str(config.directory / "model.pt"),
        "device": device,
        "feature_names": None if data.columns is None else list(data.columns),
    }
    return seed | ({} if evaluation is None else evaluation.to_plain())


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Write `metrics.json`, whole or not at all."""
    write_text(path, json.dumps(metrics, indent=1, allow_nan=False) + "\n")


def save_state_dict(model: Mlp, path: Path) -> None:
    """Write the weights alone, as `TitanicNet.load_state_dict(torch.load(path))` of the lesson reads them.

    Raises: RunError if the disk is full.
    """
    try:
        with partial_file(path) as partial:
            torch.save({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}, partial)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise RunError(f"{path}: could not be written ({' '.join(str(error).split())}); the checkpoints are intact") from error


def copy_artifacts(run_directory: Path, to: str) -> list[str]:
    """Copy the files that the lesson's script leaves to a folder, or to `gs://BUCKET/PREFIX`; those that exist are replaced.

    Returns: where each is now.
    Raises: UserError if `to` cannot be written; RunError if a bucket cannot be reached.
    """
    present = [name for name in ARTIFACTS if (run_directory / name).is_file()]
    if "://" in to:
        bucket = open_bucket(to)
        for name in present:
            bucket.upload(run_directory / name, name)
        return [f"{to.rstrip('/')}/{name}" for name in present]
    folder = Path(to)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in present:
            with partial_file(folder / name) as partial:
                shutil.copyfile(run_directory / name, partial)
    except OSError as error:
        raise UserError(f"{to}: the results cannot be written there: {error.strerror}; they stand in {run_directory}") from None
    return [str(folder / name) for name in present]
