"""What comes from outside (a bucket, a server, a machine): which names may be written to disk, and how its text is printed."""

import re
from pathlib import Path

from training.errors import UserError
from training.text import escaped

NAME_LENGTH = 100
ACCEPTED_NAME = f"letters, digits and ._=-, the first a letter or a digit, at most {NAME_LENGTH} characters"
REPOSITORY = frozenset({".git", "head"})
"""What makes a folder a repository of git, in any case of letters: git in it runs what its config says (core.fsmonitor)."""
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._=-]{{0,{NAME_LENGTH - 1}}}")  # as `name` in config.py


def file_below(name: str, source: str) -> str:
    """`name` itself, if it may be joined to a folder: a relative path that stays below it.

    Args:
        name: Name of an object or a file, with `/` between its parts.
        source: Where it was listed; the message names it.

    Raises: UserError for an empty name, an absolute one, one with an empty part, `.` or `..`, with a character that does not print,
        with a part longer than a file system takes (255 bytes), or with one that would make its folder a repository of git.
    """
    parts = name.split("/")
    is_long = any(len(part.encode(errors="surrogatepass")) > 255 for part in parts)
    if is_long or {"", ".", "..", *REPOSITORY}.intersection(part.lower() for part in parts) or not name.isprintable():
        raise UserError(
            f"{source}: it lists {escaped(name)!r}, which is no file below a folder (accepted: a relative path of printable "
            "characters without the parts '', '.', '..', '.git' and 'HEAD'); nothing was written. Rename or remove the object there"
        )
    return name


def is_file_below(name: str) -> bool:
    """Whether `file_below` accepts a name."""
    try:
        return bool(file_below(name, ""))
    except UserError:
        return False


def path_below(folder: Path, name: str, source: str) -> Path:
    """The path of `name` below `folder`: nothing on the way from `folder` to it, nor the file itself, is a symbolic link.

    `folder` itself may be one: it is the user's.

    Raises: UserError as `file_below`, or for a link.
    """
    path = folder
    for part in file_below(name, source).split("/"):
        path = path / part
        if path.is_symlink():
            raise UserError(
                f"{path}: is a symbolic link; {source} is not written or read through one. Remove the link, then try again"
            )
    return path


def single_name(name: str, source: str) -> str:
    """`name` itself, if it may be one folder's name, a word of a command and a line of a table: a run's or a job's.

    Raises: UserError for any other.
    """
    if not is_single_name(name):
        raise UserError(f"{source}: {escaped(name)!r} is no name of a run (accepted: {ACCEPTED_NAME})")
    return name


def is_single_name(name: str) -> bool:
    """Whether `single_name` accepts a name."""
    return _NAME.fullmatch(name) is not None
