r"""Text for a terminal: what comes from outside without its control characters, long lists cut short, rows in columns."""

from collections.abc import Iterable, Sequence


def escaped(text: str, keep: str = "") -> str:
    r"""`text` with every character that does not print (terminal escapes, line breaks, marks that turn writing round) as `\x1b`.

    Args:
        text: From outside.
        keep: Characters that stay as they are, such as "\n\t" in a log.
    """
    return "".join(
        character if character.isprintable() or character in keep else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def some(words: Iterable[object], limit: int = 10) -> str:
    """The first `limit` of `words` in a row, with the number of those left out."""
    listed = [str(word) for word in words]
    rest = len(listed) - limit
    return ", ".join(listed[:limit]) + (f" and {rest} more" if rest > 0 else "")


def aligned(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Rows of equal length as lines with aligned columns; `right`: the columns whose cells end together, as numbers do."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    to_the_right = frozenset(right)
    return [
        "  ".join(
            cell.rjust(width) if column in to_the_right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
