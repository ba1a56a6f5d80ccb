"""From a run file and overrides to a validated `RunConfig`. OmegaConf reads, pydantic judges.

Every refusal names the file (or the command line), the key as it was written, the value, and what is accepted.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, get_args

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from yaml import YAMLError

from training.arc_keys import Setting, shown, translate
from training.config import CONTRADICTIONS, IDLE, RunConfig
from training.refusal import Refused, did_you_mean

CONFIGS = Path(__file__).parent.parent / "configs"
DEFAULT_RUN = CONFIGS / "runs" / "transition.yaml"
COMMAND_LINE = "command line"
PRESET = "model.preset"


@dataclass(frozen=True)
class Layer:
    """One source of settings: where they stand, and they by dotted key."""

    origin: str
    settings: Mapping[str, Setting]
    is_shared: bool = False
    """Whether other runs share it (a preset, an extended file), so that a setting without effect here is no mistake."""

    def named(self, key: str) -> str:
        """Where `key` stands, and how it was written there: `command line: training.lr (here optim.lr)`."""
        setting = self.settings[key]
        here = "" if setting.typed.lstrip("+") in (key, setting.key) else f" (here {key})"
        return f"{self.origin}: {setting.typed}{here}"


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run file and what it extends, apply `a.b=c` overrides, and validate.

    Without `path` the run is `configs/runs/transition.yaml`, so that a `state tx train` command line stands on its own.
    Later wins: the extended file, the model preset, the run file, the overrides; lists are replaced. `model: NAME` (or
    `model.preset`) takes `configs/models/NAME.yaml`. A setting without effect that nobody wrote for this run has its default.

    Raises: Refused naming the file, the key, the value and what is accepted.
    """
    layers = _with_presets([*_file_layers(path or DEFAULT_RUN), _override_layer(overrides)])
    merged = _merged(layers)
    config = _validated(merged, layers)
    _refuse_idle(merged, layers, config)
    for key, contradicts, why in CONTRADICTIONS:
        if contradicts(config):
            name = merged[key].named(key) if key in merged else key
            raise Refused(f"{name}: {shown(reduce(getattr, key.split('.'), config))}: {why}")
    idle = {key for key, is_idle, _ in IDLE if is_idle(config)}
    return _validated({key: layer for key, layer in merged.items() if key not in idle}, layers)


