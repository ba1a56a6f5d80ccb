"""What is done to jobs from outside: stop, wait, push, the last sync. All may be said twice, or at the same time."""

import logging
import os
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from training.checkpoints.progress_file import read_progress
from training.errors import RunError, UserError
from training.runner.ending import end, end_at_once, tell
from training.runner.going_on import is_safe
from training.runner.job import Job, JobPaths, job_names, read_job, read_jobs
from training.runner.mirror.lease import holder_of, release
from training.runner.mirror.push import Pusher, PushFailed
from training.runner.mirror.push_state import read_push_state
from training.runner.processes import is_held, living
from training.runner.staging import wait_until_taken
from training.runner.state import FINAL, Phase, newest_step, read_state, total_steps, write_state
from training.runner.status import strays
from training.runner.stopped import say_stopped

log = logging.getLogger(__name__)

STOP_SECONDS = 3600.0
APPEAR_SECONDS = 60.0
PUSH_ATTEMPTS = 5
PUSH_PAUSE_SECONDS = 5.0
LOOK_SECONDS = 15.0
TAIL_LINES = 20


def stop(root: Path, name: str, seconds: float = STOP_SECONDS) -> str:
    """End a job for good, with a checkpoint that is pushed.

    Units: `seconds` to wait at most.
    Returns: where it stands, once it is safe to destroy the machine (or there is no bucket, which is then said).
    Raises: RunError if not everything is in the bucket in time; stopped it is all the same.
    """
    paths = JobPaths(root.absolute(), name)
    job = read_job(paths)
    say_stopped(paths)
    with ExitStack() as lock:
        is_late = not end(paths, lock, seconds, _Waiting(paths, job, seconds).tell)
        if is_late and not end_at_once(paths, lock):
            raise RunError(f"{name}: its supervisor does not end, and may go on: NOT safe to destroy")
        _close(paths, "stopped", "by the user")
        step = f"{name}: stopped at step {newest_step(paths)} of {total_steps(paths.run) or 'an unknown number'}{_lost(paths)}"
        if is_late and not is_safe(paths, job, without_bucket=True):
            raise RunError(
                f"{step}; NOT safe to destroy: its bucket has not got everything in {seconds:g} s: {_push_error(paths)}; "
                "say stop again when the bucket answers, or train with another --bucket"
            )
        _bring_to_bucket(paths, job)
    if job.bucket is None:
        return f"{step}; it has no bucket: {paths.run} is on this disk alone, and NOT safe if the disk is destroyed"
    return f"{step}; everything is in {job.bucket}/runs/{name}: safe to destroy"


class _Waiting:
    """Says what a stop waits for: at once when it changes, and every now and then."""

    def __init__(self, paths: JobPaths, job: Job, seconds: float) -> None:
        self.paths, self.job, self.until = paths, job, time.monotonic() + seconds
        self._told, self._next = "", 0.0

    def tell(self) -> None:
        what, how_far = self._what()
        now = time.monotonic()
        if what == self._told and now < self._next:
            return
        self._told, self._next = what, now + LOOK_SECONDS
        log.info("%s: waiting for %s%s (at most %.0f s more)", self.paths.name, what, how_far, max(0.0, self.until - now))

    def _what(self) -> tuple[str, str]:
        if living(self.paths.run_pid_file) is not None:
            return "the run to save a checkpoint", f", after step {newest_step(self.paths)}"
        if living(self.paths.pid_file) is not None and not is_safe(self.paths, self.job, without_bucket=True):
            return f"{self.job.bucket} to have everything", f": {_push_error(self.paths)}"
        return "its supervisor to end", ""


def _lost(paths: JobPaths) -> str:
    progress, saved = read_progress(paths.run), newest_step(paths)
    if progress is None or progress.step <= saved:
        return ""
    return f" (it had reached {progress.step}, and was killed before it could save that)"


def last_sync(root: Path, seconds: float = STOP_SECONDS) -> str:
    """End what lives, to be gone on with elsewhere, and bring everything of every job to its bucket.

    Raises: RunError, naming each job that is not safe.
    """
    jobs, broken = read_jobs(root)
    known = [JobPaths(root.absolute(), name) for name in job_names(root)]
    for paths in known:  # all at once: each takes a while
        tell(paths)
    unsafe = [f"{path}: belongs to no job, and is on this disk alone" for path in strays(root)]
    unsafe += [f"{why} (its run is on this disk alone)" for why in broken.values()]
    with ExitStack() as locks:
        for paths, job in jobs:
            try:
                if not end(paths, locks, seconds):
                    raise RunError(f"{job.name}: its supervisor has not ended within {seconds:g} seconds: {_push_error(paths)}")
                _close(paths, "interrupted", "by the last sync; `train` or the boot hook goes on from the newest checkpoint")
                _bring_to_bucket(paths, job)
                if job.bucket is None:
                    unsafe.append(f"{job.name}: has no bucket: {paths.run} is on this disk alone")
            except (UserError, RunError, OSError) as error:
                unsafe.append(str(error))
    if unsafe:
        raise RunError("; ".join(unsafe))
    return f"everything of {len(jobs)} jobs is in its bucket" if jobs else "no job was ever started here"


