"""One source of settings, read: which of its keys are ours, and a line for each that is nobody's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from training.arc_keys import Claim, Setting, our_key, shown, translate
from training.config import RunConfig
from training.errors import did_you_mean, nearest

CONFIGS = Path(__file__).parent.parent / "configs"
PRESET = "model.preset"


def knobs(part: type[BaseModel] = RunConfig, prefix: str = "") -> dict[str, FieldInfo]:
    """Dotted key -> field, for every knob below `part`."""
    found: dict[str, FieldInfo] = {}
    for name, each in part.model_fields.items():
        if isinstance(each.annotation, type) and issubclass(each.annotation, BaseModel):
            found |= knobs(each.annotation, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = each
    return found


KNOBS = knobs()
SECTIONS = {key[:i]: None for key in KNOBS for i, letter in enumerate(key) if letter == "."}
PRESETS = {path.stem: path for path in sorted((CONFIGS / "models").glob("*.yaml"))}


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


def layer_of(origin: str, pairs: Iterable[tuple[str, Any]], is_shared: bool = False) -> Layer:
    """The (key as typed, value) pairs of one source, judged key by key."""
    translated = translate(pairs)
    settings: dict[str, Setting] = {}
    refused = [f"{origin}: {line}" for line in translated.refusals]
    layer = Layer(origin, settings, is_shared, tuple(translated.claims), refused, translated.is_misread)
    for setting in translated.settings:
        key = PRESET if setting.key == "model" and isinstance(setting.value, str) else setting.key
        if key in settings:
            both = " and ".join(f"{s.typed}={shown(s.value)}" for s in (settings[key], setting))
            layer.refuse(f"{key} is set twice: {both}; leave one out")
        else:
            settings[key] = setting
    for key in list(settings):
        if why := _why_no_key(key, settings[key].value):
            named = layer.named(key).removeprefix(f"{origin}: ")
            layer.refuse(f"{named}: {why}")
            del settings[key]
    return layer


def is_text(typed: str) -> bool:
    """Whether the key, as it was typed, is that of a knob that takes any text."""
    kind = KNOBS.get(our_key(typed) or typed.lstrip("+"))
    return kind is not None and str in (kind.annotation, *get_args(kind.annotation))


def _why_no_key(key: str, value: Any) -> str:
    """What is wrong with a key of ours; empty if nothing is."""
    if key == PRESET:
        known = isinstance(value, str) and value in PRESETS
        near = did_you_mean(str(value), PRESETS)
        return "" if known else f"{shown(value)}: no such preset{near} (accepted: {', '.join(PRESETS)})"
    if key in KNOBS or (key in SECTIONS and (value is None or isinstance(value, Mapping))):
        return ""
    if key in SECTIONS:
        return f"{shown(value)} is a value, but {key} is a section of keys"
    section, _, _ = key.rpartition(".")
    beside = [known for known in (*KNOBS, *SECTIONS) if known.rpartition(".")[0] == section]
    return f"unknown key (value {shown(value)}){_nearest(key)} (accepted: {', '.join(beside or SECTIONS)})"


def _nearest(key: str) -> str:
    """The nearest knob by its last word: of the same section, then of the same name elsewhere, then of all."""
    section, _, last = key.rpartition(".")
    beside = {known.rpartition(".")[2]: known for known in KNOBS if known.rpartition(".")[0] == section}
    everywhere = {known.rpartition(".")[2]: known for known in reversed(KNOBS)}
    same = {last: everywhere[last]} if last in everywhere else {}
    for candidates in (beside, same, everywhere):
        for near in nearest(last, candidates):
            return f"; did you mean {candidates[near]}?"
    return ""
