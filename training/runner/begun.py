"""What is in a run directory before a start: nothing, this job's own run, or someone else's."""

from pathlib import Path

from training.errors import RunError, UserError
from training.runner.job import JobPaths
from training.runner.run_file import RunSettings, settings_of


def holds_files(run: Path) -> bool:
    """Whether there is anything in it but an empty folder of checkpoints."""
    empty = [run / "checkpoints"] if (run / "checkpoints").is_dir() and not any((run / "checkpoints").iterdir()) else []
    return run.is_symlink() or (run.exists() and list(run.iterdir()) != empty)


def began_as(paths: JobPaths, settings: RunSettings) -> bool:
    """Whether the run there was started with these settings."""
    latest = _latest_settings(paths)
    return latest is not None and (latest.name, latest.settings_sha256) == (settings.name, settings.settings_sha256)


def has_other_length(paths: JobPaths, settings: RunSettings) -> bool:
    """Whether passes are asked for, and the latest start was for another number: how many steps they are, only `fit` knows."""
    if settings.max_epochs is None:
        return False
    latest = _latest_settings(paths)
    return latest is not None and latest.max_epochs != settings.max_epochs


def _latest_settings(paths: JobPaths) -> RunSettings | None:
    config = paths.run / "config.yaml"
    if not config.is_file():
        return None
    try:
        return settings_of(config, paths.code)
    except (UserError, RunError):
        return None
