"""Brings the data that a file lists onto this machine: verified, resumable, skipped when already right."""

import fcntl
import logging
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from training.errors import RunError, UserError
from training.runner.bucket.bucket import Stored, open_bucket
from training.runner.sources import hub, record
from training.runner.sources.download import Digest, HttpError, Progress, Remote, download, is_right, need_space, size_text
from training.runner.sources.parse import Gcs, Hub, Local, Wanted, Web, read_json
from training.runner.sources.record import Brought, Kept
from training.untrusted import path_below

log = logging.getLogger(__name__)

FILES_AT_ONCE = 4
LOCK = ".lock"


def fetch_all(file: Path, root: Path) -> None:
    """Bring all that `file` (written by `parse.to_json`) lists into ROOT/data.

    Killed at any moment, the next call goes on. A second call at the same time waits for the first. Files whose size and time
    of change are those of the last verification are not read again; https:// and hf:// then ask no network either. The list of a
    gs:// prefix is asked for each time: it has no revision.

    Raises: UserError for what no retry mends (an unknown revision, an empty prefix); RunError for the rest.
    """
    wanted = read_json(file)
    data = root / "data"
    data.mkdir(parents=True, exist_ok=True)
    with _locked(data):
        place = _Place(data, hub.Access(root / "cache" / "huggingface", _token(root)))
        for each in wanted:
            try:
                _bring(each, place)
            except OSError as error:
                raise RunError(f"{each.source}: {error}") from None


def outstanding(file: Path, root: Path) -> tuple[Wanted, ...]:
    """Which of the sources in `file` are not yet there and right, as far as the record, sizes and times of change tell.

    Asks no network and reads no data. What has changed below a gs:// prefix since is not seen.

    Raises: UserError if `file` is not a list of sources.
    """
    data = root / "data"
    known = record.read(data)
    return tuple(
        each for each in read_json(file) if each.to not in known or not known[each.to].holds(str(each.source), data / each.to)
    )


@dataclass(frozen=True)
class _Place:
    """Where things go, and what is needed on the way."""

    data: Path
    access: hub.Access

    def remember(self, to: str, brought: Brought) -> None:
        record.write(self.data, {**record.read(self.data), to: brought})


def _bring(wanted: Wanted, place: _Place) -> None:
    """One source: say what is done, do what is missing, remember it."""
    source, target = wanted.source, place.data / wanted.to
    before = record.read(place.data).get(wanted.to)
    if before and before.holds(str(source), target) and not isinstance(source, Gcs):
        log.info("data/%s: already right (%s)", wanted.to, source)
        return
    start = time.monotonic()
    log.info("data/%s: from %s", wanted.to, source)
    commit = None
    match source:
        case Gcs():
            files, n_bytes = _bring_gcs(source, wanted.to, place, before)
        case Web():
            remote = Remote(str(source), source.url, Digest("sha256", source.sha256), None)
            files, n_bytes = _bring_files({"": remote}, target, str(source))
        case Hub():
            commit = _commit(source, wanted.to, place, before)
            files, n_bytes = _bring_hub(source, commit, target, place)
        case Local():
            raise UserError(f"{source}: a local source is copied by the laptop, not fetched")
    _remove_left_over(before, files, target)
    place.remember(wanted.to, Brought(str(source), commit, files))
    total, seconds = sum(file.size for file in files), time.monotonic() - start
    here = f"{size_text(total)} in {len(files)} file{'s' * (len(files) != 1)}"
    log.info("data/%s: right: %s, %s of it brought, %.1f s", wanted.to, here, size_text(n_bytes), seconds)


def _bring_files(remotes: dict[str, Remote], target: Path, shown: str) -> tuple[tuple[Kept, ...], int]:
    """Download the files that are not right yet, several at once; what is kept, and the bytes that came."""
    _refuse_mixed(is_folder=list(remotes) != [""], target=target, shown=shown)
    for name in remotes:
        folder, last = (target, name) if name else (target.parent, target.name)
        for each in (last, f"{last}.partial", f"{last}.partial.etag"):
            path_below(folder, each, shown)
    missing = {name: remote for name, remote in remotes.items() if not is_right(target / name, remote)}
    needed = sum(max(0, (remote.size or 0) - _partial_size(target / name)) for name, remote in missing.items())
    existing = next(folder for folder in (target, *target.parents) if folder.is_dir())
    need_space(needed, existing, shown)
    progress = Progress(shown, needed or None)
    if missing:
        log.info("%s: %d of %d files to bring%s", shown, len(missing), len(remotes), f", {size_text(needed)}" if needed else "")
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        jobs = [pool.submit(download, remote, target / name, progress) for name, remote in missing.items()]
        try:
            for job in as_completed(jobs):
                job.result()
        finally:
            progress.stop()
            for job in jobs:
                job.cancel()
    return tuple(record.kept(name, target, str(remote.digest)) for name, remote in remotes.items()), progress.bytes


