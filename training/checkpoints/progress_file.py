"""progress.json: how far a run is, for whoever watches it from outside. Opens without torch."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from training.files import write_json

PROGRESS = "progress.json"


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Units: `time` in seconds since 1970, `median_step_seconds` in seconds.
    """

    pid: int = 0
    """Process that trains."""
    step: int = 0
    total_steps: int = 0
    phase: Literal["train", "validate"] = "train"
    time: float = 0.0
    """When the last optimizer step or validation batch was done."""
    median_step_seconds: float | None = None
    """Of the last 50 steps, without validations; None before the second."""
    loss: float | None = None
    """Latest logged `train/loss_total`."""


_PROGRESS = TypeAdapter(Progress)


def write_progress(run: Path, progress: Progress) -> None:
    """Put the file in place, whole. It is not flushed to the disk: it speaks of a living process."""
    write_json(run / PROGRESS, asdict(progress))


def read_progress(run: Path) -> Progress | None:
    """What the run says of itself; None before its first step."""
    try:
        return progress_of((run / PROGRESS).read_bytes())
    except OSError:
        return None


def progress_of(text: bytes) -> Progress | None:
    """What progress.json says, from wherever it comes; None if it is none."""
    try:
        return _PROGRESS.validate_json(text)
    except ValueError:
        return None
