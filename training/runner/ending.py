"""How a supervisor is told to end, and ended if it does not: the lock of its job says whether it lives."""

import logging
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress

from training.errors import UserError
from training.runner.job import JobPaths
from training.runner.processes import end_orphan, held, living, wait_until

log = logging.getLogger(__name__)

RUN_END_SECONDS = 60.0
PUSHER_END_SECONDS = 10.0
GIVE_UP_SECONDS = 15.0


def tell(paths: JobPaths) -> None:
    """SIGTERM to the supervisor, if there is one."""
    if (pid := living(paths.pid_file)) is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def end(paths: JobPaths, lock: ExitStack, seconds: float, look: Callable[[], None] = lambda: None) -> bool:
    """Have the supervisor end its run, push and end; then hold its lock in `lock`, so that nobody starts the job meanwhile.

    The lock says whether it lives, and not the pid file: one that has just begun has none yet. What it has left is ended.

    Args:
        paths: Of the job.
        lock: What then holds the lock.
        seconds: To wait at most.
        look: Called while it is waited for.

    Returns: whether it ended within `seconds`.
    """

    def is_ours() -> bool:
        try:
            lock.enter_context(held(paths.lock, "it lives"))
        except UserError:
            tell(paths)
            look()
            return False
        return True

    if not wait_until(is_ours, seconds, every=0.2):
        return False
    end_orphan(paths.run_pid_file, RUN_END_SECONDS)
    end_orphan(paths.pusher_pid_file, PUSHER_END_SECONDS)
    return True


def end_at_once(paths: JobPaths, lock: ExitStack) -> bool:
    """A supervisor pushes until everything is safe, which may be never.

    Returns: whether it has ended now.
    """
    try:
        paths.given_up.touch()
    except OSError as error:  # a full disk
        log.warning("%s: %s", paths.given_up, error)
    has_ended = end(paths, lock, GIVE_UP_SECONDS)
    if not has_ended and (pid := living(paths.pid_file)) is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        has_ended = end(paths, lock, GIVE_UP_SECONDS)
    paths.given_up.unlink(missing_ok=True)
    return has_ended
