"""How a program or a verb of `fab` ends with one message instead of a traceback."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from training.errors import RunError, UserError
from training.text import escaped

KEEP = "\n\t"
Verb = TypeVar("Verb", bound=Callable[..., Any])


def plain_refusals(verb: Verb) -> Verb:
    """A refusal ends a verb with its message and exit code 2, a failure with 1; neither with a traceback.

    Messages quote what machines, gcloud and the engine print: what does not print is escaped here, once for all verbs.
    """
    from invoke.exceptions import Exit  # Pulumi's programs, which refuse too, have no invoke

    @functools.wraps(verb)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return verb(*args, **kwargs)
        except UserError as refusal:
            raise Exit(f"refused: {escaped(str(refusal), keep=KEEP)}", code=2) from None
        except RunError as failure:
            raise Exit(f"failed: {escaped(str(failure), keep=KEEP)}", code=1) from None

    return guarded  # type: ignore[return-value]
