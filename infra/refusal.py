"""The two ways a program or a verb of the cloud ends with one message instead of a traceback."""


class Refused(ValueError):
    """What was asked cannot be had as it is; the message says what to change. Exit code 2, and nothing was done."""


class Failed(RuntimeError):
    """Something did not work out on the way; the message says what is left and what to run. Exit code 1."""
