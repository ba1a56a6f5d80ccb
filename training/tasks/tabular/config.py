"""Settings of a tabular run: a classifier of rows with two classes, trained on `.npz` files. Imports no torch.

The defaults are those of the script that this task follows; `lesson_command.py` reads its command line.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from training.config import EarlyStoppingConfig, OptimConfig, Part, Positive, Row, Run

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


class TabularEarlyStoppingConfig(EarlyStoppingConfig):
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

    @property
    def max_steps(self) -> int:
        """An epoch is a step."""
        return self.max_epochs

    @property
    def val_every_steps(self) -> int:
        """Every step validates."""
        return 1

    @property
    def precision(self) -> str:
        """In 32 bit."""
        return "32"


class TabularConfig(Run):
    """One run of the task tabular."""

    task: Literal["tabular"] = "tabular"
    """What is trained; it decides which settings there are."""
    trainer: FullBatchTrainerConfig = FullBatchTrainerConfig()
    data: ArraysConfig
    model: MlpConfig = MlpConfig()
    optim: TabularOptimConfig = TabularOptimConfig()
    early_stopping: TabularEarlyStoppingConfig = TabularEarlyStoppingConfig()

    NO_EFFECT: ClassVar[tuple[Row["TabularConfig"], ...]] = (
        ("optim.min_lr_fraction", lambda c: c.optim.schedule == "constant", "optim.schedule is constant"),
        ("early_stopping.patience",
         lambda c: c.early_stopping.patience >= c.trainer.max_epochs, "trainer.max_epochs ends the run before it can run out"),
    )  # fmt: skip
    MAY_CHANGE = Run.MAY_CHANGE | {"data.train", "data.val"}

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """The files of training and validation rows."""
        return (("data.train", self.data.train), ("data.val", self.data.val))

    @property
    def varies_with_length(self) -> bool:
        """As its schedule does."""
        return self.optim.varies


RUN = TabularConfig
