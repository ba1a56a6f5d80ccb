"""What a command does when the reader of its output has gone away, as `head` does after some lines: it says nothing about it.

A command that only prints ends at once, with the exit code that the shell gives to a program that a closed pipe has ended. One
whose product is something else (a run, a file, a machine) goes on to its end without output, with its own exit code: a training of
hours must not end because a terminal was closed, nor `pulumi destroy` half-way. training.log has what `training fit` prints anyway.

SIGPIPE itself stays ignored, as Python has it: by default it would also end a process whose network connection breaks.
"""

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

CODE = 141
"""128 + SIGPIPE."""

_goes_on = False


def end_at_closed_pipe() -> None:
    """From here on the process ends when nobody reads what it prints."""
    sys.stdout, sys.stderr = _watched(sys.stdout), _watched(sys.stderr)


def outlive_closed_pipe() -> None:
    """From here on, after `end_at_closed_pipe`, what nobody reads is dropped instead."""
    global _goes_on
    _goes_on = True


class _Output(io.FileIO):
    """A file descriptor whose reader may go away."""

    def write(self, data: "ReadableBuffer", /) -> int | None:
        try:
            return super().write(data)
        except BrokenPipeError:
            if not _goes_on:
                os._exit(CODE)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # what C libraries and child processes print goes there too
            os.close(nowhere)
            return super().write(data)


def _watched(stream: TextIO) -> TextIO:
    """The same stream over a descriptor of ours; a stream that is no file, or closed from the beginning, stays as it is."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    raw = _Output(stream.fileno(), "w", closefd=False)
    buffer = raw if stream.write_through else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer,  # type: ignore[arg-type]  # raw without a buffer, as `python -u` has it
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
