"""ROOT/data/.sources.json: what has been brought and verified, so that nothing is asked or hashed twice."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from training.files import write_json
from training.untrusted import file_below

log = logging.getLogger(__name__)

RECORD = ".sources.json"


@dataclass(frozen=True)
class Kept:
    """A verified file: its name below the target (empty: the target itself), and what it was when it was verified."""

    name: str
    size: int
    mtime_ns: int
    digest: str


@dataclass(frozen=True)
class Brought:
    """What stands in a target."""

    source: str
    commit: str | None
    """That a revision of the hub was resolved to; remembered before the first byte comes."""
    files: tuple[Kept, ...] | None
    """None while it is not all there and verified."""

    def holds(self, source: str, target: Path) -> bool:
        """Whether `source` is all there, and no file has changed since it was verified; asks the file system alone."""
        return self.source == source and self.files is not None and all(is_kept(file, target) for file in self.files)


def is_kept(file: Kept, target: Path) -> bool:
    """Whether the file still is what it was when it was verified, as far as size and time of change tell."""
    try:
        found = (target / file.name).stat()
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (file.size, file.mtime_ns)


def kept(name: str, target: Path, digest: str) -> Kept:
    """A file that has just been verified."""
    found = (target / name).stat()
    return Kept(name, found.st_size, found.st_mtime_ns, digest)


def read(data: Path) -> dict[str, Brought]:
    """Target -> what stands there; empty where there is no record or it is damaged: then all is verified anew."""
    try:
        document = json.loads((data / RECORD).read_text(encoding="utf-8"))
        return {to: _brought(values) for to, values in document.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("%s: not readable (%s); what is there is verified anew", data / RECORD, error)
        return {}


def write(data: Path, record: Mapping[str, Brought]) -> None:
    """Replace the record, atomically."""
    write_json(data / RECORD, {to: asdict(brought) for to, brought in record.items()}, flush=True)


def _brought(values: dict[str, object]) -> Brought:
    files = values["files"]
    source, commit = values["source"], values["commit"]
    if not isinstance(source, str) or not isinstance(commit, str | None) or not isinstance(files, list | None):
        raise ValueError("an entry is not what fetch writes")
    kept = None if files is None else tuple(Kept(**file) for file in files)
    for file in kept or ():
        if file.name:
            file_below(file.name, RECORD)
    return Brought(source, commit, kept)
