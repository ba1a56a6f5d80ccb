"""How long the supervisor waits, and how often it tries what a run needs from outside."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from training.errors import RunError
from training.runner.bucket_side import HANG_SECONDS
from training.runner.guards.watchdog import DUMP_SECONDS, TERM_SECONDS
from training.runner.processes import wait_until

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """How long the supervisor waits, in seconds. Tests are in more of a hurry."""

    tick: float = 0.5
    term: float = 60.0
    """For a run that was asked to end: a step and a checkpoint."""
    dump: float = DUMP_SECONDS
    hung_term: float = TERM_SECONDS
    pause: float = 5.0
    """Between two starts, and between two attempts at anything else."""
    attempts: int = 12
    patience: float = 7200.0
    """After a boot, when nobody looks: for what a run needs from outside. It costs what the machine costs."""
    disk: float = 30.0
    pusher: float = HANG_SECONDS
    """Without a move, after which the pusher hangs."""


class Attempts:
    """Tries for a while; for long after a boot, when nobody looks."""

    def __init__(self, timing: Timing, by_boot: bool, is_asked_to_end: Callable[[], bool]) -> None:
        self.timing, self.by_boot, self.is_asked_to_end = timing, by_boot, is_asked_to_end

    def to(self, what: str, call: Callable[[], None], patient: bool = False) -> None:
        """Call until it succeeds; after a boot for long, if `patient`.

        Raises: RunError with the last error.
        """
        limit = time.monotonic() + (self.timing.patience if patient and self.by_boot else 0.0)
        for attempt in count(1):
            late = attempt - self.timing.attempts
            try:
                return call()
            except RunError as error:
                if (late >= 0 and time.monotonic() >= limit) or self.is_asked_to_end():
                    raise
                log.info("supervisor: could not %s: %s", what, error)
            wait_until(self.is_asked_to_end, self.timing.pause * min(12, max(1, late)))
