"""A resolved configuration as YAML that explains itself, and reads back equal."""

import json
import math
import re

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel

from training.config import Run
from training.config_schema import sections_last


def commented_yaml(config: Run) -> str:
    """Every setting with its sentence; those without effect in this run are comments that say why.

    Returns: YAML that `load_config` reads back to an equal configuration.
    """
    no_effect = {key: why for key, has_none, why in config.NO_EFFECT if has_none(config)}
    return "\n".join(_lines(config, "", no_effect)) + "\n"


def _lines(part: BaseModel, prefix: str, no_effect: dict[str, str]) -> list[str]:
    """A section's lines; those of a section below are indented."""
    lines = []
    for name, field in sections_last(type(part)).items():
        value = getattr(part, name)
        if isinstance(value, BaseModel):
            lines += ["", f"# {type(value).__doc__}", f"{name}:"]
            lines += [f"  {line}" if line else "" for line in _lines(value, f"{prefix}{name}.", no_effect)]
            continue
        why = no_effect.get(f"{prefix}{name}")
        lines.append(f"# {field.description}")
        lines.append(f"{name}: {_yaml(value)}" if why is None else f"# {name}: {_yaml(value)}  # no effect here: {why}")
    return lines


def _yaml(value: object) -> str:
    """A value in YAML, text in quotes only where it would be read as something else."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # `${a}` would be read as the value of `a`
    if _reads_as(text, value):
        return text
    quoted: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf)
    return quoted.rstrip("\n")


def _reads_as(text: str, value: str) -> bool:
    """Whether YAML reads the bare text as `value`, after a key and in a list."""
    try:
        return OmegaConf.to_container(OmegaConf.create(f"a: {text}\nb: [{text}]"), resolve=True) == {"a": value, "b": [value]}
    except (yaml.YAMLError, OmegaConfBaseException):
        return False
