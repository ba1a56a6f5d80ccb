"""The console script: the first thing that it does is to answer Ctrl-C."""

from training.interrupts import end_at_interrupt


def command() -> None:
    """`training.__main__.command`, loaded here."""
    end_at_interrupt()
    from training.__main__ import command as whole

    whole()