def knobs(part: type[BaseModel] = RunConfig, prefix: str = "") -> dict[str, FieldInfo]:
    """Dotted key -> field, for every knob below `part`."""
    found: dict[str, FieldInfo] = {}
    for name, field in part.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= knobs(field.annotation, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = field
    return found


KNOBS = knobs()
SECTIONS = {key[:i]: None for key in KNOBS for i, letter in enumerate(key) if letter == "."}
LENGTHS = ("trainer.max_steps", "trainer.max_epochs")
REQUIRED = (*(key for key, field in KNOBS.items() if field.is_required()), *LENGTHS)


def _file_layers(path: Path) -> list[Layer]:
    values = _read(path, str(path))
    parent = values.pop("extends", None)
    if parent is None:
        return [_layer(str(path), _flat(values))]
    below = path.parent / str(parent)
    shared = _read(below, f"{path}: extends: {below}")
    if "extends" in shared:
        raise Refused(f"{below}: extends: {shared['extends']}: a file that is extended ({path} does) extends no other")
    return [_layer(str(below), _flat(shared), is_shared=True), _layer(str(path), _flat(values))]


def _read(path: Path, named: str) -> dict[str, Any]:
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except FileNotFoundError:
        near = did_you_mean(path.name, sorted(p.name for p in path.parent.glob("*.yaml")))
        raise Refused(f"{named}: no such file{near}") from None
    except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise Refused(f"{named}: not a readable YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise Refused(f"{named}: a run file is a mapping of keys to values, this one is a {type(values).__name__}")
    return {str(key): value for key, value in values.items()}


def _override_layer(overrides: Sequence[str]) -> Layer:
    pairs: list[tuple[str, Any]] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals and not key.startswith("~"):
            raise Refused(f"{COMMAND_LINE}: {override}: an override is KEY=VALUE")
        try:
            values = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=True)
        except (YAMLError, OmegaConfBaseException) as error:
            quoted = f"""{key}='"{text}"' makes it text"""
            raise Refused(f"{COMMAND_LINE}: {override}: not a YAML value ({quoted}): {' '.join(str(error).split())}") from None
        assert isinstance(values, dict)
        pairs += _flat({key: values["value"]})
    return _layer(COMMAND_LINE, pairs)


def _flat(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as (dotted key, value), an empty mapping as itself."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _layer(origin: str, pairs: Iterable[tuple[str, Any]], is_shared: bool = False) -> Layer:
    try:
        translated = translate(pairs)
    except Refused as refusal:
        raise Refused(f"{origin}: {refusal}") from None
    settings: dict[str, Setting] = {}
    for setting in translated:
        key = PRESET if setting.key == "model" and isinstance(setting.value, str) else setting.key
        if key in settings:
            both = " and ".join(f"{s.typed}={shown(s.value)}" for s in (settings[key], setting))
            raise Refused(f"{origin}: {key} is set twice: {both}; leave one out")
        settings[key] = setting
    layer = Layer(origin, settings, is_shared)
    _refuse_unknown(layer)
    return layer


def _refuse_unknown(layer: Layer) -> None:
    for key, setting in layer.settings.items():
        value = setting.value
        if key in KNOBS or key == PRESET or (key in SECTIONS and isinstance(value, Mapping)):
            continue
        if key in SECTIONS:
            raise Refused(f"{layer.named(key)}: {shown(value)} is a value, but {key} is a section of keys")
        same_end = [known for known in KNOBS if known.rpartition(".")[2] == key.rpartition(".")[2]]
        near = f"; did you mean {same_end[0]}?" if same_end else did_you_mean(key, KNOBS, limit=1)
        beside = [known for known in (*KNOBS, *SECTIONS) if known.rpartition(".")[0] == key.rpartition(".")[0]]
        raise Refused(f"{layer.named(key)}: unknown key (value {shown(value)}){near} (accepted: {', '.join(beside or SECTIONS)})")


def _with_presets(layers: list[Layer]) -> list[Layer]:
    """Put the last-named model preset below the layer that names it, and drop what stood for the model below."""
    named = [i for i, layer in enumerate(layers) if PRESET in layer.settings]
    if not named:
        return layers
    at = named[-1]
    name, named_in = layers[at].settings[PRESET].value, layers[at].named(PRESET)
    presets = {path.stem: path for path in sorted((CONFIGS / "models").glob("*.yaml"))}
    if name not in presets:
        raise Refused(
            f"{named_in}: {shown(name)}: no such preset{did_you_mean(str(name), presets)} (accepted: {', '.join(presets)})"
        )
    path = presets[name]
    preset = _layer(str(path), _flat({"model": _read(path, str(path))}), is_shared=True)
    below = [_without(layer, lambda key: key == "model" or key.startswith("model.")) for layer in layers[:at]]
    return [*below, preset, _without(layers[at], lambda key: key == PRESET), *layers[at + 1 :]]


def _without(layer: Layer, is_dropped: Callable[[str], bool]) -> Layer:
    return replace(layer, settings={key: setting for key, setting in layer.settings.items() if not is_dropped(key)})


def _merged(layers: Iterable[Layer]) -> dict[str, Layer]:
    """The layer that has the last word on each key; a length replaces the other length of the layers below."""
    merged: dict[str, Layer] = {}
    for layer in layers:
        if any(key in layer.settings and layer.settings[key].value is not None for key in LENGTHS):
            for key in LENGTHS:
                merged.pop(key, None)
        merged |= dict.fromkeys(layer.settings, layer)
    return merged


def _validated(merged: Mapping[str, Layer], layers: Sequence[Layer]) -> RunConfig:
    try:
        return RunConfig.model_validate(_nested({key: layer.settings[key].value for key, layer in merged.items()}))
    except ValidationError as error:
        raise Refused("\n".join(_explained(dict(each), merged, layers) for each in error.errors())) from None


def _explained(error: dict[str, Any], merged: Mapping[str, Layer], layers: Sequence[Layer]) -> str:
    """One line for one of pydantic's errors."""
    key = ".".join(part for part in error["loc"] if isinstance(part, str))
    run_file = next(layer for layer in reversed(layers[:-1]) if not layer.is_shared).origin
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{run_file}: {key} is missing: {KNOBS[key].description}"
    if error["type"] == "value_error":  # of a section: the message names the keys
        origins = [layer.origin for layer in layers if any(f"{key}.{name}" in layer.settings for name in message.split())]
        return f"{(origins or [run_file])[-1]}: {key}: {message}"
    near = did_you_mean(str(error["input"]), [word for word in get_args(KNOBS[key].annotation) if isinstance(word, str)])
    return f"{merged[key].named(key)}: {shown(error['input'])}: {message[0].lower()}{message[1:]}{near}"


def _refuse_idle(merged: Mapping[str, Layer], layers: Sequence[Layer], config: RunConfig) -> None:
    """Refuse what the run file and the command line set without effect.

    The run file is judged without the command line, which may well idle one of its settings and only completes it here.
    """
    *below, command_line = layers
    run_file = next(layer for layer in reversed(below) if not layer.is_shared)
    needed = Layer("", {key: merged[key].settings[key] for key in REQUIRED if key in merged})
    try:
        alone = _validated(_merged([needed, *below]), layers)
    except Refused:  # the command line mends it
        alone = config
    for layer, at in ((command_line, config), (run_file, alone)):
        for key, is_idle, why in IDLE:
            if key in layer.settings and is_idle(at):
                value = shown(layer.settings[key].value)
                raise Refused(f"{layer.named(key)}: {value} would have no effect: {why}; leave it out")


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in [*((section, {}) for section in SECTIONS), *values.items()]:
        *path, last = key.split(".")
        branch = tree
        for part in path:
            branch = branch[part]
        if key not in SECTIONS or last not in branch:
            branch[last] = value
    return tree
