"""What the supervisor does about the bucket: the lease, a run brought to a fresh machine, and the pusher beside the run."""

import logging
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

from training.checkpoints.manifest import MANIFEST, complete_checkpoints
from training.errors import RunError, UserError
from training.runner.begun import holds_files
from training.runner.bucket.bucket import open_bucket
from training.runner.guards.hang import HangWatch
from training.runner.job import Job, JobPaths, own_command
from training.runner.mirror.lease import Taken, claim, holder_of, release
from training.runner.mirror.pull import MARK, pull_run
from training.runner.mirror.reach import NO_STEP, Reach, older_than, reach_in_bucket, reach_on_disk
from training.runner.processes import end_child, has_ended, reap, start_child, tell, wait_until, write_pid_file
from training.untrusted import is_single_name

log = logging.getLogger(__name__)

PUSHER_RETRY_SECONDS = 30.0
HANG_SECONDS = 600.0
"""A pusher that waits for its next round wakes every second; a request that gets no answer ends after a minute."""
KILL_SECONDS = 10.0


def runs_in(url: str) -> list[str]:
    """Names of the runs that a bucket has; what is no name of a run is passed over."""
    found = (re.fullmatch(r"runs/([^/]+)/run\.json", name) for name in open_bucket(url).listing("runs", pass_over=True))
    return sorted(match[1] for match in found if match and is_single_name(match[1]))


class BucketSide:
    """Nothing at all for a job without a bucket."""

    def __init__(self, paths: JobPaths, job: Job, pause_seconds: float, hang_seconds: float = HANG_SECONDS) -> None:
        self.paths, self.url, self.name = paths, job.bucket, job.name
        self.pause_seconds = pause_seconds
        self.holder = holder_of(paths.folder)
        self.has_answered = False
        """Whether it was ours to write when it was last claimed."""
        self.pusher: subprocess.Popen[bytes] | None = None
        self.hang = HangWatch(hang_seconds)
        self._started = 0.0

    def claim(self) -> None:
        """Raises: Taken while another machine writes this run; RunError without an answer, or if we are not let in (yet)."""
        if self.url is None:
            return
        try:
            claim(self.url, self.name, self.holder)
            self.has_answered = True
        except Taken:  # nothing else that a bucket says is for good
            raise
        except UserError as refusal:
            raise RunError(str(refusal)) from None

    def release(self) -> None:
        """Give the lease back."""
        if self.url is not None:
            with suppress(UserError, RunError):  # it goes stale by itself
                release(self.url, self.name, self.holder)

    def is_further_than(self, here: Reach) -> bool:
        """Whether the run went on elsewhere: the bucket has it further than this disk.

        Raises: UserError if it was begun anew elsewhere; RunError without an answer, or if we are not let in (yet).
        """
        there = self._reach()
        if there is not None and here.is_older_than(there):
            raise UserError(older_than(here, there, f"{self.url}/runs/{self.name}", self.paths.run))
        return there is not None and here.is_behind(there)

    def pull(self, intact: int = NO_STEP) -> None:
        """Bring the newest checkpoint that verifies, with what belongs to it, if the bucket has one of this run.

        Args:
            intact: Step of the newest checkpoint here that is not damaged.

        Raises: RunError without an answer, or if we are not let in (yet).
        """
        there = self._reach()
        if self.url is None or there is None or there.step == NO_STEP or not self._is_of_this_run(there):
            return
        log.info("supervisor: bringing the run from %s, which has step %d", self.url, there.step)
        for damaged in complete_checkpoints(self.paths.checkpoints):
            if damaged.step > intact:
                (damaged.folder / MANIFEST).unlink()
        pull_run(self.url, self.name, self.paths.run, checkpoints="newest")

    def _reach(self) -> Reach | None:
        if self.url is None:
            return None
        try:
            bucket, prefix = open_bucket(self.url), f"runs/{self.name}"
            return reach_in_bucket(bucket, prefix, bucket.listing(prefix, pass_over=True))
        except UserError as refusal:
            raise RunError(str(refusal)) from None

    def _is_of_this_run(self, there: Reach) -> bool:
        """Whether it is the run that is on this disk, if any is; one that was begun anew elsewhere takes its place."""
        run, here = self.paths.run, reach_on_disk(self.paths.run)
        if here is None:
            return (run / MARK).exists() or not holds_files(run)
        if here.step == NO_STEP and here.is_older_than(there):
            log.info("supervisor: %s has no checkpoint, and the run was begun anew elsewhere: removing it", run)
            shutil.rmtree(run)
            return True
        return here.run_id == there.run_id

    def start_pusher(self, *options: str) -> None:
        """Start the process that pushes."""
        if self.url is None:
            return
        self._started = time.monotonic()
        command = own_command(self.paths.root, "push", self.name, *options)
        # A log of its own: a line about the last push would make job.log differ from what was pushed.
        try:
            self.pusher = start_child(command, self.paths.code, self.paths.folder / "push.log", dict(os.environ))
        except OSError as error:  # a full disk
            log.warning("supervisor: the pusher does not start: %s", error)
            time.sleep(self.pause_seconds)
            return
        write_pid_file(self.paths.pusher_pid_file, self.pusher.pid)
        self.hang = HangWatch(self.hang.seconds)

    def keep_pusher(self) -> None:
        """Start it again, in time, if it has died; at once if it hangs."""
        if self.pusher is not None and self._ends_hung(self.pusher):
            self.start_pusher()
        if self.pusher is None or not has_ended(self.pusher):
            return
        if time.monotonic() - self._started >= PUSHER_RETRY_SECONDS:
            log.info("supervisor: the pusher ended with code %d: starting it again", reap(self.pusher))
            self.start_pusher()

    def finish(self, gives_up: Callable[[], bool]) -> bool:
        """Wait until everything is safe, however long it takes, or until `gives_up`. The pusher lets go of the lease.

        SIGTERM tells it that the run has ended; one that has died, or was not yet listening, is followed by one that only ends.

        Returns: whether everything is safe.
        """
        if self.url is None:
            return True
        if self.pusher is not None:
            tell(self.pusher, signal.SIGTERM)
        while self.pusher is None or self._code(self.pusher, gives_up) != 0:
            if gives_up():
                return False
            if self.pusher is not None:
                time.sleep(self.pause_seconds)
            self.start_pusher("--rest")
        self.pusher = None
        return True

    def _code(self, pusher: "subprocess.Popen[bytes]", gives_up: Callable[[], bool]) -> int | None:
        wait_until(lambda: has_ended(pusher) or gives_up() or self._ends_hung(pusher), float("inf"), every=0.2)
        return reap(pusher) if has_ended(pusher) else None

    def _ends_hung(self, pusher: "subprocess.Popen[bytes]") -> bool:
        """Whether the pusher hung, and was killed: one that the kernel does not let go of (a disk that is away) is left behind."""
        if has_ended(pusher) or not self.hang.sees(pusher.pid):
            return False
        log.info("supervisor: the pusher has not moved for %g s: ending it", self.hang.seconds)
        with suppress(ProcessLookupError):
            os.killpg(pusher.pid, signal.SIGKILL)
        wait_until(lambda: has_ended(pusher), KILL_SECONDS)
        return True

    def kill(self) -> None:
        """Leave no process behind."""
        if self.pusher is not None:
            end_child(self.pusher, 0.0)
