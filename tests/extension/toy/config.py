"""The run file of the toy task."""

from typing import Literal

from training.config import OptimConfig, Part, Run, TrainerConfig


class LineConfig(Part):
    """Points of a line."""

    n_points: int = 64
    """Points [points]."""
    slope: float = 3.0
    """Of the line."""


class ToyConfig(Run):
    """One run of the toy task."""

    task: Literal["toy"] = "toy"
    """The toy."""
    trainer: TrainerConfig
    data: LineConfig = LineConfig()
    optim: OptimConfig = OptimConfig()


RUN = ToyConfig
