"""From a run file and overrides to the validated run of its task. OmegaConf reads, pydantic judges.

The task is read first, and everything else is judged with its schema. Every refusal names the file (or the command line), the key
as it was written, the value, and what is accepted.
"""

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, get_args

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError

from training.arc_keys import Setting, shown
from training.arc_run import is_arc_run, what_to_do
from training.config import Run
from training.config_layer import Layer, is_text, layer_of
from training.config_schema import LENGTHS, PRESET, Schema, schema_of
from training.errors import UserError, did_you_mean
from training.registry import DEFAULT_TASK, run_schema

FORMAT = 1
"""Format of a run file; a file without the key `format` has it too."""
COMMAND_LINE = "command line"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # as OmegaConf: the C one takes some tabs that the other refuses


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Run:
    """Read a run file and what it extends, apply `a.b=c` overrides, and validate.

    Without `path` the run is the default of its task (`configs/runs/transition.yaml`, so that a `state tx train` command line
    stands on its own). Later wins: the extended file, the model preset, the run file, the overrides; lists are replaced.
    `model: NAME` (or `model.preset`) takes a preset of the task. A setting without effect that nobody wrote for this run has its
    default.

    Returns: a run of the class that `run_schema` names for its `task`.
    Raises: UserError naming the file, the key, the value and what is accepted.
    """
    files = [] if path is None else _read_with_extended(path)
    schema = _schema_named_by(files, overrides)
    files = files or _read_with_extended(schema.default_run)
    sources = [*(_file_layer(schema, file) for file in files), _override_layer(schema, overrides)]
    layers = _with_presets(schema, sources)
    merged = _merged(layers)
    judged = _judged(schema, merged, layers)
    refusals = [line for layer in layers for line in layer.refusals] + judged.wrong
    if not any(layer.is_misread for layer in layers):
        refusals += judged.lacking
        if judged.config is not None:
            refusals += _without_effect(schema, layers, judged.config)
            refusals += _untrue(schema, sources, judged.config)
            refusals += _contradictions(merged, judged.config)
    if refusals or judged.config is None:
        raise UserError("\n".join(refusals))
    no_effect = {key for key, has_none, _ in judged.config.NO_EFFECT if has_none(judged.config)}
    return _validated(schema, {key: layer for key, layer in merged.items() if key not in no_effect})


@dataclass(frozen=True)
class File:
    """A run file, or a file that one extends, as it was read."""

    path: Path
    values: Mapping[str, Any]
    is_shared: bool = False


def _read_with_extended(path: Path) -> list[File]:
    values = _read(path, str(path))
    parent = values.pop("extends", None)
    if parent is None:
        return [File(path, values)]
    below = path.parent / str(parent)
    shared = _read(below, f"{path}: extends: {below}")
    if "extends" in shared:
        raise UserError(f"{below}: extends: {shared['extends']}: a file that is extended ({path} does) extends no other")
    return [File(below, shared, is_shared=True), File(path, values)]


def _schema_named_by(files: Iterable[File], overrides: Sequence[str]) -> Schema:
    """The schema of the task that the last source to name one names."""
    named = [(str(file.path), file.values["task"]) for file in files if "task" in file.values]
    for override in overrides:
        key, equals, text = override.partition("=")
        if equals and key.lstrip("+") == "task":
            named.append((COMMAND_LINE, text.strip("\"'")))
    origin, task = named[-1] if named else ("", DEFAULT_TASK)
    try:
        return schema_of(run_schema(shown(task)))
    except UserError as refusal:
        raise UserError(f"{origin}: {refusal}") from None


def _file_layer(schema: Schema, file: File) -> Layer:
    layer = layer_of(schema, str(file.path), _flat(file.values), file.is_shared)
    _refuse_changed_words(schema, layer, _written(file.path.read_bytes()), "{name}: {quoted}".format)
    return layer


def _written(text: str | bytes, key: str = "") -> dict[str, str]:
    """Dotted key -> the bare word that stands there, as it was written."""
    return dict(_words(yaml.compose(text, _LOADER), key))


