"""`./fab`: Fabric's own program, with what every command line of this project does for wrong input and a closed pipe.

Invoke, underneath, ends wrong input with exit code 1 and names nothing that would be accepted.
"""

import difflib
import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from fabric import Config, Executor, __version__
from fabric.main import Fab
from invoke.exceptions import Exit, ParseError

from training.closed_pipe import end_at_closed_pipe, outlive_closed_pipe

WORK = {"bootstrap", "check", "demo", "down", "init", "pull", "stop", "sweep", "train", "up"}
"""Verbs that go on though nobody reads what they print; the others, and --list, end then."""


class Command(Fab):  # type: ignore[misc]  # fabric has no types
    """The verbs of fabfile.py."""

    def parse_tasks(self) -> None:
        """Find verbs and options among the words.

        Raises: Exit with code 2, and what is accepted, for a word that is neither.
        """
        with self._refusals():
            super().parse_tasks()

    def parse_cleanup(self) -> None:
        """Print what --help, --list and the like ask for.

        Raises: Exit, with code 2 for the help of a verb that there is not.
        """
        with self._refusals():
            super().parse_cleanup()

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except ParseError as wrong:
            raise Exit(f"refused: {self._refusal(wrong)}", code=2) from None

    def _refusal(self, wrong: ParseError) -> str:
        said, verb = str(wrong), wrong.context
        if needs_value := re.match(r"Flag <Argument: ([\w-]+).*needed value", said):
            return f"--{needs_value[1]}: needs a value (./fab {verb.name if verb else ''} --help says which)"
        unknown = re.match(r"No idea what '(.*)' is!$", said, re.DOTALL)
        if not unknown:
            return said.rstrip("!")
        word = unknown[1]
        if word.startswith("-"):
            accepted = sorted(flag for flag in (verb.flags if verb else self.core[0].flags) if flag.startswith("--"))
            what = f"an option of {verb.name if verb and verb.name else 'fab'}"
        else:
            accepted, what = sorted(self.collection.task_names), "a verb of fab"
        near = difflib.get_close_matches(word, accepted, n=1)
        return f"{word}: not {what} (accepted: {', '.join(accepted)}{f'; nearest: {near[0]}' if near else ''})"


def main() -> None:
    """Run the verbs of the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8
    end_at_closed_pipe()
    if WORK.intersection(sys.argv[1:]):
        outlive_closed_pipe()
    Command(name="fab", binary="fab", version=__version__, executor_class=Executor, config_class=Config).run()


if __name__ == "__main__":
    main()
