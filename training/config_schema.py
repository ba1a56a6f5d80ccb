"""The fields of one task's run by dotted key, as the loader asks for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from training.config import Run
from training.registry import TASKS, run_schema

CONFIGS = Path(__file__).parent.parent / "configs"
LENGTHS = ("trainer.max_steps", "trainer.max_epochs")
"""Two fields of which a run sets exactly one."""
PRESET = "model.preset"
"""The key that names a preset; `model` with a name as its value is short for it."""


@dataclass(frozen=True)
class Schema:
    """What a run file of one task may say."""

    run: type[Run]
    fields: Mapping[str, FieldInfo]
    """Dotted key -> field."""
    sections: tuple[str, ...]
    """Dotted keys of what holds fields."""
    required: tuple[str, ...]
    """Fields without a default, and the lengths."""
    presets: Mapping[str, Path]
    """What `model: NAME` may name -> its file."""

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.fields["task"].default)

    @property
    def default_run(self) -> Path:
        """The run file that is taken where none is named."""
        return CONFIGS / self.run.DEFAULT_RUN

    def has(self, key: str, value: Any) -> bool:
        """Whether there is such a field, such a preset, or such a section for a value that is one."""
        if self.names_preset(key, value):
            return isinstance(value, str) and value in self.presets
        key = self.run.RENAMED.get(key, key)
        return key in self.fields or (key in self.sections and (value is None or isinstance(value, Mapping)))

    def names_preset(self, key: str, value: Any) -> bool:
        """Whether the setting is meant as the choice of a preset."""
        return bool(self.presets) and (key == PRESET or (key == "model" and isinstance(value, str)))


@cache
def schema_of(run: type[Run]) -> Schema:
    """The schema of a run class."""
    fields = _fields(run)
    sections = tuple(dict.fromkeys(key[:i] for key in fields for i, letter in enumerate(key) if letter == "."))
    required = (*(key for key, field in fields.items() if field.is_required()), *(key for key in LENGTHS if key in fields))
    presets = {path.stem: path for path in sorted((CONFIGS / run.PRESETS).glob("*.yaml"))} if run.PRESETS else {}
    return Schema(run, fields, sections, required, presets)


def tasks_with(key: str) -> list[str]:
    """The tasks whose runs have a field or section of this key."""
    schemas = {task: schema_of(run_schema(task)) for task in TASKS}
    return [task for task, schema in schemas.items() if key in schema.fields or key in schema.sections]


def sections_last(part: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a section or a run in the order in which they are read: values, a task's own sections, those of every task."""

    def rank(name: str) -> tuple[bool, bool]:
        is_section = _section(part.model_fields[name]) is not None
        return is_section, is_section and name in Run.model_fields

    return {name: part.model_fields[name] for name in sorted(part.model_fields, key=rank)}


def _fields(part: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    found: dict[str, FieldInfo] = {}
    for name, field in sections_last(part).items():
        section = _section(field)
        found |= {f"{prefix}{name}": field} if section is None else _fields(section, f"{prefix}{name}.")
    return found


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