def _words(node: yaml.Node | None, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield from _words(value, f"{key}.{name.value}" if key else str(name.value))
    elif isinstance(node, yaml.ScalarNode) and not node.style:
        yield key, node.value


def _refuse_changed_words(schema: Schema, layer: Layer, written: Mapping[str, str], quoted: Callable[..., str]) -> None:
    """Refuse words where text is wanted that YAML made a number or a truth value of: `007` is 7 to it, and `NO` is false.

    A number that reads as it was written (2025) is left to the schema. `quoted` gives the setting with its word in quotes.
    """
    for key, setting in list(layer.settings.items()):
        word = written.get(setting.typed, "")
        if (
            word
            and is_text(schema, key)
            and isinstance(setting.value, bool | int | float)
            and "${" not in word
            and str(setting.value) != word
        ):
            named = layer.named(key).removeprefix(f"{layer.origin}: ")
            remedy = quoted(typed=setting.typed, name=setting.typed.rpartition(".")[2], quoted=f'"{word}"')
            layer.refuse(f"{named}: {word}: text is wanted, and YAML reads this as {shown(setting.value)}; write {remedy}")
            del layer.settings[key]


def _read(path: Path, named: str) -> dict[str, Any]:
    if is_arc_run(path):
        raise UserError(f"{named}: {what_to_do(path)}")
    if os.path.isfile(path / "config.yaml"):
        raise UserError(f"{named}: is a folder, and a run file is wanted; did you mean {path / 'config.yaml'}?")
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except FileNotFoundError:
        near = did_you_mean(path.name, sorted(p.name for p in path.parent.glob("*.yaml")))
        raise UserError(f"{named}: no such file{near}") from None
    except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{named}: not a readable YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{named}: a run file is a mapping of keys to values, this one is a {type(values).__name__}")
    _refuse_other_format(named, values.pop("format", FORMAT))
    return {str(key): value for key, value in values.items()}


def _refuse_other_format(named: str, found: object) -> None:
    if type(found) is int and found > FORMAT:
        raise UserError(f"{named}: format: {found}: a run file of a newer format than {FORMAT}; update the code (git pull)")
    if type(found) is not int or found != FORMAT:
        raise UserError(f"{named}: format: {shown(found)}: no format of a run file (accepted: {FORMAT}, or leave it out)")


def _override_layer(schema: Schema, overrides: Sequence[str]) -> Layer:
    pairs: list[tuple[str, Any]] = []
    written: dict[str, str] = {}
    unread: list[str] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals and not key.startswith("~"):
            unread.append(f"{override}: an override is KEY=VALUE")
            continue
        try:
            value = _value_of(text, is_text(schema, key))
        except (YAMLError, OmegaConfBaseException) as error:
            unread.append(f"{override}: {_why_no_value(text, error)}")
        else:
            pairs += _flat({key: value})
            if not isinstance(value, str):
                written |= _written(text, key)
    layer = layer_of(schema, COMMAND_LINE, pairs)
    _refuse_changed_words(schema, layer, written, lambda typed, name, quoted: shlex.quote(f"{typed}={quoted}"))
    for why in unread:
        layer.refuse(why)
    return layer


def _value_of(text: str, is_text: bool) -> Any:
    """A word of the command line as YAML reads it; where text is wanted, what YAML cannot read or takes for a list is that text."""
    try:
        values = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=True)
    except YAMLError:
        if is_text:
            return text
        raise
    assert isinstance(values, dict)
    value = values["value"]
    return text if is_text and isinstance(value, list | dict) else value


def _why_no_value(text: str, error: Exception) -> str:
    why = " ".join(str(error).split())
    if isinstance(error, YAMLError):
        return f"not a YAML value: {why}"
    literal = shlex.quote(text.replace("${", "\\${"))
    return f"not a value: {why} (`${{` begins the name of one; the very words are {literal})"


