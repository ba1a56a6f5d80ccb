"""The pusher: a process beside the run that brings what the run has finished to the bucket, and says how that stands."""

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from training.checkpoints.manifest import MANIFEST, Checkpoint, complete_checkpoints
from training.errors import RunError, UserError
from training.run_facts import facts_of, run_id_of
from training.runner.bucket.bucket import Stored, open_bucket
from training.runner.mirror.lease import RENEW_SECONDS, claim_in, holder_of, release_in
from training.runner.mirror.outgoing import NO_ROOM, copy_whole, hold, md5_by_name
from training.runner.mirror.push_state import (
    STATE,
    PushState,
    Record,
    Version,
    failed,
    manifests,
    prune_local,
    push_state_of,
    read_push_state,
    read_record,
    small_files,
    steps_left_to_bucket,
    unsendable,
)
from training.runner.mirror.reach import older_than, reach_in_bucket, reach_on_disk, remove_manifests_first, set_aside
from training.text import escaped

__all__ = ["PushFailed", "PushState", "Pusher", "prune_local", "read_push_state"]

log = logging.getLogger(__name__)

LOCK = "push.lock"
HELD = ".held"
LOCK_SECONDS = 600.0
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 5.0, 300.0
POLL_SECONDS = 1.0
LONGEST_INTERVAL_SECONDS = 600.0  # the lease is renewed by rounds, and goes stale after 15 minutes


class PushFailed(RunError):
    """A round did not succeed; the next may."""


