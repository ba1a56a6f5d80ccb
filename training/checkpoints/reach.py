"""How far a run is, on a disk and in its bucket: a machine that comes back does not overwrite a run that went on elsewhere."""

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from training.bucket.bucket import Bucket, Stored
from training.checkpoints.manifest import MANIFEST, Manifest, complete_checkpoints, folder_of, manifest_of
from training.text import escaped
from training.untrusted import NAME_LENGTH

log = logging.getLogger(__name__)

NO_STEP = -1
"""Of a run without a complete checkpoint."""


@dataclass(frozen=True)
class Reach:
    """How far a run is, from which beginning."""

    beginning: str
    """First entry of `starts` in run.json, as `beginning_of` gives it."""
    step: int
    """Newest complete checkpoint."""
    starts: int
    """How often it was started: of two copies at one step, the one with more starts went on elsewhere meanwhile."""

    def is_behind(self, other: "Reach") -> bool:
        """Whether `other` is the same run, and further."""
        is_further = NO_STEP != other.step and (self.step, self.starts) < (other.step, other.starts)
        return self.beginning == other.beginning and is_further

    def is_older_than(self, other: "Reach") -> bool:
        """Whether `other` was begun anew after this one began."""
        return self.beginning != other.beginning and self.begun < other.begun

    @property
    def begun(self) -> datetime:
        """When; long ago if run.json does not say it."""
        try:
            found = datetime.fromisoformat(json.loads(self.beginning)["time"])
        except (ValueError, LookupError, TypeError):
            return datetime.fromtimestamp(0, UTC)
        return found if found.tzinfo else found.replace(tzinfo=UTC)


def older_than(here: Reach, there: Reach, url: str, run: Path) -> str:
    """What to do where a run was begun anew elsewhere: which of the two is wanted, only a person knows."""
    return (
        f"{url}: was begun anew elsewhere at {there.begun:%Y-%m-%d %H:%M} UTC and is at step {max(there.step, 0)}; the run in "
        f"{run} is older ({here.begun:%Y-%m-%d %H:%M} UTC, step {max(here.step, 0)}) and does not take its place. To go on with "
        f"the bucket's, move {run} away; to go on with this one, rename {url} or take another name"
    )


def beginning_of(text: bytes | str | None) -> str | None:
    """Which beginning of a run a run.json is of: `overwrite=true` starts its list of starts anew. None if there is none yet."""
    starts = _starts(text)
    return json.dumps(starts[0], sort_keys=True) if starts else None


def reach_on_disk(run: Path) -> Reach | None:
    """None for a run that has not begun."""
    try:
        text = (run / "run.json").read_bytes()
    except OSError:
        return None
    complete = complete_checkpoints(run / "checkpoints")
    return _reach(text, complete[-1].step if complete else NO_STEP)


def reach_in_bucket(bucket: Bucket, prefix: str, objects: dict[str, Stored]) -> Reach | None:
    """By a listing of `prefix`; None if no run has begun there.

    Raises: as Bucket's methods do.
    """
    root = f"{prefix}/checkpoints"
    steps = (step for step, _ in manifests_in_bucket(bucket, root, objects))
    return _reach(bucket.read(f"{prefix}/run.json"), next(iter(steps), NO_STEP))


def manifests_in_bucket(bucket: Bucket, root: str, objects: dict[str, Stored]) -> Iterable[tuple[int, Manifest]]:
    """Steps and manifests below `root` that are true of the bucket's sizes, the newest first; each is read when it is asked for."""
    for name in sorted(objects, reverse=True):
        folder = name.removeprefix(f"{root}/").removesuffix(f"/{MANIFEST}")
        if name != f"{root}/{folder}/{MANIFEST}" or not folder.startswith("step="):
            continue
        try:
            manifest = manifest_of(bucket.read(name) or b"")
        except ValueError:  # a UserError is one: too large
            log.warning("%s/%s: not a manifest; the checkpoint does not count", bucket.url, escaped(name))
            continue
        sizes = {file.name: file.size for file in manifest.files}
        stored = {file: objects[f"{root}/{folder}/{file}"].size for file in sizes if f"{root}/{folder}/{file}" in objects}
        if sizes and sizes == stored and folder == folder_of(manifest.step):
            yield manifest.step, manifest
        else:
            log.warning("%s/%s/%s: its manifest is not true of its files; it does not count", bucket.url, root, escaped(folder))


def set_aside(bucket: Bucket, prefix: str, theirs: str | None, objects: dict[str, Stored]) -> None:
    """Move another beginning of the run to runs/NAME.begun-TIME: its later steps must not be taken for this one's.

    Nothing is deleted: the same happens when a disk was lost and the run started again. Copies end with the manifests, removal
    begins with them, and run.json goes last: a kill in between leaves what the next round can finish.
    """
    time = str(json.loads(theirs).get("time", "unknown") if theirs else "unknown")
    aside = _name_aside(prefix, time)
    log.warning("%s/%s is of another beginning of this run; it is kept as %s", bucket.url, prefix, aside)
    lease, run_json = f"{prefix}/lease.json", f"{prefix}/run.json"
    bucket.copy(sorted(objects.keys() - {lease}, key=lambda name: (name.endswith(f"/{MANIFEST}"), name)), prefix, aside)
    remove_manifests_first(bucket, (name for name in objects if name not in (lease, run_json)))
    bucket.remove([run_json])


def _name_aside(prefix: str, time: str) -> str:
    """A name of a run, too: of a long one the end gives way to a hash, which tells it from others that begin alike."""
    above, _, name = prefix.rpartition("/")
    end = f".begun-{''.join(c for c in time[:19] if c.isascii() and c.isalnum()) or 'unknown'}"
    if len(name + end) > NAME_LENGTH:
        end = f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}{end}"
    return f"{above}/{name[: NAME_LENGTH - len(end)]}{end}"


def remove_manifests_first(bucket: Bucket, names: Iterable[str]) -> None:
    """What is half removed must not count."""
    names = list(names)
    bucket.remove([name for name in names if name.endswith(f"/{MANIFEST}")])
    bucket.remove([name for name in names if not name.endswith(f"/{MANIFEST}")])


def _reach(text: bytes | None, step: int) -> Reach | None:
    starts, beginning = _starts(text), beginning_of(text)
    return None if beginning is None else Reach(beginning, step, len(starts))


def _starts(text: bytes | str | None) -> list[object]:
    """Empty for anything but a run.json of a run that has begun."""
    try:
        starts = json.loads(text or "")["starts"]
        return starts if isinstance(starts, list) and isinstance(starts[0], dict) else []
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return []