def _flat(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as (dotted key, value), an empty mapping as itself."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _with_presets(schema: Schema, layers: Sequence[Layer]) -> Sequence[Layer]:
    """Put the last-named model preset below the layer that names it, and drop what stood for the model below."""
    named = [i for i, layer in enumerate(layers) if PRESET in layer.settings]
    if not named:
        return layers
    at = named[-1]
    path = schema.presets[layers[at].settings[PRESET].value]
    preset = layer_of(schema, str(path), _flat({"model": _read(path, str(path))}), is_shared=True)
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


@dataclass(frozen=True)
class Judged:
    """What pydantic says of the merged settings."""

    config: Run | None
    wrong: list[str]
    """A line for each value that its key does not take."""
    lacking: list[str]
    """A line for each key that is missing, and for each section whose keys do not fit each other."""


def _validated(schema: Schema, merged: Mapping[str, Layer]) -> Run:
    return schema.run.model_validate(_nested(schema, {key: layer.settings[key].value for key, layer in merged.items()}))


def _judged(schema: Schema, merged: Mapping[str, Layer], layers: Sequence[Layer]) -> Judged:
    try:
        return Judged(_validated(schema, merged), [], [])
    except ValidationError as error:
        lines: tuple[list[str], list[str]] = ([], [])
        for each in error.errors():
            lines[each["type"] in ("missing", "value_error")].append(_explained(schema, dict(each), merged, layers))
        return Judged(None, *lines)


def _explained(schema: Schema, error: dict[str, Any], merged: Mapping[str, Layer], layers: Sequence[Layer]) -> str:
    """One line for one of pydantic's errors."""
    key = ".".join(part for part in error["loc"] if isinstance(part, str))
    run_file = next(layer for layer in reversed(layers[:-1]) if not layer.is_shared).origin
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{run_file}: {key} is missing: {schema.fields[key].description}"
    if error["type"] == "value_error":  # of a section: the message names the keys
        origins = [layer.origin for layer in layers if any(f"{key}.{name}" in layer.settings for name in message.split())]
        return f"{(origins or [run_file])[-1]}: {key}: {message}"
    near = did_you_mean(str(error["input"]), [word for word in get_args(schema.fields[key].annotation) if isinstance(word, str)])
    return f"{merged[key].named(key)}: {shown(error['input'])}: {message[0].lower()}{message[1:]}{near}"


def _as_of(schema: Schema, below: Sequence[Layer], config: Run) -> Run:
    """The run as the layers up to one say it, which those above may complete but do not change.

    So a run file is judged without the command line, which may well leave one of its settings without effect. Where it mends the
    file, the whole run is the answer.
    """
    whole = {key: reduce(getattr, key.split("."), config) for key in schema.required}
    needed = Layer("", {key: Setting(key, value, key) for key, value in whole.items()})
    try:
        return _validated(schema, _merged([needed, *below]))
    except ValidationError:
        return config


def _without_effect(schema: Schema, layers: Sequence[Layer], config: Run) -> Iterator[str]:
    """A line for each setting of the run file and the command line that has no effect.

    A default that a configuration of `state tx train` spells out is none that anybody chose.
    """
    for i, layer in enumerate(layers):
        at = config if layer is layers[-1] else _as_of(schema, layers[: i + 1], config)
        for key, has_none, why in config.NO_EFFECT:
            if layer.is_shared or key not in layer.settings or not has_none(at):
                continue
            value = layer.settings[key].value
            if layer.is_ours(key) or not _is_default(schema, key, value):
                yield f"{layer.named(key)}: {shown(value)} would have no effect: {why}; leave it out"


def _is_default(schema: Schema, key: str, value: Any) -> bool:
    default = schema.fields[key].default
    return bool(value == (list(default) if isinstance(default, tuple) else default))


def _untrue(schema: Schema, sources: Sequence[Layer], config: Run) -> Iterator[str]:
    """A line for each claim of a layer that is not true of the run as of that layer."""
    for i, layer in enumerate(sources):
        if layer.claims:
            at = config if layer is sources[-1] else _as_of(schema, _with_presets(schema, sources[: i + 1]), config)
            yield from (f"{layer.origin}: {why}" for claim in layer.claims if (why := claim.refusal(at)))


def _contradictions(merged: Mapping[str, Layer], config: Run) -> Iterator[str]:
    """A line for each two settings that contradict each other, whoever wrote them."""
    for key, contradicts, why in config.CONTRADICTIONS:
        if contradicts(config):
            name = merged[key].named(key) if key in merged else key
            yield f"{name}: {shown(reduce(getattr, key.split('.'), config))}: {why}"


def _nested(schema: Schema, values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in [*((section, {}) for section in schema.sections), *values.items()]:
        *path, last = key.split(".")
        branch = tree
        for part in path:
            branch = branch[part]
        if key not in schema.sections or last not in branch:
            branch[last] = value
    return tree