class Pusher:
    """Pushes one run. `run` is its directory, `job` the folder of its job, where push.json is written.

    Units: `interval_seconds` from the end of one round to the beginning of the next, 10 minutes at most.
    Raises: UserError for a URL that is no bucket.
    """

    def __init__(self, run: Path, job: Path, bucket_url: str, interval_seconds: float) -> None:
        self.run, self.job = Path(os.path.abspath(run)), Path(os.path.abspath(job))
        self.interval_seconds = min(interval_seconds, LONGEST_INTERVAL_SECONDS)
        self.bucket, self.prefix, self.holder = open_bucket(bucket_url), f"runs/{run.name}", holder_of(job)
        known = read_record(self.job)
        same = known is not None and (known.run, known.bucket) == (str(self.run), self.bucket.url)
        self._record = known if known is not None and same else Record(str(self.run), self.bucket.url)
        self._compared = False
        """Whether this process has seen the bucket: what push.json says of it is not taken on trust."""
        self._leftovers = False
        """Whether a checkpoint was rotated away while it was sent."""
        self._renewed = float("-inf")
        """By the clock that goes on while a machine is suspended [seconds]."""
        self._ended = False

    # --- rounds ---

    def once(self) -> None:
        """One complete round: all that the run has finished is then in the bucket.

        Raises: PushFailed, after which another round may succeed.
        """
        try:
            with self._alone():
                self._round()
        except (UserError, RunError, OSError) as error:
            self._record = failed(self._record, str(error))
            with contextlib.suppress(OSError):  # on a full disk the word that it is full cannot be written
                self._record.write(self.job)
            raise PushFailed(str(error)) from error

    def forever(self) -> int:
        """Rounds, on the interval and for every new checkpoint, until SIGTERM says that the run has ended; then all that is left.

        Returns: 0, when the bucket has everything.
        """
        before = signal.signal(signal.SIGTERM, self._end)
        os.nice(10)
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one core: the rest is the run's
        try:
            while True:
                ended = self._ended
                try:
                    self.once()
                except PushFailed as error:
                    log.warning("push: %s", error)
                    pause = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(self._record.failures - 1, 10))
                    self._wait(pause, ended, idle=False)
                    continue
                if self._leftovers:
                    continue
                if ended:
                    break
                self._wait(self.interval_seconds, ended, idle=self._record.ahead is None)
            with contextlib.suppress(UserError, RunError):  # it goes stale by itself
                release_in(self.bucket, self.run.name, self.holder)
        finally:
            signal.signal(signal.SIGTERM, before)
        return 0

    def _end(self, *_: object) -> None:
        self._ended = True

    def _wait(self, seconds: float, ended: bool, idle: bool) -> None:
        """Sleep, but not through the end of the run, that may have come since `ended` was asked, nor, when `idle`, a checkpoint."""
        until = time.monotonic() + seconds
        pushed = {*(self._record.sent or {}), *self._record.damaged}
        while (left := until - time.monotonic()) > 0 and self._ended == ended:
            if idle and set(manifests(self.run)) - pushed:
                return
            time.sleep(min(left, POLL_SECONDS))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One round of a job at a time, in whatever process."""
        lock = os.open(self.job / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            until = time.monotonic() + LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise RunError(f"{self.job / LOCK}: another push of this run has been going on for 10 minutes") from None
                    time.sleep(0.05)
            yield
        finally:
            os.close(lock)

    def _round(self) -> None:
        began = time.time()
        self._renew()
        run_id = run_id_of(_read(self.run / "run.json"))
        ahead = None if run_id is None else self._push_checkpoints(run_id)
        if ahead is None:
            self._push_files(run_id)
        self._record = replace(self._record, sent_at=began, failures=0, error=None, ahead=ahead)
        self._compared = ahead is None
        self._note()

    def _renew(self) -> None:
        """Raises: UserError if another machine has taken the lease: from then on it writes the run."""
        now = time.clock_gettime(time.CLOCK_BOOTTIME)  # goes on while a machine is suspended
        if now - self._renewed > RENEW_SECONDS:
            was_ours = claim_in(self.bucket, self.run.name, self.holder)
            self._renewed = now
            if self._compared and not was_ours:
                self._compared = False
                raise RunError(
                    f"{self.bucket.url}/{self.prefix}: the lease was lost meanwhile; the next round looks at what is there"
                )

    def _note(self) -> None:
        """Write push.json; on a full disk make room for it with what has just been pushed.

        Without it the disk guard knows of nothing that may go. What cannot be written all the same is no reason not to push.
        """
        for attempt in (1, 2):
            try:
                return self._record.write(self.job)
            except OSError as error:
                log.warning("push: %s cannot be written: %s", self.job / STATE, error.strerror)
                if error.errno not in NO_ROOM or attempt == 2 or not self._compared:
                    return
                freed = prune_local(self.run, push_state_of(self._record, self.job))
                log.warning("push: the disk is full: removed %.3f GiB of checkpoints that the bucket has", freed / 2**30)

    # --- checkpoints ---

    def _push_checkpoints(self, run_id: str) -> int | None:
        """The newest first: after a long outage it is what matters.

        Returns: the bucket's newest step, if this run is further there: then nothing is sent.
        """
        sent = self._record.sent or {}
        local = {name: Version.of(path) for name, path in manifests(self.run).items()}
        known = {name for name, version in local.items() if sent.get(name) == version or name in self._record.damaged}
        listed = {name for name in sent if name.endswith(f"/{MANIFEST}")}
        unchanged = known == set(local) == listed | set(self._record.damaged) and not self._leftovers
        if self._compared and run_id == self._record.run_id and unchanged:
            return None
        self._leftovers = False
        objects = self.bucket.listing(self.prefix, pass_over=True)
        if not self._compared or run_id != self._record.run_id:
            if (ahead := self._step_ahead(objects)) is not None:
                return ahead
            objects = self._begin(run_id, objects)
        for checkpoint in reversed(complete_checkpoints(self.run / "checkpoints")):
            self._push_checkpoint(checkpoint, objects)
        self._prune(objects)
        return None

    def _step_ahead(self, objects: dict[str, Stored]) -> int | None:
        """The bucket's newest step, if it has this run further than this disk: it went on elsewhere.

        Raises: RunError if it was begun anew elsewhere: what is older takes nobody's place.
        """
        here, there = reach_on_disk(self.run), reach_in_bucket(self.bucket, self.prefix, objects)
        if here is None or there is None:
            return None
        if here.is_older_than(there):
            raise RunError(older_than(here, there, f"{self.bucket.url}/{self.prefix}", self.run))
        if not here.is_behind(there):
            return None
        if self._record.ahead is None:
            log.info("push: the bucket has step %d of this run, and this disk %d: nothing is sent", there.step, here.step)
        return there.step

    def _begin(self, run_id: str, objects: dict[str, Stored]) -> dict[str, Stored]:
        """Make sure that what the bucket has under this name is of this run, and says so."""
        theirs = facts_of(self.bucket.read(f"{self.prefix}/run.json"))
        if theirs is None or theirs.run_id != run_id:
            if any(name.startswith(f"{self.prefix}/checkpoints/") for name in objects) or theirs is not None:
                set_aside(self.bucket, self.prefix, theirs, objects)
                objects = {}
            self._record = Record(self._record.run, self._record.bucket, failures=self._record.failures, error=self._record.error)
            text = _read(self.run / "run.json")
            if run_id_of(text) != run_id:
                raise RunError(f"{self.run}: the run was begun anew during this round; the next round pushes it")
            if config := _read(self.run / "config.yaml"):  # before any checkpoint: without it nothing can go on from one
                self.bucket.write(f"{self.prefix}/config.yaml", config)
            self.bucket.write(f"{self.prefix}/run.json", text)
        self._record = replace(self._record, run_id=run_id)
        return objects

    def _push_checkpoint(self, checkpoint: Checkpoint, objects: dict[str, Stored]) -> None:
        """Payload, a look at what has arrived, and only then the manifest.

        What is sent are hard links: where checkpoints rotate faster than they are sent, none would ever arrive otherwise.
        """
        folder = f"checkpoints/{checkpoint.folder.name}"
        name, there = f"{folder}/{MANIFEST}", f"{self.prefix}/{folder}"
        try:
            version, manifest = Version.of(checkpoint.folder / MANIFEST), _read(checkpoint.folder / MANIFEST)
            if self._compared and ((self._record.sent or {}).get(name) == version or name in self._record.damaged):
                return
            held = hold(checkpoint, self.job / HELD)
            payload = md5_by_name(held, checkpoint)
            if payload is None:
                log.warning("%s: damaged: a file does not have the SHA-256 of its manifest; it is not pushed", checkpoint.folder)
                self._record = replace(self._record, damaged=tuple({*self._record.damaged, name}))
                return
            wanted = {f"{there}/{file}": md5 for file, md5 in payload.items()}
            stored = objects.get(f"{there}/{MANIFEST}")
            has_manifest = stored is not None and stored.md5 == hashlib.md5(manifest, usedforsecurity=False).hexdigest()
            if not (has_manifest and _arrived(wanted, objects)):
                if stored is not None:  # of another payload
                    self.bucket.remove([f"{there}/{MANIFEST}"])
                    del objects[f"{there}/{MANIFEST}"]
                self._renew()
                self.bucket.send(held, there, skip=(MANIFEST,))
                objects |= (found := self.bucket.listing(there))
                if not _arrived(wanted, found):
                    self.bucket.remove(found)
                    raise RunError(
                        f"{self.bucket.url}/{there}: what has arrived is not what was sent; the next round sends it again"
                    )
                if run_id_of(_read(self.run / "run.json")) != self._record.run_id:
                    raise RunError(f"{self.run}: the run was begun anew during this round; the next round pushes it")
                self._renew()
                self.bucket.write(f"{there}/{MANIFEST}", manifest)
                objects[f"{there}/{MANIFEST}"] = Stored(len(manifest), None, 0)  # pruned in this very round if it is rotated away
                log.info("pushed %s/%s", self.bucket.url, there)
        except (OSError, RunError):
            if checkpoint in complete_checkpoints(self.run / "checkpoints"):
                raise
            self._leftovers = True
            return  # rotated away meanwhile; what has arrived is pruned
        finally:
            shutil.rmtree(self.job / HELD, ignore_errors=True)
        self._record = replace(self._record, sent={**(self._record.sent or {}), name: version})
        self._note()

    def _prune(self, objects: dict[str, Stored]) -> None:
        """Remove from the bucket what is older than the newest checkpoint here and has been rotated away here.

        A disk without a complete checkpoint says nothing of what may go.
        """
        sent, local = self._record.sent or {}, manifests(self.run)
        self._record = replace(self._record, sent={name: v for name, v in sent.items() if name in local or MANIFEST not in name})
        safe = sorted(name for name in local if name in sent)
        if not safe or safe[-1] != max(local):
            return
        root = f"{self.prefix}/checkpoints/"
        gone: dict[str, int] = {}
        for name in objects:
            folder = name.removeprefix(root).partition("/")[0]
            step = folder.removeprefix("step=")
            if name.startswith(f"{root}step=") and step.isdecimal() and f"checkpoints/{folder}/" < safe[-1]:
                if not (self.run / "checkpoints" / folder).exists():
                    gone[name] = int(step)
        left = steps_left_to_bucket(self.run)  # after the look at the folders: the disk guard may have been at work meanwhile
        remove_manifests_first(self.bucket, (name for name, step in gone.items() if step not in left))

    # --- all other files ---

    def _push_files(self, run_id: str | None) -> None:
        """What has changed since it was sent, as a copy: a log that grows while it is sent has one length."""
        sent, files = dict(self._record.sent or {}), small_files(self.run, self.job)
        if run_id is None:  # the run has not begun; a disk that was wiped removes nothing from the bucket
            files = {name: path for name, path in files.items() if name.startswith("job/")}
        if not self._compared:
            for name in unsendable(self.run):
                log.warning("push: %s/%s: a bucket cannot have a file of this name: it is not sent", self.run, escaped(name))
        outgoing = self.job / ".outgoing"
        shutil.rmtree(outgoing, ignore_errors=True)
        copied: dict[str, Version] = {}
        in_memory: dict[str, bytes] = {}
        for name, path in files.items():
            with contextlib.suppress(FileNotFoundError):
                version = Version.of(path)
                if not self._compared or sent.get(name) != version:
                    if not copy_whole(path, outgoing / name, version):
                        in_memory[name] = path.read_bytes()
                    copied[name] = version
        if run_id is not None and run_id_of(_read(self.run / "run.json")) != run_id:
            raise RunError(f"{self.run}: the run was begun anew during this round; the next round pushes it")
        self._renew()
        if copied:
            self.bucket.send(outgoing, self.prefix)
            shutil.rmtree(outgoing, ignore_errors=True)
        for name, content in in_memory.items():
            self.bucket.write(f"{self.prefix}/{name}", content)
        gone = [name for name in sent if name not in files and not name.endswith(f"/{MANIFEST}")] if run_id is not None else []
        self.bucket.remove([f"{self.prefix}/{name}" for name in gone])
        self._record = replace(self._record, sent={n: v for n, v in {**sent, **copied}.items() if n not in gone})


def _arrived(wanted: dict[str, str], objects: dict[str, Stored]) -> bool:
    return all(name in objects and objects[name].md5 == md5 for name, md5 in wanted.items())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