def _close(paths: JobPaths, phase: Phase, reason: str) -> None:
    """A supervisor that was killed left its last word open; the bucket is to have a true one."""
    state = read_state(paths)
    if state is None or state.phase in FINAL or state.phase == phase:
        return
    write_state(paths, replace(state, phase=phase, reason=reason))


def _bring_to_bucket(paths: JobPaths, job: Job) -> None:
    """Push what is left without a supervisor, and give the lease back."""
    if job.bucket is None:
        return
    pusher = Pusher(paths.run, paths.folder, job.bucket, job.push_interval_seconds)
    for attempt in range(1, PUSH_ATTEMPTS + 1):
        if is_safe(paths, job):
            break
        try:
            pusher.once()
            break
        except PushFailed as error:
            if attempt == PUSH_ATTEMPTS:
                raise RunError(f"{job.name}: not everything is in {job.bucket}: {error}") from None
        time.sleep(PUSH_PAUSE_SECONDS)
    _release(paths, job.bucket)


def _release(paths: JobPaths, bucket: str) -> None:
    with suppress(UserError, RunError):  # it goes stale by itself
        release(bucket, paths.name, holder_of(paths.folder))


def _push_error(paths: JobPaths) -> str:
    pushed = read_push_state(paths.folder)
    return "nothing was pushed yet" if pushed is None else pushed.error or f"the bucket is {pushed.lag_seconds:.0f} seconds behind"


def wait(root: Path, name: str, seconds: float, staged: Path | None = None) -> str:
    """Wait until the newest start of a job, the one of `staged`, has done its first step (or the run is complete).

    Returns: how far it is.
    Raises: RunError with the end of the log, if the job has ended or `seconds` are over; UserError if `staged` was turned away.
    """
    paths = JobPaths(root.absolute(), name)
    if staged is not None:
        try:
            wait_until_taken(staged, APPEAR_SECONDS, lambda: is_held(paths.lock))
        except RunError as failure:
            raise RunError(f"{failure}\n{tail_of(paths)}") from None
    read_job(paths)
    began, was_alive, told = time.monotonic(), False, ""
    while True:
        state, supervisor = read_state(paths), living(paths.pid_file)
        ours = state is not None and state.supervisor == supervisor  # not what an earlier supervisor has left
        was_alive |= ours
        if state is not None and state.phase == "finished" and (ours or supervisor is None):
            return f"{name}: finished at step {newest_step(paths)}"
        if (step := _stepped(paths)) is not None:
            return step
        gone = supervisor is None and (was_alive or time.monotonic() - began > APPEAR_SECONDS)
        if gone or (state is not None and ours and state.phase in ("stopped", "interrupted", "failed")):
            said = "never started" if state is None else f"{state.phase}: {state.reason}"
            raise RunError(f"{name}: {said}\n{tail_of(paths)}")
        if time.monotonic() - began > seconds:
            raise RunError(f"{name}: no step within {seconds:g} seconds\n{tail_of(paths)}")
        if (trouble := _trouble(paths)) not in ("", told):  # else a start that waits for its bucket or its GPU would be silence
            log.info("%s", told := trouble)
        time.sleep(0.2)


def _trouble(paths: JobPaths) -> str:
    """What the supervisor could not do at its newest attempt, if it is still at it."""
    lines = [line for line in tail_of(paths).splitlines() if line.startswith("supervisor: ")]
    return lines[-1] if lines and "could not" in lines[-1] else ""


def _stepped(paths: JobPaths) -> str | None:
    """How far the living run is, None before its first step."""
    pid, progress = living(paths.run_pid_file), read_progress(paths.run)
    if progress is None or pid != progress.pid:
        return None
    loss = "" if progress.loss is None else f", loss {progress.loss:.6g}"
    return f"{paths.name}: step {progress.step} of {progress.total_steps}{loss}"


def tail_of(paths: JobPaths, lines: int = TAIL_LINES) -> str:
    """The last lines of the job's log."""
    try:
        with paths.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 64 * 1024))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def push(root: Path, name: str, only_the_rest: bool) -> int:
    """The pusher beside a run; or, with `only_the_rest`, after it: until everything is safe."""
    paths = JobPaths(root.absolute(), name)
    job = read_job(paths)
    if job.bucket is None:
        raise UserError(f"{paths.job_file}: bucket: null: there is nothing to push to (accepted: gs://BUCKET, file:///folder)")
    pusher = Pusher(paths.run, paths.folder, job.bucket, job.push_interval_seconds)
    if not only_the_rest:
        return pusher.forever()
    os.nice(10)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    pause = PUSH_PAUSE_SECONDS
    while True:
        try:
            pusher.once()
        except PushFailed as error:
            log.warning("push: %s", error)
            time.sleep(pause)
            pause = min(300.0, 2 * pause)
        else:
            _release(paths, job.bucket)
            return 0
