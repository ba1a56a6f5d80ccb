"""What is in a run directory before a start: nothing, this job's own run, or someone else's."""

from pathlib import Path

from training.checkpoints.manifest import fixed_settings
from training.config import RunConfig
from training.config_loader import load_config
from training.errors import UserError


def holds_files(run: Path) -> bool:
    """Whether there is anything in it but an empty folder of checkpoints."""
    empty = [run / "checkpoints"] if (run / "checkpoints").is_dir() and not any((run / "checkpoints").iterdir()) else []
    return run.is_symlink() or (run.exists() and list(run.iterdir()) != empty)


def began_as(run: Path, config: RunConfig) -> bool:
    """Whether the run there was started with the settings of `config`."""
    latest = _latest_config(run)
    return latest is not None and latest.name == config.name and fixed_settings(latest) == fixed_settings(config)


def has_other_length(run: Path, config: RunConfig) -> bool:
    """Whether `config` asks for passes, and the latest start was for another number: how many steps they are, only `fit` knows."""
    latest = _latest_config(run)
    epochs = config.trainer.max_epochs
    return epochs is not None and latest is not None and latest.trainer.max_epochs != epochs


def _latest_config(run: Path) -> RunConfig | None:
    if not (run / "config.yaml").is_file():
        return None
    try:
        return load_config(run / "config.yaml")
    except UserError:
        return None
