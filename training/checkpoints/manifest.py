"""A checkpoint is a folder `step=000004000/` whose MANIFEST.json is written last: without a true one it does not count."""

import hashlib
import logging
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from training.files import flush_to_disk, write_json
from training.untrusted import file_below

log = logging.getLogger(__name__)

MANIFEST = "MANIFEST.json"
LAST_STEP = 10**9 - 1  # nine digits in a folder's name


@dataclass(frozen=True)
class File:
    """One payload file: its name in the folder, size in bytes, and SHA-256."""

    name: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        file_below(self.name, MANIFEST)
        if self.name == MANIFEST or self.size < 0 or not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.name}: {self.size} bytes, SHA-256 {self.sha256}: no file of a checkpoint")


@dataclass(frozen=True)
class Manifest:
    """What a complete checkpoint says of itself."""

    step: int
    config_sha256: str
    data_fingerprint: str
    val_loss_total: float | None
    """`val/loss_total` of the weights in this folder, where this step was validated."""
    files: tuple[File, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.step <= LAST_STEP or not self.files:
            raise ValueError(f"step {self.step}, {len(self.files)} files: no checkpoint")


_MANIFEST = TypeAdapter(Manifest)


def manifest_of(text: bytes) -> Manifest:
    """Read a manifest, of this disk or from outside.

    Raises: ValueError if it is none: a value of another type or out of its range, a file name that leaves the folder.
    """
    return _MANIFEST.validate_json(text, strict=True)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    folder: Path
    manifest: Manifest

    @property
    def step(self) -> int:
        """Optimizer steps that its weights have seen."""
        return self.manifest.step


def folder_of(step: int) -> str:
    """Name of the folder of a step; sorts by step as text."""
    return f"step={step:09d}"


def write_manifest(folder: Path, step: int, config_sha256: str, data_fingerprint: str, val_loss_total: float | None) -> Manifest:
    """Describe the payload in `folder` and put the manifest beside it, last and atomically.

    Payload and manifest are flushed to the disk before the manifest gets its name.
    """
    payload = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    files = tuple(File(str(path.relative_to(folder)), path.stat().st_size, _sha256(path)) for path in payload)
    manifest = Manifest(step, config_sha256, data_fingerprint, val_loss_total, files)
    for path in payload:
        flush_to_disk(path)
    write_json(folder / MANIFEST, asdict(manifest), flush=True)
    flush_to_disk(folder)
    return manifest


def complete_checkpoints(root: Path) -> tuple[Checkpoint, ...]:
    """Checkpoints under `root` whose manifest is there and true of the files' sizes, by ascending step.

    A living run removes old ones after it has written a new one. Where that happens while they are read here, all are read again.
    """
    folders = set(root.glob("step=*"))
    while True:
        found = [Checkpoint(folder, manifest) for folder in folders if (manifest := _read(folder)) is not None]
        before, folders = folders, set(root.glob("step=*"))
        if found or folders == before:
            return tuple(sorted(found, key=lambda checkpoint: checkpoint.step))


def newest_intact(root: Path) -> Checkpoint | None:
    """The complete checkpoint of the highest step whose files also match their SHA-256."""
    for checkpoint in reversed(complete_checkpoints(root)):
        if is_intact(checkpoint):
            return checkpoint
        log.warning("%s: damaged: a file does not have the SHA-256 of its manifest; an earlier one is taken", checkpoint.folder)
    return None


def is_intact(checkpoint: Checkpoint) -> bool:
    """Whether every file of the checkpoint still has the SHA-256 of its manifest."""
    return all(_sha256(checkpoint.folder / file.name) == file.sha256 for file in checkpoint.manifest.files)


def best(checkpoints: tuple[Checkpoint, ...]) -> Checkpoint | None:
    """The validated checkpoint with the lowest `val/loss_total`, the earliest of equals; None if none was validated."""
    validated = [c for c in checkpoints if c.manifest.val_loss_total is not None]
    return min(validated, key=lambda c: (c.manifest.val_loss_total, c.step), default=None)


def _read(folder: Path) -> Manifest | None:
    try:
        manifest = manifest_of((folder / MANIFEST).read_bytes())
        sizes_hold = all((folder / file.name).stat().st_size == file.size for file in manifest.files)
    except (OSError, ValueError):
        return None
    return manifest if sizes_hold and folder.name == folder_of(manifest.step) else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
