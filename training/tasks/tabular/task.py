"""The tabular task: rows of a table are classified, as the script of the lesson does it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from training.cells import RunLength
from training.checkpoints.manifest import Checkpoint, newest_intact
from training.checkpoints.model_file import PAYLOAD, SavedModel, load_checkpoint_model
from training.checkpoints.run_directory import RunDirectory
from training.checkpoints.settings import settings_of
from training.checkpoints.trained_model import model_at
from training.errors import RunError, UserError
from training.plan import Prepared
from training.reporting.curves import Panel
from training.reporting.html import missing, number, read_json, table
from training.tasks.tabular.arrays import TabularData, read_arrays
from training.tasks.tabular.batches import Batch, TabularBatches, batch_of
from training.tasks.tabular.config import TabularConfig
from training.tasks.tabular.evaluation import evaluate
from training.tasks.tabular.model import Mlp, TabularSpec
from training.tasks.tabular.objective import MONITORED, Classification, build_objective, probabilities
from training.tasks.tabular.outputs import HISTORY, METRICS, PrintEpochs, WriteHistory, write_metrics, write_results
from training.tasks.task import Task
from training.text import some
from training.trainer.early_stopping import EarlyStopping
from training.trainer.fit import Habits

TabularRun = Prepared[TabularConfig, TabularData]


class TabularTask(Task[TabularConfig, TabularData]):
    """Two classes of the rows of a table."""

    name = "tabular"
    panels = (
        Panel("Loss: binary cross-entropy", ("*/loss_total",)),
        Panel("Accuracy, validation", ("val/accuracy",)),
        Panel("Norm of the gradient, before clipping", ("train/gradient_norm",)),
    )

    def open(self, config: TabularConfig) -> TabularData:
        """The rows. Raises: UserError for arrays that cannot be trained on."""
        return read_arrays(config.data)

    def fingerprint(self, data: TabularData) -> str:
        """Of the arrays' content."""
        return data.fingerprint

    def summary(self, data: TabularData) -> str:
        """Rows and columns."""
        return data.summary()

    def record(self, data: TabularData) -> dict[str, Any]:
        """Numbers of rows and columns."""
        return {"train_rows": len(data.train), "val_rows": len(data.val), "n_columns": data.n_columns}

    def length(self, config: TabularConfig, data: TabularData) -> RunLength:
        """A step an epoch."""
        return RunLength(config.trainer.max_epochs, 1, config.trainer.log_every_steps)

    def spec(self, config: TabularConfig, data: TabularData) -> TabularSpec:
        """The widths, and the names of the columns."""
        return TabularSpec(config.model, data.n_columns, data.columns)

    def plan(self, prepared: TabularRun) -> Sequence[tuple[str, str]]:
        """Rows per step, length and parameters."""
        config, data = prepared.config, prepared.data
        parameters = sum(p.numel() for p in prepared.spec.build().parameters())
        patience = config.early_stopping.patience
        return [
            ("rows per step", f"{len(data.train):,} (all)"),
            ("steps", f"at most {prepared.length.total_steps:,}; {patience} without an improvement end the run"),
            ("input", f"{data.n_columns:,} columns"),
            ("parameters", f"{parameters:,}"),
        ]

    def objective(self, prepared: TabularRun) -> Classification:
        """The untrained classifier."""
        return build_objective(prepared.config, cast(TabularSpec, prepared.spec))

    def batches(self, prepared: TabularRun, start_step: int) -> TabularBatches:
        """Full batches."""
        return TabularBatches(prepared.data, prepared.length.total_steps, start_step=start_step)

    def first_batch(self, prepared: TabularRun) -> Batch:
        """All training rows."""
        return batch_of(prepared.data.train, torch.device("cpu"))

    def habits(self, prepared: TabularRun, directory: RunDirectory, checkpoint: Checkpoint | None) -> Habits:
        """Early stopping keeps the best weights itself; the history has the lesson's columns."""
        stopping = _stopping(prepared.config)
        history = WriteHistory(directory.path / HISTORY, checkpoint.step if checkpoint else 0)
        return Habits(validates=True, callbacks=(stopping, PrintEpochs(prepared.config, stopping), history), saves_best=False)

    def kept(self, prepared: TabularRun, directory: RunDirectory) -> SavedModel:
        """The weights of the best epoch as early stopping counts it, or those of the last."""
        checkpoint, stopping = _stopping_of(prepared.config, directory)
        if stopping.weights is None or not prepared.config.early_stopping.restore_best:
            return load_checkpoint_model(checkpoint.folder / PAYLOAD, checkpoint.manifest.val_loss_total)
        weights = {name.removeprefix("model."): tensor for name, tensor in stopping.weights.items()}
        return SavedModel(prepared.spec, weights, stopping.best_step, stopping.best_value)

    def finish(self, prepared: TabularRun, directory: RunDirectory, model: SavedModel) -> None:
        """Write the bare weights and metrics.json, and say the verdict."""
        checkpoint, stopping = _stopping_of(prepared.config, directory)
        module = self.objective(prepared)
        module.model.load_state_dict(model.weights)
        if prepared.device == "gpu":
            module.cuda()
        write_results(prepared.config, prepared.data, module, stopping, checkpoint.step)

    def evaluate(self, run: Path, overrides: list[str], split: str | None, which: str | None) -> str:
        """Judge a trained model on the validation rows again, which may be those of another file (`data.val=`)."""
        if split not in (None, "val"):
            raise UserError(f"--split {split}: task tabular has no such rows (accepted: val)")
        directory = RunDirectory(run)
        config, saved = directory.config(overrides), model_at(directory, which)
        assert isinstance(config, TabularConfig)
        before = settings_of(directory.config())
        for key, value in settings_of(config).items():
            if value != before[key] and not key.startswith("data."):
                raise UserError(
                    f"command line: {key}: {value} would have no effect: the model is trained (accepted: data.train, data.val)"
                )
        data, model = read_arrays(config.data), saved.build()
        assert isinstance(model, Mlp)
        if data.n_columns != cast(TabularSpec, saved.spec).n_columns:
            raise UserError(
                f"{config.data.val}: has {data.n_columns} columns (accepted: {cast(TabularSpec, saved.spec).n_columns})"
            )
        names = cast(TabularSpec, saved.spec).columns
        if None not in (names, data.columns) and names != data.columns:
            raise UserError(
                f"{config.data.val}: its columns are {some(data.columns or ())} (accepted, in this order: {some(names or ())})"
            )
        judged = evaluate(probabilities(model, data.val), data, rows_chose_the_epoch=True)
        write_metrics(run / METRICS, read_json(run / METRICS) | judged.to_plain())
        return judged.verdict

    def sections(self, run: Path) -> Sequence[tuple[str, str]]:
        """The figures of metrics.json."""
        metrics = read_json(run / METRICS)
        if "model" not in metrics:
            return [("Metrics", missing("No metrics.json yet."))]
        figures = {"model": metrics["model"], **metrics["baselines"]}
        if metrics.get("ceiling"):
            figures["true_probabilities"] = metrics["ceiling"]
        rows = [(name, [name.replace("_", " "), *_cells(values)]) for name, values in figures.items()]
        text = f"<p>On {metrics['n_rows']:,} validation rows; in brackets, 95 % intervals.</p>"
        return [("Metrics", text + table(["", "accuracy (higher)", "log loss (lower)"], rows))]


def _cells(values: dict[str, Any]) -> list[str]:
    return [
        f"{number(values[name])} ({number(values[f'{name}_interval'][0])} to {number(values[f'{name}_interval'][1])})"
        for name in ("accuracy", "log_loss")
    ]


def _stopping(config: TabularConfig) -> EarlyStopping:
    return EarlyStopping(config.early_stopping, MONITORED, keeps_weights=config.early_stopping.restore_best)


def _stopping_of(config: TabularConfig, directory: RunDirectory) -> tuple[Checkpoint, EarlyStopping]:
    """The newest checkpoint, and early stopping as it was then."""
    checkpoint = newest_intact(directory.checkpoints)
    if checkpoint is None:
        raise RunError(f"{directory.checkpoints}: no intact checkpoint is left of this run (start anew: overwrite=true)")
    stopping = _stopping(config)
    payload = torch.load(checkpoint.folder / PAYLOAD, map_location="cpu", weights_only=True)
    stopping.load_state_dict(payload["callbacks"][stopping.state_key])
    return checkpoint, stopping


TASK = TabularTask()
