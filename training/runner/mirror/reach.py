"""How far a run is, on a disk and in its bucket: a machine that comes back does not overwrite a run that went on elsewhere."""

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from training.checkpoints.manifest import MANIFEST, Manifest, complete_checkpoints, folder_of, manifest_of
from training.run_facts import RUN_JSON, RunFacts, facts_of, read_facts
from training.runner.bucket.bucket import Bucket, Stored
from training.text import escaped
from training.untrusted import NAME_LENGTH

log = logging.getLogger(__name__)

NO_STEP = -1
"""Of a run without a complete checkpoint."""


@dataclass(frozen=True)
class Reach:
    """How far a run is."""

    run_id: str
    begun: datetime
    """When it was first started."""
    step: int
    """Newest complete checkpoint."""
    starts: int
    """How often it was started: of two copies at one step, the one with more starts went on elsewhere meanwhile."""

    def is_behind(self, other: "Reach") -> bool:
        """Whether `other` is the same run, and further."""
        is_further = NO_STEP != other.step and (self.step, self.starts) < (other.step, other.starts)
        return self.run_id == other.run_id and is_further

    def is_older_than(self, other: "Reach") -> bool:
        """Whether `other` was begun anew after this one began."""
        return self.run_id != other.run_id and self.begun < other.begun


def older_than(here: Reach, there: Reach, url: str, run: Path) -> str:
    """What to do where a run was begun anew elsewhere: which of the two is wanted, only a person knows."""
    return (
        f"{url}: was begun anew elsewhere at {there.begun:%Y-%m-%d %H:%M} UTC and is at step {max(there.step, 0)}; the run in "
        f"{run} is older ({here.begun:%Y-%m-%d %H:%M} UTC, step {max(here.step, 0)}) and does not take its place. To go on with "
        f"the bucket's, move {run} away; to go on with this one, rename {url} or take another name"
    )


def reach_on_disk(run: Path) -> Reach | None:
    """None for a run that has not begun."""
    if (facts := read_facts(run)) is None:
        return None
    complete = complete_checkpoints(run / "checkpoints")
    return Reach(facts.run_id, facts.begun, complete[-1].step if complete else NO_STEP, len(facts.starts))


def reach_in_bucket(bucket: Bucket, prefix: str, objects: dict[str, Stored]) -> Reach | None:
    """By a listing of `prefix`; None if no run has begun there.

    Raises: as Bucket's methods do.
    """
    root = f"{prefix}/checkpoints"
    steps = (step for step, _ in manifests_in_bucket(bucket, root, objects))
    facts = facts_of(bucket.read(f"{prefix}/{RUN_JSON}"))
    return None if facts is None else Reach(facts.run_id, facts.begun, next(iter(steps), NO_STEP), len(facts.starts))


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


def set_aside(bucket: Bucket, prefix: str, theirs: RunFacts | None, objects: dict[str, Stored]) -> None:
    """Move an earlier run of this name to runs/NAME.begun-TIME: its later steps must not be taken for this one's.

    Nothing is deleted: the same happens when a disk was lost and the run started again. Copies end with the manifests, removal
    begins with them, and run.json goes last: a kill in between leaves what the next round can finish.
    """
    time = (theirs.starts[0].time if theirs else "") or "unknown"
    aside = _name_aside(prefix, time)
    log.warning("%s/%s is another run of this name; it is kept as %s", bucket.url, prefix, aside)
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
