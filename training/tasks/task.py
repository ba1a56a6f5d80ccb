"""What a task answers. `run.py` knows no more of it than this."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic

import lightning as L

from training.cells import RunLength
from training.checkpoints.manifest import Checkpoint
from training.checkpoints.model_file import SavedModel
from training.checkpoints.run_directory import RunDirectory
from training.checkpoints.trained_model import model_at
from training.errors import UserError
from training.models.spec import ModelSpec
from training.plan import Config, Data, Prepared
from training.registry import part
from training.reporting.curves import Panel
from training.trainer.early_stopping import EarlyStopping
from training.trainer.fit import Habits
from training.trainer.objective import MONITORED, Objective
from training.trainer.validation import ValidationHistory


class Task(ABC, Generic[Config, Data]):
    """Which data, which model, what is minimised, how it is judged.

    A task's package has `config` (its schema), `spec` (what rebuilds its model) and `task` (an object of this class, `TASK`).
    """

    name: ClassVar[str]
    panels: ClassVar[Sequence[Panel]]
    """The curves of its report."""

    @abstractmethod
    def open(self, config: Config) -> Data:
        """Its data, checked. Raises: UserError for data that cannot be trained on."""

    @abstractmethod
    def fingerprint(self, data: Data) -> str:
        """Of the data's content, wherever it lies."""

    @abstractmethod
    def summary(self, data: Data) -> str:
        """The data for people."""

    @abstractmethod
    def record(self, data: Data) -> dict[str, Any]:
        """What run.json keeps of the data and its split: plain values."""

    @abstractmethod
    def length(self, config: Config, data: Data) -> RunLength:
        """The run in optimizer steps."""

    @abstractmethod
    def spec(self, config: Config, data: Data) -> ModelSpec:
        """What the model is, without weights."""

    @abstractmethod
    def plan(self, prepared: Prepared[Config, Data]) -> Sequence[tuple[str, str]]:
        """What the settings come to on these data: rows of name and text."""

    @abstractmethod
    def objective(self, prepared: Prepared[Config, Data]) -> Objective:
        """The untrained model with what is minimised; its weights are a function of the seed."""

    @abstractmethod
    def batches(self, prepared: Prepared[Config, Data], start_step: int) -> L.LightningDataModule:
        """Training batches from the first micro-step of `start_step` on, and validation batches."""

    @abstractmethod
    def first_batch(self, prepared: Prepared[Config, Data]) -> Any:
        """The first training batch."""

    def validates(self, config: Config) -> bool:
        """Whether a run validates."""
        return True

    def habits(self, prepared: Prepared[Config, Data], directory: RunDirectory, checkpoint: Checkpoint | None) -> Habits:
        """How its training loop differs from the usual one."""
        stopping = prepared.config.early_stopping
        ends = () if stopping.patience is None else (EarlyStopping(stopping, MONITORED),)
        return Habits(validates=self.validates(prepared.config), callbacks=(ValidationHistory(directory), *ends))

    def kept(self, prepared: Prepared[Config, Data], directory: RunDirectory) -> SavedModel:
        """The weights that become model.pt: those of the best checkpoint."""
        return model_at(directory, "best")

    def finish(self, prepared: Prepared[Config, Data], directory: RunDirectory, model: SavedModel) -> None:
        """Write what the task leaves in the run directory beside model.pt."""

    def sections(self, run: Path) -> Sequence[tuple[str, str]]:
        """Its parts of the report, as heading and HTML."""
        return ()

    # --- verbs that not every task has ---

    def check_first(self, config: Config, write_features: Path) -> None:
        """Write a features file before a check."""
        raise self.has_no("check --write-features")

    def predict(
        self, run: Path, overrides: list[str], output: Path, split: str | None, table: Path | None, which: str | None
    ) -> None:
        """Write predictions of a trained model."""
        raise self.has_no("predict")

    def evaluate(self, run: Path, overrides: list[str], split: str | None, which: str | None) -> str:
        """Judge a trained model beside baselines; write metrics.json. Returns: the verdict."""
        raise self.has_no("evaluate")

    @property
    def can_evaluate(self) -> bool:
        """Whether it has the verb evaluate."""
        return type(self).evaluate is not Task.evaluate

    def has_no(self, verb: str) -> UserError:
        """The refusal of a verb that this task does not have."""
        return UserError(f"training {verb}: task {self.name} has no such verb")


def task_of(config: Config) -> Task[Config, Any]:
    """The task of a run."""
    task: Task[Config, Any] = part(config.task, "task").TASK
    return task


def prepare(task: Task[Config, Data], config: Config, device: str) -> Prepared[Config, Data]:
    """Resolve a run.

    Raises: UserError for data that cannot be trained on.
    """
    data = task.open(config)
    return Prepared(config, data, task.fingerprint(data), task.length(config, data), task.spec(config, data), device)
