"""A run directory of `state tx train`, recognised as one: what a person with such a folder can do here."""

import os
import shlex
from pathlib import Path

import yaml

MARKS = ("var_dims.pkl", "data_module.torch", "pert_onehot_map.pt", "batch_onehot_map.pkl", "batch_onehot_map.torch")


def is_arc_run(folder: Path) -> bool:
    """Whether a folder is the run directory of a `state tx train`."""
    return os.path.isfile(folder / "config.yaml") and (
        any(os.path.isfile(folder / name) for name in MARKS) or _has_its_keys(folder)
    )


def what_to_do(folder: Path) -> str:
    """What it is, and what leads on from here."""
    command = f"training fit {shlex.quote(str(folder / 'config.yaml'))} name=ANOTHER_NAME"
    return (
        f"is a run directory of `state tx train`, whose checkpoints nothing reads here; "
        f"its settings can be trained anew: {command} (each key that means nothing here is named)"
    )


def _has_its_keys(folder: Path) -> bool:
    try:
        content = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    sections = [content.get(name) for name in ("data", "model")] if isinstance(content, dict) else []
    return any(isinstance(section, dict) and "kwargs" in section for section in sections)
