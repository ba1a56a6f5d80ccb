"""A run of the task perturbation from its file, typed as one."""

from collections.abc import Sequence
from pathlib import Path

from training import config_loader
from training.config import RunConfig


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """What the loader returns, where it is known to be a run of this task."""
    config = config_loader.load_config(path, overrides)
    assert isinstance(config, RunConfig)
    return config
