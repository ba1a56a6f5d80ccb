"""Who supervises a job: one process at a time, and a person's start only after its bucket was tried."""

import logging
from contextlib import ExitStack
from pathlib import Path

from training.errors import RunError, UserError
from training.runner.attempts import Timing
from training.runner.bucket.bucket import open_bucket
from training.runner.ending import end_at_once
from training.runner.job import Job, JobPaths, fit_command, read_job
from training.runner.mirror.lease import claim, holder_of, release
from training.runner.mirror.push_state import read_record
from training.runner.processes import boot_seconds, held, living
from training.runner.staging import TAKE_OVER, take, turn_away
from training.runner.state import FINAL, read_state
from training.runner.supervisor import Command, Supervisor

log = logging.getLogger(__name__)


def supervise(
    root: Path,
    name: str,
    *,
    by_boot: bool = False,
    staged: Path | None = None,
    command: Command = fit_command,
    timing: Timing | None = None,
    since: float | None = None,
) -> int:
    """Run a job until it has ended for good.

    `by_boot` goes on with what was begun, or only pushes what is left; otherwise the user wants it to run (again), as `staged`
    says, if that is told. A stop that was said after `since` holds all the same.

    Before that the bucket must take an object and let go of it, or the start changes nothing.

    Units: `since` in seconds since boot; None is now.

    Returns: 0, or 1 if the job has failed. What became of it is in state.json.
    Raises: UserError if there is no such job, it has a living supervisor, or its bucket cannot be written.
    """
    paths, since = JobPaths(root.absolute(), name), boot_seconds() if since is None else since
    job = read_job(paths) if staged is None else None  # before a lock is made for a job that is none
    pid = living(paths.pid_file)
    taken = f"{name}: has a living supervisor already, pid {pid}" if pid else f"{name}: is being started or stopped: try again soon"
    try:
        with ExitStack() as lock:
            if staged is not None:
                job = _asked_for(paths, staged)
            if job is None or not _makes_way(paths, job, lock):
                lock.enter_context(held(paths.lock, taken))
            if job is not None and not by_boot:
                _refuse_bucket(paths, job, take_over=staged is not None and (staged / TAKE_OVER).exists())
            if staged is not None:
                take(paths, staged)
            return Supervisor(paths, read_job(paths), by_boot, command, timing or Timing(), since).run()
    except UserError as refusal:
        if staged is not None:
            turn_away(staged, str(refusal))
        raise


def _asked_for(paths: JobPaths, staged: Path) -> Job | None:
    """The job as a laptop asks for it; None if its files were taken at an earlier start, which a kill has ended.

    Raises: UserError if job.json there is none.
    """
    file = staged / "job.json"
    return read_job(paths, file) if file.exists() else None


def _makes_way(paths: JobPaths, job: Job, lock: ExitStack) -> bool:
    """End a supervisor that only pushes, where the job is to have another bucket from now on; its lock is then held in `lock`.

    Returns: whether there was one, and it has ended.
    """
    state, pid = read_state(paths), living(paths.pid_file)
    if pid is None or state is None or state.supervisor != pid or state.phase not in (*FINAL, "interrupted"):
        return False
    before = read_job(paths).bucket
    if before == job.bucket:
        return False
    log.info("supervisor: %s only pushes, to %s: from now on it goes to %s", paths.name, before, job.bucket)
    return end_at_once(paths, lock)


def _refuse_bucket(paths: JobPaths, job: Job, take_over: bool = False) -> None:
    """Write the lease of the run and remove it again: exactly what the run will need to do.

    `take_over`: the lease of another machine counts for nothing.

    Raises: UserError if that is not allowed, or without an answer, unless this bucket has taken something of the job before.
    """
    if job.bucket is None:
        return
    holder = holder_of(paths.folder)
    try:
        claim(job.bucket, paths.name, holder, take_over)
        if not take_over:  # nobody may come between; and writing over an object takes the same permission as removing it
            release(job.bucket, paths.name, holder)
    except RunError as failure:
        known = read_record(paths.folder)
        if known is None or known.sent_at is None or known.bucket != open_bucket(job.bucket).url:
            raise UserError(f"{failure}; nothing was started: a bucket that is new to the run must answer first") from None
        log.info("supervisor: %s", failure)
