"""From the keys of `state tx train` to ours, by the table in `arc_table.py`; each key that cannot be accepted gets a line.

The table acts on a source of settings that was written for `state tx train` (a command line, a file), and on no other.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from training.arc_table import DISTRIBUTIONAL_LOSS, LOSS, TABLE, Row
from training.config import Run, RunConfig
from training.errors import nearest


class Setting(NamedTuple):
    """A setting in our words."""

    key: str
    value: Any
    typed: str
    """The key as the user wrote it."""


@dataclass(frozen=True)
class Claim:
    """A setting of theirs that is accepted if it says what the run has anyway."""

    row: Row
    typed: str
    value: Any

    def refusal(self, config: Run) -> str:
        """What is wrong with it in this run; empty if nothing is."""
        assert isinstance(config, RunConfig)
        assert self.row.same_as is not None
        own = self.row.same_as(config)
        return "" if _same(own, self.value) else f"{self.typed}: {shown(self.value)}: {self.row.reason} (accepted: {shown(own)})"


@dataclass
class Translation:
    """What becomes of the settings of one source."""

    settings: list[Setting] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    """To be judged when the run is known."""
    refusals: list[str] = field(default_factory=list)
    """Key as typed, value, reason, and what to use instead: a line for each key that cannot be accepted."""
    is_misread: bool = False
    """Whether a refused key stands for one of ours, so that the other settings alone are not what was meant."""

    def take(self, typed: str, value: Any) -> None:
        """Take a setting as it stands, and refuse Hydra's way to delete one."""
        if typed.startswith("~"):
            self.refuse(typed, "settings are not deleted here; leave it out, or set it to what you want", is_misread=True)
        else:
            self.settings.append(Setting(typed.lstrip("+"), value, typed))

    def refuse(self, typed: str, why: str, is_misread: bool) -> None:
        """Add a line."""
        self.refusals.append(f"{typed}: {why}")
        self.is_misread |= is_misread


_BY_KEY = {row.arc: row for row in TABLE}
_ONLY_THEIRS = ("training.", "data.kwargs.", "model.kwargs.")
_SECTIONS = (*_ONLY_THEIRS, "wandb.")
_EMPTY = {row.arc[:i] for row in TABLE for i, letter in enumerate(row.arc) if letter == "."}
"""Their sections: one that is left without keys says nothing."""


IsOurs = Callable[[str, Any], bool]
"""Whether a key and its value are a setting of our schema."""


def has_keys_of_state(pairs: Iterable[tuple[str, Any]], is_ours: IsOurs) -> bool:
    """Whether a source of settings was written for `state tx train`: a key has a section that only its keys have, or is translated.

    A key of our own never counts, nor does one that the table does no more than refuse: it may be nobody's, or one of ours to come.
    """
    for typed, value in pairs:
        key = typed.lstrip("+")
        if not is_ours(key, value):
            row = _row(typed, value)
            if key.startswith(_ONLY_THEIRS) or (row is not None and row.ours is not None):
                return True
    return False


def translate(pairs: Iterable[tuple[str, Any]], is_ours: IsOurs) -> Translation:
    """(dotted key, value) pairs of a source written for `state tx train`, in our words; our own keys pass unchanged.

    `+` and `++` before a key count for nothing, and `data.kwargs.` and `model.kwargs.` may be left out, with or without `kwargs.`.
    """
    found = [(typed, value, None if is_ours(typed.lstrip("+"), value) else _row(typed, value)) for typed, value in pairs]
    off = {row.arc for _, value, row in found if row is not None and value is False}
    names_distance = any(row is not None and row.arc == DISTRIBUTIONAL_LOSS for _, _, row in found)
    translation = Translation()
    for typed, value, row in found:
        if row is None:
            _pass_on(typed, value, translation, is_ours)
        elif row.arc == LOSS and names_distance:
            if value != "energy":
                why = f"{shown(value)}: only the loss energy asks distributional_loss; leave distributional_loss out"
                translation.refuse(typed, why, is_misread=True)
        elif row.unless not in off:
            _apply(row, typed, value, translation)
    return translation


def as_typed(pairs: Iterable[tuple[str, Any]]) -> Translation:
    """The pairs of any other source, unchanged; a `+` before a key counts for nothing."""
    translation = Translation()
    for typed, value in pairs:
        translation.take(typed, value)
    return translation


def our_key(typed: str) -> str | None:
    """Our key for a key of theirs whose value is taken as it stands."""
    row = _row_of(typed.lstrip("+"))
    return None if row is None else row.ours


def shown(value: object) -> str:
    """A value as it is typed in YAML."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(shown(each) for each in value)}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def nearest_of_theirs(key: str) -> str:
    """`; did you mean training.lr (here optim.lr)?`: the nearest key of the same section, else of all; empty if there is none."""
    section, _, last = key.rpartition(".")
    rows = [row for row in TABLE if not row.arc.endswith(".*") and "=" not in row.arc]
    beside = [row for row in rows if row.arc.rpartition(".")[0] == section]
    below = [row for row in rows if row.arc.startswith(f"{section}.")]
    for candidates in (beside, below, rows):
        by_last = {row.arc.rpartition(".")[2]: row for row in reversed(candidates)}
        for near in nearest(last, by_last):
            row = by_last[near]
            return f"; did you mean {row.arc}{f' (here {row.ours})' if row.ours else ''}?"
    return ""


def _pass_on(typed: str, value: Any, translation: Translation, is_ours: IsOurs) -> None:
    key = typed.lstrip("+")
    if key in _EMPTY and value in (None, {}):
        return
    section = next((section for section in _SECTIONS if key.startswith(section)), None)
    if section is None or is_ours(key, value):
        translation.take(typed, value)
        return
    accepted = [row.arc for row in TABLE if row.arc.startswith(section) and row.ours]
    near = nearest_of_theirs(key) or f" (accepted: {', '.join(accepted)})"
    why = f"no key of `state tx train`, nor one of ours (value {shown(value)}){near}"
    translation.refuse(typed, why, is_misread=True)


def _row(typed: str, value: Any) -> Row | None:
    key = typed.lstrip("+")
    choice = _BY_KEY.get(f"{key.removesuffix('.preset')}={value}")
    return choice if choice is not None else _row_of(key)


def _row_of(key: str) -> Row | None:
    for name in _full_names(key):
        row = _BY_KEY.get(name) or _BY_KEY.get(f"{name.rpartition('.')[0]}.*")
        if row is not None:
            return row
    return None


def _full_names(key: str) -> Sequence[str]:
    """The keys there that `key` may stand for."""
    section, _, rest = key.partition(".")
    shortened = f"{section}.kwargs.{rest}"
    return [key, shortened] if section in ("data", "model") else [key, f"data.kwargs.{key}", f"model.kwargs.{key}"]


def _apply(row: Row, typed: str, value: Any, translation: Translation) -> None:
    for theirs, ours in row.words.items():
        if _same(theirs, value):
            assert row.ours is not None
            translation.settings.append(Setting(row.ours, ours, typed))
            return
    if any(_same(each, value) for each in row.holds):
        return
    if row.same_as is not None:
        translation.claims.append(Claim(row, typed, value))
    elif row.ours is not None and not row.reason:
        translation.settings.append(Setting(row.ours, value, typed))
    else:
        accepted = ", ".join(dict.fromkeys(shown(each) for each in (*row.words, *row.holds)))
        why = f"{shown(value)}: {row.reason}" + (f" (accepted: {accepted})" if accepted else "")
        translation.refuse(typed, why, is_misread=row.ours is not None)


def _same(one: Any, other: Any) -> bool:
    """Equality in which true is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
