"""One job from its start to its end, through crashes, hangs, preemptions and reboots; then all of it to the bucket."""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from types import FrameType
from typing import Literal

from training.checkpoints.manifest import complete_checkpoints, newest_intact
from training.checkpoints.progress_file import Progress, read_progress
from training.errors import RunError, UserError
from training.runner.attempts import Attempts, Timing
from training.runner.begun import began_as, has_other_length, holds_files
from training.runner.bucket_side import BucketSide
from training.runner.guards.disk import DiskGuard
from training.runner.guards.gpu import ask_gpu, needs_gpu
from training.runner.guards.memory import memory_kills, what_to_do
from training.runner.guards.preemption import PreemptionWatch
from training.runner.guards.watchdog import Watchdog, end_hung
from training.runner.job import Job, JobPaths, environment_of
from training.runner.mirror.pull import MARK as PULL_MARK
from training.runner.mirror.reach import reach_on_disk
from training.runner.processes import (
    boot_id,
    end_child,
    end_orphan,
    has_ended,
    start_child,
    wait_until,
    write_pid_file,
)
from training.runner.run_file import RunSettings, settings_of
from training.runner.state import (
    FINAL,
    Ending,
    Phase,
    Start,
    State,
    Verdict,
    is_finished,
    judge,
    limit_of_restarts,
    newest_step,
    now,
    read_state,
    seconds_of,
    write_state,
)
from training.runner.stopped import was_stopped_after

log = logging.getLogger(__name__)

Command = Callable[[JobPaths, tuple[str, ...]], list[str]]
Cause = Literal["stopped", "preempted", "no space", "hung"]
TAIL_CHARACTERS = 8000


