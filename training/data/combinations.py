"""Which perturbations a label names: `KLF1+TGFBR2` names two, `KLF1+control` one, the control none."""

from collections.abc import Collection
from itertools import accumulate

SEPARATORS = ("+", "|", "_", ",", ";", "&", "/", "-", ":", ".", "~", "^")
"""What joins perturbations in the labels of public screens, and what else might."""

_BRACKETS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}


def parts(label: str, control: str, separator: str | None) -> tuple[str, ...]:
    """The perturbations that a label names, sorted, each once, without blanks around them.

    The control's label and the parts of the control's label count for nothing: where `NegCtrl0_NegCtrl0` is the control and `_` the
    separator, `KLF1_NegCtrl0` is `KLF1`. A separator inside brackets joins nothing: `2i (LIF+MEKi)` is one perturbation.
    So is every label whose brackets do not close, or that has nothing beside a separator (`Ca2+`). With None every label is one.
    """
    nothing = {control.strip(), *_pieces(control, separator)}
    return tuple(sorted({piece for piece in _pieces(label, separator) if piece not in nothing}))


def has_idle_separator(label: str, separator: str | None) -> bool:
    """Whether a separator in the label joins nothing, since it stands inside brackets or beside nothing."""
    return separator is not None and separator in label and len(_pieces(label, separator)) <= label.count(separator)


def joined_by(labels: Collection[str], control: str, separator: str) -> list[str]:
    """Labels that a separator joins out of parts each of which is a perturbation alone under another label."""
    found = {label: parts(label, control, separator) for label in labels}
    alone = {own[0] for own in found.values() if len(own) == 1}
    return [label for label, own in found.items() if len(own) > 1 and alone.issuperset(own)]


def _pieces(label: str, separator: str | None) -> list[str]:
    """What stands between separators that are outside brackets; the whole label where that is no list of names."""
    if separator is None or separator not in label:
        return [label.strip()]
    pieces: list[str] = []
    is_open = False
    for piece in label.split(separator):
        if is_open:
            pieces[-1] += separator + piece
        else:
            pieces.append(piece)
        is_open = _depth(pieces[-1]) > 0
    pieces = [piece.strip() for piece in pieces]
    return pieces if all(piece and _depth(piece) == 0 for piece in pieces) else [label.strip()]


def _depth(text: str) -> int:
    """Brackets that are still open at the end of a text; -1 where one closes that was never opened."""
    depths = list(accumulate((_BRACKETS.get(letter, 0) for letter in text), initial=0))
    return -1 if min(depths) < 0 else depths[-1]
