"""What the supervisor does about the bucket: the lease, a run brought to a fresh machine, and the pusher beside the run."""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable

from training.bucket.bucket import Bucket, open_bucket
from training.checkpoints.lease import Taken, claim, holder_of
from training.checkpoints.manifest import MANIFEST, complete_checkpoints
from training.checkpoints.pull import MARK, pull_run
from training.checkpoints.push_state import beginning_of
from training.refusal import Failed, Refused
from training.supervision.begun import holds_files
from training.supervision.job import Job, JobPaths, own_command
from training.supervision.processes import end_child, has_ended, reap, start_child, tell, wait_until, write_pid_file

log = logging.getLogger(__name__)

PUSHER_RETRY_SECONDS = 30.0


class BucketSide:
    """Nothing at all for a job without a bucket."""

    def __init__(self, paths: JobPaths, job: Job, pause_seconds: float) -> None:
        self.paths, self.url, self.name = paths, job.bucket, job.name
        self.pause_seconds = pause_seconds
        self.holder = holder_of(paths.folder)
        self.pusher: subprocess.Popen[bytes] | None = None
        self._started = 0.0

    def claim(self) -> None:
        """Raises: Taken while another machine writes this run; Failed without an answer, or if we are not let in (yet)."""
        if self.url is None:
            return
        try:
            claim(self.url, self.name, self.holder)
        except Taken:  # nothing else that a bucket says is for good
            raise
        except Refused as refusal:
            raise Failed(str(refusal)) from None

    def pull(self) -> None:
        """Bring the newest checkpoint that verifies, with what belongs to it, if the bucket has one of this run.

        Raises: Failed without an answer, or if we are not let in (yet).
        """
        if self.url is None:
            return
        try:
            has_it = self._has_checkpoint(open_bucket(self.url))
        except Refused as refusal:
            raise Failed(str(refusal)) from None
        if has_it:
            log.info("supervisor: bringing the run from %s", self.url)
            for damaged in complete_checkpoints(self.paths.checkpoints):  # there would be no need to ask, if one were intact
                (damaged.folder / MANIFEST).unlink()
            pull_run(self.url, self.name, self.paths.run, checkpoints="newest")

    def _has_checkpoint(self, bucket: Bucket) -> bool:
        """Of the very beginning that is on this disk, if any is."""
        run, here = self.paths.run, self.paths.run / "run.json"
        theirs = beginning_of(bucket.read(f"runs/{self.name}/run.json"))
        if here.exists():
            is_same = beginning_of(here.read_bytes()) == theirs
        else:
            is_same = (run / MARK).exists() or not holds_files(run)
        if theirs is None or not is_same:
            return False
        return any(name.endswith(f"/{MANIFEST}") for name in bucket.listing(f"runs/{self.name}/checkpoints"))

    def start_pusher(self, *options: str) -> None:
        """Start the process that pushes."""
        if self.url is None:
            return
        self._started = time.monotonic()
        command = own_command(self.paths.root, "push", self.name, *options)
        # A log of its own: a line about the last push would make training.log differ from what was pushed.
        try:
            self.pusher = start_child(command, self.paths.code, self.paths.folder / "push.log", dict(os.environ))
        except OSError as error:  # a full disk
            log.warning("supervisor: the pusher does not start: %s", error)
            time.sleep(self.pause_seconds)
            return
        write_pid_file(self.paths.pusher_pid_file, self.pusher.pid)

    def keep_pusher(self) -> None:
        """Start it again, in time, if it has died."""
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
        wait_until(lambda: has_ended(pusher) or gives_up(), float("inf"), every=0.2)
        return reap(pusher) if has_ended(pusher) else None

    def kill(self) -> None:
        """Leave no process behind."""
        if self.pusher is not None:
            end_child(self.pusher, 0.0)