class Supervisor:
    """Holds the lock of one job."""

    def __init__(self, paths: JobPaths, job: Job, by_boot: bool, command: Command, timing: Timing, since: float) -> None:
        self.paths, self.job, self.by_boot, self.command, self.timing, self.since = paths, job, by_boot, command, timing, since
        self.told = False
        self.preemption = PreemptionWatch()
        self.disk = DiskGuard(paths, job.min_free_gib, timing.disk)
        self.bucket = BucketSide(paths, job, timing.pause, timing.pusher)
        self.attempt = Attempts(timing, by_boot, lambda: self._asked() is not None)
        self.child: subprocess.Popen[bytes] | None = None
        self.state = read_state(paths) or State("starting")
        self.log_began = self.memory_kills = 0

    def run(self) -> int:
        """Everything, whatever goes wrong."""
        for number in (signal.SIGTERM, signal.SIGINT):  # before anyone knows whom to send them to
            signal.signal(number, self._hear)
        write_pid_file(self.paths.pid_file, os.getpid())
        self.paths.given_up.unlink(missing_ok=True)
        try:
            self._end_orphans()
            verdict = self._outcome()
            self._say(verdict.phase, verdict.reason)
            is_safe = self.bucket.finish(self.paths.given_up.exists)
        except (UserError, RunError):
            self._forget_pid()
            raise
        finally:
            if self.child is not None:
                end_child(self.child, self.timing.term)
            self.bucket.kill()
        self._forget_pid()
        return 1 if verdict.phase == "failed" or not is_safe else 0

    def _forget_pid(self) -> None:
        """A pid file that is left tells of a kill: the idle guard and cron start that supervisor again."""
        with suppress(OSError):
            self.paths.pid_file.unlink(missing_ok=True)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.told = True

    def _outcome(self) -> Verdict:
        """What becomes of the job; at once for one that only has to be pushed."""
        was_stopped = self._is_stopped()
        if was_stopped or (self.by_boot and self.state.phase in FINAL):
            with suppress(RunError):  # the pusher asks again
                self.bucket.claim()
            is_final = self.by_boot and self.state.phase in FINAL
            return Verdict(self.state.phase, self.state.reason) if is_final else Verdict("stopped", "by the user")
        if not self.by_boot:
            for path in (self.paths.stopped, self.paths.revived):
                path.unlink(missing_ok=True)
            self.state = replace(self.state, counted_from=len(self.state.starts))
        self.preemption.start()
        self._say("starting", "")
        try:
            self._claim()
        except (UserError, RunError) as error:  # nothing is pushed either
            verdict = self._given_up(error)
            self._say(verdict.phase, verdict.reason)
            raise
        try:
            settings = self._settings()
            self._bring(settings)
            self.bucket.start_pusher()
            return self._runs(settings)
        except (UserError, RunError, OSError) as error:
            return self._given_up(error)

    def _is_stopped(self) -> bool:
        """Whether the user's stop holds: after a boot, and if it was said after the word to train."""
        return self.paths.stopped.exists() if self.by_boot else was_stopped_after(self.paths, self.since)

    def _given_up(self, error: Exception) -> Verdict:
        """What passes by itself is no failure where nobody looked, or the job was told to end meanwhile."""
        if isinstance(error, RunError) and (asked := self._asked()) is not None:
            return self._ended_by(asked)
        return Verdict("interrupted" if isinstance(error, RunError) and self.by_boot else "failed", str(error))

    def _runs(self, settings: RunSettings) -> Verdict:
        """Start the run again and again until there is nothing more to do, or no point in it."""
        gives_up = limit_of_restarts(self.state, self.job)
        while True:
            if self._is_finished(settings):
                return Verdict("finished", "")
            if (asked := self._asked()) is not None:
                return self._ended_by(asked)
            if gives_up is not None:
                return gives_up
            if needs_gpu(settings, self.paths.run):
                self.attempt.to("reach the GPU", ask_gpu)
            code = self._one_start(settings)
            ended = self.state.starts[-1].ended
            if self._is_finished(settings):
                self._end_start("finished")
                continue
            if ended in ("stopped", "preempted", "no space"):
                return self._ended_by(ended)
            gives_up = judge(self.state, self.job, code)
            if gives_up is not None:
                self.state = replace(self.state, tail=self._tail())
            elif not self.disk.has_room(now=True):
                return self._ended_by("no space")
            else:
                log.info("supervisor: %s at step %d: starting again", ended, self.state.starts[-1].reached_step)
                wait_until(lambda: self._asked() is not None, self.timing.pause)

    def _is_finished(self, settings: RunSettings) -> bool:
        return is_finished(self.paths, settings.max_steps, settings.early_stopping) and not has_other_length(self.paths, settings)

    def _one_start(self, settings: RunSettings) -> int:
        """Start the run and watch it until it has ended.

        Returns: its exit code, negative for a signal.
        """
        words, own = self._start_words(settings), self._owns_run(settings)
        environment = dict(os.environ)
        self.attempt.to("get its tokens", lambda: environment.update(environment_of(self.paths, self.job)), patient=True)
        start = Start(now(), boot_id(), newest_step(self.paths), 0, 0)
        self.state = replace(self.state, starts=(*self.state.starts, start), begun=own)
        self._say("starting", "")
        self.log_began = self.paths.log.stat().st_size if self.paths.log.exists() else 0
        began, self.memory_kills = time.monotonic(), memory_kills()
        self.child = start_child(self.command(self.paths, words), self.paths.code, self.paths.log, environment)
        write_pid_file(self.paths.run_pid_file, self.child.pid)
        cause = self._watch(self.child, began)
        if cause is not None:
            log.info("supervisor: ending the run: %s", cause)
            self._say("stopping", cause)
        if cause == "hung":
            code = end_hung(self.child, self.timing.dump, self.timing.hung_term)
        else:
            code = end_child(self.child, self.timing.term if cause else 0.0)
        self.child = None
        self._end_start(cause or self._own_end(code), time.monotonic() - began)
        log.info("supervisor: the run ended with %s", f"signal {-code}" if code < 0 else f"exit code {code}")
        return code

    def _own_end(self, code: int) -> Ending:
        """What a run that nobody ended has come to: a killed loader worker ends it with an exit code of its own."""
        if code == 2:
            return "refused"
        if code != 0 and memory_kills() > self.memory_kills:
            log.info("supervisor: %s", what_to_do())
            return "out of memory"
        return "crashed"

    def _watch(self, child: "subprocess.Popen[bytes]", began: float) -> Cause | None:
        """Look on until the run has ended by itself (None), or has to be ended."""
        watchdog = Watchdog(self.job, began)
        while not has_ended(child):
            if (asked := self._asked()) is not None:
                return asked
            progress = self._progress_of(child.pid)
            if progress is not None and self.state.phase == "starting":
                self._say("running", "")
            if watchdog.sees_hang(progress, time.monotonic()):
                return "hung"
            if not self.disk.has_room():
                return "no space"
            self.bucket.keep_pusher()
            time.sleep(self.timing.tick)
        return self._asked()  # a shutdown tells both, and the run may be the first to go

    def _asked(self) -> Cause | None:
        """Whether the job is to end, and why."""
        if self.told:
            return "stopped"
        return "preempted" if self.preemption.taken.is_set() else None

    def _ended_by(self, cause: str) -> Verdict:
        if cause == "no space":
            return Verdict("stopped", self.disk.reason())
        if cause == "stopped" and self.paths.stopped.exists():
            return Verdict("stopped", "by the user")
        reason = "Google takes the machine back" if cause == "preempted" else "the supervisor was told to end"
        return Verdict("interrupted", f"{reason}; the boot hook goes on from the newest checkpoint")

    def _start_words(self, settings: RunSettings) -> tuple[str, ...]:
        """How the run is to begin. A run directory that was there before this job is `fit`'s to refuse."""
        if self._bring(settings):
            return ("resume=true", "overwrite=false")
        if not self._owns_run(settings):
            return ()
        if not (self.paths.run / "run.json").exists():  # killed before the folder had its first file: fit would not know it
            for partial in self.paths.run.glob(".*.partial"):
                partial.unlink()
            with suppress(OSError):
                self.paths.checkpoints.rmdir()
            return ()
        return ("resume=false", "overwrite=true")

    def _owns_run(self, settings: RunSettings) -> bool:
        """Whether what the run directory holds is this job's: a state.json that was lost takes nobody's run away from him."""
        return self.state.begun or not holds_files(self.paths.run) or began_as(self.paths, settings)

    def _settings(self) -> RunSettings:
        found: list[RunSettings] = []

        def ask() -> None:
            found.append(settings_of(self.paths.run_file, self.paths.code))

        self.attempt.to("learn what its run file asks for", ask, patient=True)
        settings = found[-1]
        if settings.name != self.job.name:
            raise UserError(f"{self.paths.run_file}: name: {settings.name} (accepted: {self.job.name}, the name of the job)")
        return settings

    def _progress_of(self, pid: int) -> Progress | None:
        progress = read_progress(self.paths.run)
        return progress if progress is not None and progress.pid == pid else None

    def _end_start(self, ended: Ending, seconds: float | None = None) -> None:
        """Write down how the latest start ended."""
        latest = self.state.starts[-1]
        progress = read_progress(self.paths.run)
        saved = newest_step(self.paths)
        reached = progress.step if progress is not None and progress.time >= seconds_of(latest.time) else latest.from_step
        if seconds is None:
            seconds = latest.seconds
        latest = replace(latest, reached_step=max(reached, saved), saved_step=saved, seconds=round(seconds, 1), ended=ended)
        self.state = replace(self.state, starts=(*self.state.starts[:-1], latest))
        write_state(self.paths, self.state)

    def _end_orphans(self) -> None:
        """A supervisor that was killed may have left its run, its pusher and an open start."""
        end_orphan(self.paths.pusher_pid_file, self.timing.hung_term)
        if end_orphan(self.paths.run_pid_file, self.timing.term):
            log.info("supervisor: ended the run that an earlier supervisor had left")
        if self.state.starts and not self.state.starts[-1].ended:
            latest = self.state.starts[-1]
            progress = read_progress(self.paths.run)
            lived = max(0.0, progress.time - seconds_of(latest.time)) if progress is not None else 0.0
            self._end_start("rebooted" if latest.boot != boot_id() else "unsupervised", lived)

    def _claim(self) -> None:
        """Be the one machine that writes this run to its bucket. A bucket that does not answer holds up only a fresh machine.

        Raises: Taken; UserError if the run was begun anew elsewhere; RunError on a fresh machine.
        """
        is_fresh = not complete_checkpoints(self.paths.checkpoints)
        try:
            self.attempt.to("claim the run in its bucket", self.bucket.claim, patient=is_fresh)
        except RunError as error:
            if is_fresh:
                raise
            log.info("supervisor: %s: going on without", error)
        try:
            self._went_on_elsewhere()
        except UserError:
            self.bucket.release()
            raise

    def _bring(self, settings: RunSettings) -> bool:
        """Without an intact checkpoint on this disk, or where the run went on elsewhere: the newest one that the bucket has.

        Returns: whether there is one to go on from.
        """
        is_partial = (self.paths.run / PULL_MARK).exists()
        own = newest_intact(self.paths.checkpoints)
        if own is not None and not is_partial:
            if self._went_on_elsewhere():
                self.attempt.to("bring the run from its bucket", lambda: self.bucket.pull(own.step), patient=True)
            return True
        if self.job.bucket is None or not (is_partial or self._owns_run(settings)):
            return False
        if not self.state.begun:
            self.state = replace(self.state, begun=True)
            write_state(self.paths, self.state)
        self.attempt.to("bring the run from its bucket", self.bucket.pull, patient=True)
        return newest_intact(self.paths.checkpoints) is not None

    def _went_on_elsewhere(self) -> bool:
        """Whether the bucket has the run further than this disk has it intact.

        Without an answer it is taken not to: until the run here is further, the pusher sends nothing.

        Raises: UserError if it was begun anew elsewhere, and has a checkpoint here too.
        """
        here, own = reach_on_disk(self.paths.run), newest_intact(self.paths.checkpoints)
        if here is None or own is None or not self.bucket.has_answered:
            return False
        intact, found = replace(here, step=own.step), list[bool]()
        try:
            self.attempt.to("ask how far its bucket is", lambda: found.append(self.bucket.is_further_than(intact)))
        except RunError as error:
            log.info("supervisor: %s: going on without", error)
        return any(found)

    def _say(self, phase: Phase, reason: str) -> None:
        self.state = replace(self.state, phase=phase, reason=reason, supervisor=os.getpid())
        log.info("supervisor: %s%s", phase, reason and f": {reason}")
        write_state(self.paths, self.state)  # after the log line: what is pushed last is whole

    def _tail(self) -> str:
        with self.paths.log.open("rb") as file:
            file.seek(self.log_began)
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(line for line in lines if not line.startswith("supervisor: "))[-TAIL_CHARACTERS:].strip()
