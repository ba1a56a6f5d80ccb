"""Settings of a tabular run: a classifier of rows with two classes, trained on `.npz` files. Imports no torch.

The defaults are those of the script that this task follows; `lesson_command.py` reads its command line.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from training.config import CheckpointsConfig, OptimConfig, Part, Positive, Word

LESSON_MAX_EPOCHS, LESSON_LR, LESSON_PATIENCE, LESSON_MIN_DELTA = 1000, 1e-4, 10, 1e-3
"""Defaults of the lesson's script."""


class ArraysConfig(Part):
    """Which rows are trained on and validated on."""

    train: Annotated[str, Field(min_length=1)]
    """`.npz` file with `X_train` and `y_train`: a path, or `gs://BUCKET/NAME.npz`."""
    val: Annotated[str, Field(min_length=1)]
    """`.npz` file with `X_val` and `y_val`; may be the same file."""

    @field_validator("train", "val")
    @classmethod
    def _known_place(cls, value: str) -> str:
        if "://" in value and not value.startswith(("gs://", "file://")):
            raise ValueError("accepted: a path, gs://BUCKET/NAME.npz or file:///FOLDER/NAME.npz")
        return value


class MlpConfig(Part):
    """The multilayer perceptron: linear layers with ReLU between them, and one probability at the end."""

    kind: Literal["mlp"] = "mlp"
    """Multilayer perceptron."""
    hidden_dims: Annotated[tuple[Positive, ...], Field(strict=False)] = (64, 32)
    """Widths of the hidden layers."""


class TabularOptimConfig(OptimConfig):
    """AdamW, which without weight decay is Adam; defaults: no decay and no clipping."""

    lr: Annotated[float, Field(gt=0)] = LESSON_LR
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    gradient_clip_norm: Annotated[float, Field(ge=0)] = 0.0
    """L2 norm above which the gradient is scaled down; 0 never does."""


class EarlyStoppingConfig(Part):
    """When a run ends before its last epoch, and which weights it keeps."""

    patience: Positive = LESSON_PATIENCE
    """Epochs without an improvement after which the run ends [epochs]."""
    min_delta: Annotated[float, Field(ge=0)] = LESSON_MIN_DELTA
    """A validation loss improves only if it is more than this below the best."""
    restore_best: bool = True
    """Whether the weights of the best epoch are kept, rather than those of the last."""


class FullBatchTrainerConfig(Part):
    """How long and on what. A step is one batch of all training rows, an epoch is one step, and every epoch validates."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where the run computes; `auto` takes a GPU if there is one."""
    max_epochs: Positive = LESSON_MAX_EPOCHS
    """Upper limit of the length of the run [epochs]."""
    log_every_steps: Positive = 10
    """Distance between logged training values and between printed epochs; improved epochs are printed too [epochs]."""


class TabularConfig(Part):
    """One tabular run, whole."""

    task: Literal["tabular"]
    """The task."""
    name: Annotated[Word, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=-]*$", max_length=100)]
    """Name of the run; its folder is `output_dir/name`."""
    output_dir: str = "runs"
    """Folder that holds the folders of runs."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 42
    """Seed of everything random; the same seed, data and configuration give the same weights."""
    resume: bool = False
    """Whether to go on from the highest complete checkpoint of a run that has begun."""
    overwrite: bool = False
    """Whether to delete a run of this name that has begun."""
    data: ArraysConfig
    model: MlpConfig = MlpConfig()
    optim: TabularOptimConfig = TabularOptimConfig()
    trainer: FullBatchTrainerConfig = FullBatchTrainerConfig()
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()

    @property
    def directory(self) -> Path:
        """The run's folder."""
        return Path(self.output_dir).expanduser() / self.name


# A setting that cannot take effect in the run at hand is refused where the user wrote it: (key, idle when, why).
IDLE: tuple[tuple[str, Callable[[TabularConfig], bool], str], ...] = (
    ("optim.min_lr_fraction", lambda c: c.optim.schedule == "constant", "optim.schedule is constant"),
    ("early_stopping.patience",
     lambda c: c.early_stopping.patience >= c.trainer.max_epochs, "trainer.max_epochs ends the run before it can run out"),
)  # fmt: skip

# Settings that contradict each other, whoever wrote them: (key, when, why).
CONTRADICTIONS: tuple[tuple[str, Callable[[TabularConfig], bool], str], ...] = (
    ("output_dir", lambda c: "://" in c.output_dir, "a folder of this machine is wanted"),
    ("resume", lambda c: c.resume and c.overwrite, "resume and overwrite exclude each other"),
)
