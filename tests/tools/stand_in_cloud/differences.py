"""What changed between two sets of inputs, path by path, as Pulumi writes paths."""

from collections.abc import Iterator, Mapping
from typing import Any

UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"  # what the engine sends in a preview for a value that nobody knows yet
ADDED, GONE, CHANGED = "added", "gone", "changed"
UNORDERED = {"destinationRanges", "scopes", "sourceRanges", "sourceTags", "tags", "targetTags"}
TRUE_WHEN_UNSET = {"autoDelete", "autoCreateSubnetworks", "automaticRestart", "enableIntegrityMonitoring", "enableVtpm"}
COMPUTE = "https://www.googleapis.com/compute/v1/"


def differences(old: Any, new: Any, path: str = "") -> dict[str, str]:
    """Path to ADDED, GONE or CHANGED; what is the same to the cloud (unset, false, an empty list; a link and an id) is the same."""
    return dict(_differences(old, new, path))


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, str]]:
    old, new = _same_words(path, old), _same_words(path, new)
    if old == new and not contains_unknown(new):
        return
    blocks = [value for value in (old, new) if value is not None]
    if all(isinstance(value, Mapping) for value in blocks):
        old, new = old or {}, new or {}
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key), new.get(key), f"{path}{_step(key, path)}")
    elif all(isinstance(value, list) for value in blocks):
        yield from _of_lists(old or [], new or [], path)
    else:
        yield path, ADDED if old is None else GONE if new is None else CHANGED


def _of_lists(old: list[Any], new: list[Any], path: str) -> Iterator[tuple[str, str]]:
    both = min(len(old), len(new))
    for at in range(both):
        yield from _differences(old[at], new[at], f"{path}[{at}]")
    for at in range(both, max(len(old), len(new))):
        yield f"{path}[{at}]", ADDED if len(new) > both else GONE


def contains_unknown(value: Any) -> bool:
    """Whether a value, or something in it, is not known yet."""
    if isinstance(value, Mapping):
        return any(map(contains_unknown, value.values()))
    if isinstance(value, list):
        return any(map(contains_unknown, value))
    return bool(value == UNKNOWN)


def _same_words(path: str, value: Any) -> Any:
    unset_is = path.rpartition(".")[2] in TRUE_WHEN_UNSET
    if value is None or value in ({}, [], "") or (isinstance(value, bool) and value == unset_is):
        return None
    if isinstance(value, list) and path.rpartition(".")[2] in UNORDERED:
        return sorted(value)
    return value.removeprefix(COMPUTE) if isinstance(value, str) else value


def _step(key: str, path: str) -> str:
    if any(character in key for character in '."[]'):
        return '["{}"]'.format(key.replace('"', '\\"'))
    return f".{key}" if path else key
