"""Which settings a resumed run must share with its first start, and their hash in every manifest."""

import hashlib
import json
from collections.abc import Iterator

from training.config import Run


def fixed_settings(config: Run) -> dict[str, str]:
    """Dotted key -> value as JSON, for the settings that a resumed run must share with its beginning.

    The paths of split and features may change, their content is in the data's fingerprint.
    """
    return {key: value for key, value in settings_of(config).items() if key not in config.MAY_CHANGE}


def settings_of(config: Run) -> dict[str, str]:
    """Dotted key -> value as JSON."""
    return dict(_settings(config.model_dump(mode="json")))


def config_sha256(config: Run) -> str:
    """Hash of the settings that a resumed run must share with its beginning."""
    former = {now: before for before, now in config.RENAMED.items()}
    fixed = fixed_settings(config)
    settings = {former.get(key, key): value for key, value in fixed.items() if config.AS_BEFORE.get(key) != value}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def for_runner(config: Run) -> dict[str, str | int | float | None]:
    """What `training show-config --json` prints, and training/runner/run_file.py reads."""
    return {
        "name": config.name,
        "settings_sha256": config_sha256(config),
        "max_steps": config.trainer.max_steps,
        "max_epochs": config.trainer.max_epochs,
        "early_stopping": config.early_stopping.rule,
        "device": config.trainer.device,
    }


def _settings(values: dict[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value)
