"""Messages between laptop and machine: JSON objects with a `format`, read by code that may be older or newer than what wrote them.

A message is a frozen dataclass whose fields have defaults. Fields that this code does not know are ignored, missing ones have their
default; a value that cannot be is refused in one sentence. Text is escaped here, so what has been read may be printed.
"""

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from training.errors import RunError
from training.text import escaped
from training.untrusted import single_name

LIMIT_BYTES = 16 * 2**20
"""Of one message: 10,000 jobs are 8 MB."""
LINE, LINES = 1_000, 10_000
"""Characters of a text that are kept; of a log's end the last ones."""


def _moment(text: str) -> str:
    year = datetime.fromisoformat(text).year  # a ValueError is pydantic's to tell
    if not 1970 <= year < 9000:
        raise ValueError(f"the year {year} is no year of a run")
    return text


Name = Annotated[str, AfterValidator(lambda text: single_name(text, "name"))]
"""A folder's name and a word of a command: nothing else is taken."""
Line = Annotated[str, AfterValidator(lambda text: escaped(text)[:LINE])]
Lines = Annotated[str, AfterValidator(lambda text: escaped(text, keep="\n\t")[-LINES:])]
Moment = Annotated[str, AfterValidator(_moment)]
"""ISO 8601."""
Count = Annotated[int, Field(ge=0, le=2**53)]
Measure = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]

LOG, LOG_BEFORE = "job.log", "training.log"
"""Name of a job's log, and its name in jobs that earlier versions began."""

Message = TypeVar("Message")


def read_message(kind: type[Message], text: str, source: str, known_format: int) -> Message:
    """The message in `text`, which `source` wrote.

    Raises: RunError with one sentence if it is none, or of a format that this code cannot read.
    """
    if len(text) > LIMIT_BYTES:
        raise RunError(f"{source}: the answer has {len(text):,} characters (accepted: at most {LIMIT_BYTES:,}); it was not read")
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in found["loc"])
        value = f"{field}: {brief(found['input'])}: " if field else f"{brief(text)}: "
        raise RunError(
            f"{source}: the answer cannot be read: {value}{brief(found['msg'], 240)}; {remedy(text, known_format)}"
        ) from None


def remedy(text: str, known_format: int) -> str:
    """What to do about a message that cannot be read."""
    theirs = format_of(text)
    if theirs > known_format:
        return f"it is of format {theirs}, and this code knows {known_format}: update the code here (git pull)"
    return "if the machine's code is old or damaged, ./fab bootstrap brings it up to date"


def format_of(text: str | bytes) -> int:
    """The `format` that a message names; 0 if it names none."""
    try:
        found = json.loads(text)["format"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return 0
    return found if isinstance(found, int) and 0 <= found < 2**31 else 0


def without_unknown(text: bytes, known: Iterable[str], known_format: int) -> bytes:
    """The message without the fields that a newer format has; in one of our own format an unknown field is a slip, and stays."""
    if format_of(text) <= known_format:
        return text
    values: dict[str, Any] = json.loads(text)
    return json.dumps({key: value for key, value in values.items() if key in set(known)}).encode()


def brief(value: object, width: int = 80) -> str:
    """A value from outside in at most `width` characters of one line."""
    text = escaped(" ".join(str(value)[: 4 * width].split()))
    return text if len(text) <= width else f"{text[: width - 4]} ..."
