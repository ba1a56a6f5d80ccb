"""The two ways a program or a verb of `fab` ends with one message instead of a traceback."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

Verb = TypeVar("Verb", bound=Callable[..., Any])


class Refused(ValueError):
    """What was asked cannot be had as it is; the message says what to change. Exit code 2, and nothing was done."""


class Failed(RuntimeError):
    """Something did not work out on the way; the message says what is left and what to run. Exit code 1."""


def plain_refusals(verb: Verb) -> Verb:
    """A refusal ends a verb with its message and exit code 2, a failure with 1; neither with a traceback."""
    from invoke.exceptions import Exit  # Pulumi's programs, which refuse too, have no invoke

    @functools.wraps(verb)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return verb(*args, **kwargs)
        except Refused as refusal:
            raise Exit(f"refused: {refusal}", code=2) from None
        except Failed as failure:
            raise Exit(f"failed: {failure}", code=1) from None

    return guarded  # type: ignore[return-value]
