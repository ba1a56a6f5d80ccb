"""Ctrl-C before and after the work of a command: loading its modules takes seconds, and an interrupt there ends in a traceback."""

import os
import signal
from types import FrameType


def end_at_interrupt() -> None:
    """From here on Ctrl-C ends the process at once, with one line: for as long as nothing is written."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_at_interrupt() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt, so that what is half written is taken away."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def ignore_interrupt() -> None:
    """From here on Ctrl-C says nothing: all is done, and Python only tidies up."""
    if signal.getsignal(signal.SIGINT) in (_end, signal.default_int_handler):
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(1)
