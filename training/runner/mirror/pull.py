"""A run from its bucket: onto a fresh machine that goes on with it, or to whoever wants its results."""

import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from training.checkpoints.manifest import (
    MANIFEST,
    Checkpoint,
    Manifest,
    best,
    complete_checkpoints,
    folder_of,
    is_intact,
)
from training.errors import RunError, UserError
from training.run_facts import run_id_of
from training.runner.bucket.bucket import Bucket, Damaged, Stored, open_bucket
from training.runner.mirror.lease import claim, holder_of, release
from training.runner.mirror.push_state import NOT_FILES
from training.runner.mirror.reach import manifests_in_bucket
from training.untrusted import path_below, single_name

__all__ = ["Pulled", "claim", "holder_of", "pull_run", "release"]

log = logging.getLogger(__name__)

MARK = ".pull.json"
"""Says in a folder what is being pulled into it, until all is there."""


@dataclass(frozen=True)
class Pulled:
    """What a pull has brought, or found there already."""

    folder: Path
    steps: tuple[int, ...]
    damaged_steps: tuple[int, ...]
    """Checkpoints of the bucket that were passed over."""


def pull_run(bucket_url: str, name: str, into: Path, *, checkpoints: Literal["newest", "all"]) -> Pulled:
    """Bring a run into the folder `into`; what is there and right is not fetched again.

    `newest` brings the small files, and the newest checkpoint and the best: a run that goes on without its best would take a worse
    one for it. `all` brings every checkpoint, and the job's files.

    Raises: UserError if the bucket has no such run, or `into` holds something else, or is ahead of the bucket; RunError if
        no checkpoint of the bucket is intact; as Bucket's methods do.
    """
    prefix = f"runs/{single_name(name, bucket_url)}"
    bucket, into = open_bucket(bucket_url), Path(os.path.abspath(into))
    objects = bucket.listing(prefix)
    run_id = run_id_of(bucket.read(f"{prefix}/run.json"))
    if run_id is None:
        raise UserError(f"{bucket.url}: it has no run {name} (looked for {prefix}/run.json)")
    there = dict(manifests_in_bucket(bucket, f"{prefix}/checkpoints", objects))
    _refuse_other(into, f"{bucket.url}/{prefix}", run_id, there)
    small = _small_files(objects, prefix, everything=checkpoints == "all")
    try:
        for below in (MARK, "checkpoints", *(name.removeprefix(f"{prefix}/") for name in small)):
            path_below(into, below, f"{bucket.url}/{prefix}")
        into.mkdir(parents=True, exist_ok=True)
        (into / MARK).write_text(json.dumps({"from": f"{bucket.url}/{prefix}", "run_id": run_id}) + "\n")
        (into / "checkpoints").mkdir(exist_ok=True)
        bucket.fetch(small, prefix, into)
        pulled = _pull_checkpoints(bucket, prefix, into, there, objects, everything=checkpoints == "all")
        (into / MARK).unlink()
    except OSError as error:
        raise RunError(f"{into}: it cannot be written: {error.strerror or error}; what has arrived stays, pull again") from None
    return pulled


def _small_files(objects: dict[str, Stored], prefix: str, everything: bool) -> dict[str, Stored]:
    """All that is no checkpoint; the job's files only with `everything`."""
    left_out = set(NOT_FILES) - ({"job"} if everything else set())
    return {name: stored for name, stored in objects.items() if name.removeprefix(f"{prefix}/").partition("/")[0] not in left_out}


def _refuse_other(into: Path, source: str, run_id: str, there: dict[int, Manifest]) -> None:
    """Only an empty folder, this run's own, or one that a pull of it has left unfinished may be pulled into."""
    if not into.exists() or (into.is_dir() and _is_empty(into)):
        return
    accepted = "accepted: an empty folder, or one that this run was pulled into before"
    if not into.is_dir():
        raise UserError(f"{into}: it is no folder ({accepted})")
    own = run_id_of(_text(into / "run.json"))
    if own is None:
        try:
            mark = json.loads(_text(into / MARK))
        except ValueError:
            mark = None
        is_own = isinstance(mark, dict) and (mark.get("from"), mark.get("run_id", mark.get("beginning"))) == (source, run_id)
        if not is_own:  # `beginning`: of a pull that earlier code has left unfinished
            raise UserError(f"{into}: it is not empty, and holds no run {source} ({accepted})")
    elif own != run_id:
        raise UserError(f"{into}: it holds another run than {source}, or a later one of the same name ({accepted})")
    steps = [checkpoint.step for checkpoint in complete_checkpoints(into / "checkpoints")]
    if steps and max(steps) > max(there, default=-1):
        raise UserError(f"{into}: it is ahead of {source}: it has step {max(steps)}, the bucket {max(there, default='none')}")


def _is_empty(into: Path) -> bool:
    """What a pull or a run that was killed at its very beginning has left counts as nothing."""
    return {path.name for path in into.iterdir()} <= {MARK, "checkpoints"} and not any((into / "checkpoints").glob("*"))


def _pull_checkpoints(
    bucket: Bucket, prefix: str, into: Path, there: dict[int, Manifest], objects: dict[str, Stored], everything: bool
) -> Pulled:
    """The newest that is intact, then the best; or all. From the newest on, so that what matters most is there first."""
    steps: list[int] = []
    damaged: list[int] = []

    def pull(step: int) -> bool:
        if step not in steps and step not in damaged:
            source = f"{prefix}/checkpoints/{folder_of(step)}"
            files = {f"{source}/{file.name}" for file in there[step].files}
            payload = {name: stored for name, stored in objects.items() if name in files}
            intact = _pull_checkpoint(bucket, source, payload, into / "checkpoints", there[step])
            (steps if intact else damaged).append(step)
        return step in steps

    for step in sorted(there, reverse=True):
        if pull(step) and not everything:
            break
    while not everything and (left := [Checkpoint(into, there[step]) for step in there if step not in damaged]):
        chosen = best(tuple(left))
        if chosen is None or pull(chosen.step):
            break
    if there and not steps:
        raise RunError(f"{bucket.url}/{prefix}: every checkpoint is damaged (steps {', '.join(map(str, sorted(there)))})")
    return Pulled(into, tuple(sorted(steps)), tuple(sorted(damaged)))


def _pull_checkpoint(bucket: Bucket, source: str, payload: dict[str, Stored], root: Path, manifest: Manifest) -> bool:
    """Whether the checkpoint is here and intact; it gets its name when it is."""
    final, partial = root / folder_of(manifest.step), root / f".{folder_of(manifest.step)}.partial"
    if any(c.folder == final and c.manifest == manifest and is_intact(c) for c in complete_checkpoints(root)):
        return True
    try:
        for folder in (final, partial):
            path_below(root, folder.name, source)
        bucket.fetch(payload, source, partial)
        arrived = is_intact(Checkpoint(partial, manifest))
    except (Damaged, FileNotFoundError):
        arrived = False
    if not arrived:
        log.warning("%s/%s: damaged: a file does not have the SHA-256 of its manifest; another is taken", bucket.url, source)
        shutil.rmtree(partial, ignore_errors=True)
        return False
    (partial / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1) + "\n")  # as manifest.py writes it
    shutil.rmtree(final, ignore_errors=True)  # damaged or incomplete
    partial.rename(final)
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
