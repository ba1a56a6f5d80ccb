"""Which settings a resumed run must share with its first start, and their hash in every manifest."""

import hashlib
import json
from collections.abc import Iterator

from training.config import RunConfig

# A resumed run may differ from its beginning in these: they name places, cadences and lengths, and leave the weights of a
# given step alone (the length does not, under a cosine; whoever lengthens such a run knows it).
MAY_CHANGE = frozenset({
    "name", "output_dir", "resume", "overwrite", "data.split", "data.perturbation_features_file", "data.num_workers",
    "data.prefetch_batches", "trainer.max_steps", "trainer.max_epochs", "trainer.device", "trainer.log_every_steps",
    "checkpoints.every_steps", "checkpoints.keep_last",
})  # fmt: skip


# Settings that came later, with the values (as JSON) under which a run is what it was without them: they do not change its hash.
AS_BEFORE = {"evaluation.seed": "0", "evaluation.control_fraction": "null", "data.separator": '"+"'}


def fixed_settings(config: RunConfig) -> dict[str, str]:
    """Dotted key -> value as JSON, for the settings that a resumed run must share with its beginning.

    The paths of split and features may change, their content is in the data's fingerprint.
    """
    return {key: value for key, value in settings_of(config).items() if key not in MAY_CHANGE}


def settings_of(config: RunConfig) -> dict[str, str]:
    """Dotted key -> value as JSON."""
    return dict(_settings(config.model_dump(mode="json")))


def config_sha256(config: RunConfig) -> str:
    """Hash of the settings that a resumed run must share with its beginning."""
    settings = {key: value for key, value in fixed_settings(config).items() if AS_BEFORE.get(key) != value}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def for_runner(config: RunConfig) -> dict[str, str | int | float | None]:
    """What `training show-config --json` prints, and training/runner/run_file.py reads."""
    return {
        "name": config.name,
        "settings_sha256": config_sha256(config),
        "max_steps": config.trainer.max_steps,
        "max_epochs": config.trainer.max_epochs,
        "device": config.trainer.device,
    }


def _settings(values: dict[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value)
