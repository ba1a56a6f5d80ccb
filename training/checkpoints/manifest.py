"""A checkpoint is a folder `step=000004000/` whose MANIFEST.json is written last: without a true one it does not count."""

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from training.config import RunConfig
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


# A resumed run may differ from its beginning in these: they name places, cadences and lengths, and leave the weights of a
# given step alone (the length does not, under a cosine; whoever lengthens such a run knows it).
MAY_CHANGE = frozenset({
    "name", "output_dir", "resume", "overwrite", "data.split", "data.perturbation_features_file", "data.num_workers",
    "data.prefetch_batches", "trainer.max_steps", "trainer.max_epochs", "trainer.device", "trainer.log_every_steps",
    "checkpoints.every_steps", "checkpoints.keep_last",
})  # fmt: skip


# Settings that came later, with the values (as JSON) under which a run is what it was without them: they do not change its hash.
AS_BEFORE = {"evaluation.seed": "0", "evaluation.control_fraction": "null", "data.separator": '"+"'}


def fixed_settings(config: RunConfig) -> dict[str, str]:
    """Dotted key -> value as JSON, for the settings that a resumed run must share with its beginning.

    The paths of split and features may change, their content is in the data's fingerprint.
    """
    return {key: value for key, value in settings_of(config).items() if key not in MAY_CHANGE}


def settings_of(config: RunConfig) -> dict[str, str]:
    """Dotted key -> value as JSON."""
    return dict(_settings(config.model_dump(mode="json")))


def config_sha256(config: RunConfig) -> str:
    """Hash of the settings that a resumed run must share with its beginning."""
    settings = {key: value for key, value in fixed_settings(config).items() if AS_BEFORE.get(key) != value}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _settings(values: dict[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value)


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
