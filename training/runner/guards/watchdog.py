"""A run that makes no step any more: when that is a hang, and how it is ended."""

import signal
import subprocess
import time
from dataclasses import dataclass

from training.checkpoints.progress_file import Progress
from training.runner.job import Job
from training.runner.processes import end_child, has_ended, tell, wait_until

FIRST_STEP_SECONDS = 30 * 60.0
"""Budget of the first step of a start: it opens the data and compiles."""
DUMP_SECONDS = 5.0
TERM_SECONDS = 10.0


def hang_seconds(job: Job, progress: Progress | None) -> float:
    """Seconds without a step after which a run hangs; `progress` is that of this start, None before its first step."""
    least = job.hang_minutes * 60
    if progress is None:
        return max(least, FIRST_STEP_SECONDS)
    return max(least, job.hang_factor * (progress.median_step_seconds or 0.0))


@dataclass
class Watchdog:
    """Watches one start by the monotonic clock: that of the machine may jump after a boot.

    Units: `since` in seconds of the monotonic clock, when the latest progress was seen.
    """

    job: Job
    since: float
    seen: Progress | None = None

    def sees_hang(self, progress: Progress | None, now: float) -> bool:
        """Note the progress there is `now`; whether it has stayed the same for too long."""
        if progress is not None and progress != self.seen:
            self.seen, self.since = progress, now
        return now - self.since > hang_seconds(self.job, self.seen)


def end_hung(child: "subprocess.Popen[bytes]", dump_seconds: float = DUMP_SECONDS, term_seconds: float = TERM_SECONDS) -> int:
    """Let the run write the stacks of its threads to its log, then SIGTERM, then SIGKILL for its group.

    Returns: its exit code, negative for a signal.
    """
    tell(child, signal.SIGUSR1)
    started = time.monotonic()
    wait_until(lambda: has_ended(child), dump_seconds - (time.monotonic() - started))
    return end_child(child, term_seconds)
