"""How the program ends when the engine is done with it."""

import os
import signal
import threading

ALREADY_TOLD = 32
"""The exit code of which Pulumi's Python language host says nothing: the user has read what was wrong."""


def end_without_a_traceback() -> None:
    """End at SIGINT in silence. The engine sends it to the program after a provider's error, which it has then printed itself.

    Python's own answer is a KeyboardInterrupt, and the engine would print the traceback of it, thirty lines, beside the error.
    Ctrl-C does not come here: the engine gives its plugins a process group of their own.
    """
    if threading.current_thread() is threading.main_thread():  # the only one that may; elsewhere the host is not Pulumi's
        signal.signal(signal.SIGINT, lambda *_: os._exit(ALREADY_TOLD))
