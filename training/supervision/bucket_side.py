"""What the supervisor does about the bucket: the lease, a run brought to a fresh machine, and the pusher beside the run."""

import logging
import os
import signal
import subprocess
import time

from training.checkpoints.bucket import open_bucket
from training.checkpoints.lease import claim, holder_of
from training.checkpoints.pull import pull_run
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
        """Raises: Refused while another machine writes this run; Failed without an answer."""
        if self.url is not None:
            claim(self.url, self.name, self.holder)

    def pull(self) -> None:
        """Bring the newest checkpoint that verifies, with what belongs to it, if there is one. Raises: Failed without an answer."""
        if self.url is not None and open_bucket(self.url).generation(f"runs/{self.name}/run.json"):
            log.info("supervisor: bringing the run from %s", self.url)
            pull_run(self.url, self.name, self.paths.run, checkpoints="newest")

    def start_pusher(self, *options: str) -> None:
        """Start the process that pushes."""
        if self.url is None:
            return
        self._started = time.monotonic()
        command = own_command(self.paths.root, "push", self.name, *options)
        # A log of its own: a line about the last push would make training.log differ from what was pushed.
        self.pusher = start_child(command, self.paths.code, self.paths.folder / "push.log", dict(os.environ))
        write_pid_file(self.paths.pusher_pid_file, self.pusher.pid)

    def keep_pusher(self) -> None:
        """Start it again, in time, if it has died."""
        if self.pusher is None or not has_ended(self.pusher):
            return
        if time.monotonic() - self._started >= PUSHER_RETRY_SECONDS:
            log.info("supervisor: the pusher ended with code %d: starting it again", reap(self.pusher))
            self.start_pusher()

    def finish(self) -> None:
        """Wait until everything is safe, however long it takes. The pusher lets go of the lease.

        SIGTERM tells it that the run has ended; one that has died, or was not yet listening, is followed by one that only ends.
        """
        if self.url is None:
            return
        if self.pusher is not None:
            tell(self.pusher, signal.SIGTERM)
        while self.pusher is None or self._code(self.pusher) != 0:
            if self.pusher is not None:
                time.sleep(self.pause_seconds)
            self.start_pusher("--rest")
        self.pusher = None

    def _code(self, pusher: "subprocess.Popen[bytes]") -> int:
        wait_until(lambda: has_ended(pusher), float("inf"), every=0.2)
        return reap(pusher)

    def kill(self) -> None:
        """Leave no process behind."""
        if self.pusher is not None:
            end_child(self.pusher, 0.0)
