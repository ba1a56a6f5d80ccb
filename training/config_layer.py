"""One source of settings, read: which of its keys are ours, and a line for each that is nobody's."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from training.arc_keys import Claim, Setting, Translation, as_typed, has_keys_of_state, our_key, shown, translate
from training.config_schema import PRESET, Schema, tasks_with
from training.errors import did_you_mean, nearest


@dataclass
class Layer:
    """One source of settings: where they stand, and they by dotted key."""

    origin: str
    settings: dict[str, Setting]
    is_shared: bool = False
    """Whether other runs share it (a preset, an extended file), so that a setting without effect here is no mistake."""
    claims: tuple[Claim, ...] = ()
    """What it says of the run in words of `state tx train`, without setting anything."""
    refusals: list[str] = field(default_factory=list)
    """A line for each key that is refused whatever the other layers say."""
    is_misread: bool = False
    """Whether its settings without those keys are not what was meant, so that what follows from them is not worth saying."""

    def named(self, key: str) -> str:
        """Where `key` stands, and how it was written there: `command line: training.lr (here optim.lr)`."""
        setting = self.settings[key]
        here = "" if self.is_ours(key) else f" (here {key})"
        return f"{self.origin}: {setting.typed}{here}"

    def is_ours(self, key: str) -> bool:
        """Whether `key` was written in our words."""
        setting = self.settings[key]
        return setting.typed.lstrip("+") in (key, setting.key)

    def refuse(self, why: str) -> None:
        """Add a line about a key that stands for one of ours."""
        self.refusals.append(f"{self.origin}: {why}")
        self.is_misread = True


def layer_of(schema: Schema, origin: str, pairs: Iterable[tuple[str, Any]], is_shared: bool = False) -> Layer:
    """The (key as typed, value) pairs of one source, judged key by key."""
    translated = _translated(schema, list(pairs))
    settings: dict[str, Setting] = {}
    refused = [f"{origin}: {line}" for line in translated.refusals]
    layer = Layer(origin, settings, is_shared, tuple(translated.claims), refused, translated.is_misread)
    for setting in translated.settings:
        setting = setting._replace(key=schema.run.RENAMED.get(setting.key, setting.key))
        key = PRESET if schema.names_preset(setting.key, setting.value) else setting.key
        if key in settings:
            both = " and ".join(f"{s.typed}={shown(s.value)}" for s in (settings[key], setting))
            layer.refuse(f"{key} is set twice: {both}; leave one out")
        else:
            settings[key] = setting
    for key in list(settings):
        if not schema.has(key, settings[key].value):
            named = layer.named(key).removeprefix(f"{origin}: ")
            layer.refuse(f"{named}: {_why_no_key(schema, key, settings[key].value)}")
            del settings[key]
    return layer


def is_text(schema: Schema, typed: str) -> bool:
    """Whether the key, as it was typed, is that of a field that takes any text."""
    field = schema.fields.get(typed.lstrip("+"))
    if field is None and schema.run.ACCEPTS_STATE_KEYS:
        field = schema.fields.get(our_key(typed) or "")
    return field is not None and str in (field.annotation, *get_args(field.annotation))


def _translated(schema: Schema, pairs: Sequence[tuple[str, Any]]) -> Translation:
    if schema.run.ACCEPTS_STATE_KEYS and has_keys_of_state(pairs, schema.has):
        return translate(pairs, schema.has)
    return as_typed(pairs)


def _why_no_key(schema: Schema, key: str, value: Any) -> str:
    """Why a key with this value is none of the schema."""
    if schema.names_preset(key, value):
        near = did_you_mean(str(value), schema.presets)
        return f"{shown(value)}: no such preset{near} (accepted: {', '.join(schema.presets)})"
    if key in schema.sections:
        return f"{shown(value)} is a value, but {key} is a section of keys"
    if tasks := tasks_with(key):
        others = " and ".join(tasks)
        return f"unknown key (value {shown(value)}): {key} is a key of task {others}, and the task of this run is {schema.task}"
    section, _, _ = key.rpartition(".")
    beside = [known for known in (*schema.fields, *schema.sections) if known.rpartition(".")[0] == section]
    return f"unknown key (value {shown(value)}){_nearest(schema, key)} (accepted: {', '.join(beside or schema.sections)})"


def _nearest(schema: Schema, key: str) -> str:
    """The nearest field by its last word: of the same section, then of the same name elsewhere, then of all."""
    section, _, last = key.rpartition(".")
    beside = {known.rpartition(".")[2]: known for known in schema.fields if known.rpartition(".")[0] == section}
    everywhere = {known.rpartition(".")[2]: known for known in reversed(list(schema.fields))}
    same = {last: everywhere[last]} if last in everywhere else {}
    for candidates in (beside, same, everywhere):
        for near in nearest(last, candidates):
            return f"; did you mean {candidates[near]}?"
    return ""
