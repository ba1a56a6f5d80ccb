"""The two ways a run ends with one message instead of a traceback, and the nearest match that goes into a refusal."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """The user's input cannot be used; the command line prints the message alone and exits with 2.

    A message names the file, the key or row, the value, and what is accepted.
    """


class RunError(RuntimeError):
    """The run could not go on (a full disk, a loss that is not finite); the command line prints the message and exits with 1."""


def did_you_mean(value: str, accepted: Iterable[str], limit: int = 3) -> str:
    """`; did you mean A or B?` for the accepted words nearest to `value`, or an empty text where none is near."""
    near = nearest(value, accepted, limit)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def nearest(value: str, accepted: Iterable[str], limit: int = 1) -> list[str]:
    """Up to `limit` accepted words that are near `value`; case and the characters ` _-.` count for nothing in the comparison."""
    by_folded: dict[str, str] = {}
    for word in accepted:
        by_folded.setdefault(_folded(word), word)
    return [by_folded[word] for word in get_close_matches(_folded(value), by_folded, n=limit, cutoff=0.6)]


def _folded(word: str) -> str:
    return "".join(character for character in word.casefold() if character not in " _-.")