def _bring_hub(source: Hub, commit: str, target: Path, place: _Place) -> tuple[tuple[Kept, ...], int]:
    try:
        return _bring_files(hub.files_of(source, commit, place.access), target, str(source))
    except HttpError as error:
        raise hub.explained(error, source, place.access) from None


def _commit(source: Hub, to: str, place: _Place, before: Brought | None) -> str:
    """The commit to take: the one named, or the one that was resolved when this branch or tag was first asked for."""
    if source.is_pinned:
        return source.revision
    if before and before.source == str(source) and before.commit:
        log.info(
            "%s: %s is commit %s, as it was at the first fetch (data/%s)", source, source.revision, before.commit, record.RECORD
        )
        return before.commit
    commit = hub.commit_of(source, place.access)
    pinned = replace(source, revision=commit)
    log.warning("%s: %s is no commit; today it is %s, and later fetches here take that one; to pin it: %s", source, source.revision,
        commit, pinned)  # fmt: skip
    place.remember(to, Brought(str(source), commit, None))
    return commit


def _bring_gcs(source: Gcs, to: str, place: _Place, before: Brought | None) -> tuple[tuple[Kept, ...], int]:
    bucket, target = open_bucket(str(source)), place.data / to
    objects = bucket.listing("")
    if not objects:
        raise UserError(
            f"{source}: there is nothing below this prefix (accepted: a folder of the bucket; for one object, the folder it is in)"
        )
    _refuse_mixed(is_folder=True, target=target, shown=str(source))
    if before and before.holds(str(source), target):
        if {(f.name, f.size, f.digest) for f in before.files or ()} == {(n, s.size, _digest(s)) for n, s in objects.items()}:
            return before.files or (), 0
    lacking = [stored.size for name, stored in objects.items() if _size(target / name) != stored.size]
    log.info(
        "%s: %d of %d files to download, %s; the others are compared by checksum", source, len(lacking), len(objects),
        size_text(sum(lacking)),
    )  # fmt: skip
    objects = bucket.fetch(objects, "", target, FILES_AT_ONCE)
    return tuple(record.kept(name, target, _digest(stored)) for name, stored in objects.items()), sum(lacking)


def _digest(stored: Stored) -> str:
    return f"crc32c:{stored.crc32c}"


def _remove_left_over(before: Brought | None, files: tuple[Kept, ...], target: Path) -> None:
    """Files that an earlier fetch brought, that nobody has touched since, and that the source no longer has."""
    names = {file.name for file in files}
    for file in (before.files if before else None) or ():
        if file.name not in names and (target / file.name).is_file() and record.is_kept(file, target):
            log.info("%s: removed: the source no longer has it", target / file.name)
            (target / file.name).unlink()


def _refuse_mixed(is_folder: bool, target: Path, shown: str) -> None:
    if target.exists() and target.is_dir() != is_folder:
        has, is_ = ("folder", "file") if target.is_dir() else ("file", "folder")
        raise UserError(f"{shown}: is a {is_}, but {target} is a {has}; move it away")


def _partial_size(path: Path) -> int:
    return _size(path.with_name(f"{path.name}.partial"))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _token(root: Path) -> str | None:
    """HF_TOKEN of the environment, or of ROOT/env."""
    if token := os.environ.get("HF_TOKEN"):
        return token
    try:
        text = (root / "env").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    found = re.search(r"""^(?:export )?HF_TOKEN=(["']?)(.*?)\1\s*$""", text, re.M)
    return found[2] or None if found else None


@contextmanager
def _locked(data: Path) -> Iterator[None]:
    with (data / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: another fetch is at work; waiting for it", data / LOCK)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
