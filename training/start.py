"""The console script: the first thing that it does is to answer Ctrl-C and a reader that goes away."""

from training.closed_pipe import end_at_closed_pipe
from training.interrupts import end_at_interrupt


def command() -> None:
    """`training.__main__.command`, loaded here."""
    end_at_interrupt()
    end_at_closed_pipe()
    from training.__main__ import command as whole

    whole()
