"""What of a run is in its bucket: the pusher's record, job/push.json, and what may be read off it."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field, TypeAdapter

from training.checkpoints.manifest import MANIFEST, best, complete_checkpoints, folder_of
from training.files import write_json
from training.runner.protocol import LOG, LOG_BEFORE
from training.untrusted import file_below, is_file_below

STATE = "push.json"
FORMAT = 1
"""Of push.json; readers of any version ignore fields that they do not know."""
JOB_FILES = ("job.json", "run.yaml", LOG, LOG_BEFORE, "state.json")
_STEP = re.compile(rf"checkpoints/step=(\d{{9}})/{re.escape(MANIFEST)}")
NOT_FILES = ("checkpoints", "job", "lease.json")
"""What stands at the top of runs/NAME in the bucket, or of the run directory, and is none of the run's small files."""


@dataclass(frozen=True)
class Version:
    """A file as it was at one moment."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "Version":
        """As it is now. Raises: FileNotFoundError."""
        about = path.stat()
        return cls(about.st_size, about.st_mtime_ns)


@dataclass(frozen=True)
class Record:
    """What push.json holds; times are in seconds since 1970."""

    run: str = ""
    bucket: str = ""
    run_id: Annotated[str | None, Field(validation_alias=AliasChoices("run_id", "beginning"))] = None
    """Of which run all this is said."""
    sent: dict[str, Version] | None = None
    """What the bucket has, by name below runs/NAME; a checkpoint is named by its manifest."""
    sent_at: float | None = None
    """When the newest round that succeeded began."""
    damaged: tuple[str, ...] = ()
    """Manifests whose payload on this disk does not have its SHA-256: they are not sent, and nothing waits for them."""
    failures: int = 0
    error: str | None = None
    ahead: int | None = None
    """The bucket's newest step, if the newest round found this run further there: then nothing of this disk is missing in it."""

    def __post_init__(self) -> None:
        for name in (*(self.sent or {}), *self.damaged):
            file_below(name, STATE)
        if not all(_STEP.fullmatch(name) for name in self.damaged):
            raise ValueError(f"{self.damaged}: not names of manifests")

    def write(self, job: Path) -> None:
        """Write push.json, whole or not at all."""
        write_json(job / STATE, {"format": FORMAT, **asdict(self)})


_RECORD = TypeAdapter(Record)


@dataclass(frozen=True)
class PushState:
    """How the pushing stands.

    `safe_steps` are checkpoints on this disk, or taken off it for room, that the bucket has.

    Units: `lag_seconds` is the age of the oldest change that the bucket does not have, 0 where it has all; `failures` are rounds in
    a row; `last_success` is ISO 8601, UTC.
    """

    last_success: str | None
    lag_seconds: float
    safe_steps: tuple[int, ...]
    complete: bool
    failures: int
    error: str | None


def read_record(job: Path) -> Record | None:
    """The record of a job; None before the first round, or if it cannot be read."""
    try:
        record = _RECORD.validate_json((job / STATE).read_bytes())
    except (OSError, ValueError):
        return None
    return record if record.run and record.bucket else None


def read_push_state(job: Path) -> PushState | None:
    """How the pushing of a job stands now; None before the first round."""
    record = read_record(job)
    return None if record is None else push_state_of(record, job)


def push_state_of(record: Record, job: Path) -> PushState:
    """How the pushing stands by this record."""
    run, sent = Path(record.run), record.sent or {}
    steps = set(steps_left_to_bucket(run))
    oldest: float | None = None
    for name, path in (*small_files(run, job).items(), *manifests(run).items()):
        try:
            version = Version.of(path)
        except FileNotFoundError:
            continue
        if sent.get(name) == version or name in record.damaged:
            if path.name == MANIFEST:
                steps.add(_step(path))
            continue
        # Of a file that has changed, all that is known is that the change is younger than the round that sent it.
        since = record.sent_at if name in sent and record.sent_at else version.mtime_ns / 1e9
        oldest = min(since, oldest or since)
    steps -= {_step(run / name) for name in record.damaged}
    if record.ahead is not None and record.ahead >= max(map(_step, manifests(run).values()), default=record.ahead):
        oldest = None
        steps.add(record.ahead)
    return PushState(
        last_success=datetime.fromtimestamp(record.sent_at, UTC).isoformat(timespec="seconds") if record.sent_at else None,
        lag_seconds=max(0.0, time.time() - oldest) if oldest else 0.0,
        safe_steps=tuple(sorted(steps)),
        complete=record.sent_at is not None and oldest is None,
        failures=record.failures,
        error=record.error,
    )


def small_files(run: Path, job: Path) -> dict[str, Path]:
    """All that is pushed and is no checkpoint, by name below runs/NAME; what is hidden is still being written, or not meant.

    A link to a file counts as the file; a link to a folder is not followed. A name that no bucket takes is left out.
    """
    found = {f"job/{name}": job / name for name in JOB_FILES if (job / name).is_file()}
    return found | {name: path for name, path in _files(run) if is_file_below(name)}


def unsendable(run: Path) -> list[str]:
    """Files of a run whose names no bucket takes, such as one with a line break."""
    return sorted(name for name, _ in _files(run) if not is_file_below(name))


def _files(run: Path) -> Iterator[tuple[str, Path]]:
    for folder, folders, names in os.walk(run):
        inside = Path(folder).relative_to(run)
        skip = NOT_FILES if inside == Path() else ()
        folders[:] = [name for name in folders if name not in skip and not name.startswith(".")]
        for name in names:
            path = Path(folder) / name
            if name not in skip and not name.startswith(".") and path.is_file():
                yield str(inside / name), path


def manifests(run: Path) -> dict[str, Path]:
    """Manifests of the complete checkpoints on this disk, by name below runs/NAME."""
    complete = complete_checkpoints(run / "checkpoints")
    return {f"checkpoints/{c.folder.name}/{MANIFEST}": c.folder / MANIFEST for c in complete}


def prune_local(run: Path, state: PushState, keep: int = 1) -> int:
    """Take checkpoints that are safe in the bucket off this disk, to make room; the bucket keeps them.

    The newest `keep` stay, and the best by validation: it becomes model.pt, and what comes later is compared with it. The manifest
    becomes the mark without which the bucket's copy is pruned too: a full disk may have no room for a new file.

    Returns: bytes freed.
    """
    complete = complete_checkpoints(run / "checkpoints")
    chosen = best(complete)
    freed = 0
    for checkpoint in complete[: max(0, len(complete) - keep)]:
        if checkpoint.step not in state.safe_steps or checkpoint is chosen:
            continue
        try:
            (checkpoint.folder / MANIFEST).rename(run / "checkpoints" / f".{folder_of(checkpoint.step)}.in_bucket")
        except OSError:  # rotated away, or removed by another guard
            continue
        shutil.rmtree(checkpoint.folder, ignore_errors=True)
        freed += sum(file.size for file in checkpoint.manifest.files)
    return freed


def steps_left_to_bucket(run: Path) -> tuple[int, ...]:
    """Steps that `prune_local` took off this disk."""
    names = [path.name for path in (run / "checkpoints").glob(".step=*.in_bucket")]
    return tuple(int(found[1]) for name in names if (found := re.fullmatch(r"\.step=(\d{9})\.in_bucket", name)))


def failed(record: Record, error: str) -> Record:
    """The record after one more round that did not succeed."""
    return replace(record, failures=record.failures + 1, error=error)


def _step(manifest: Path) -> int:
    return int(manifest.parent.name.removeprefix("step="))
