"""What `status` tells: the same classes on the machine, which writes them, and on the laptop, which reads them.

Both may be of another version. A new field gets a default, and older readers ignore it; `FORMAT` grows only when the
meaning of a field changes.
"""

import json
from dataclasses import asdict, dataclass
from typing import Annotated

from pydantic import Field

from training.runner.protocol import Count, Line, Lines, Measure, Moment, Name, read_message

FORMAT = 1
"""0: before messages named their format."""


@dataclass(frozen=True)
class JobStatus:
    """One job.

    Units: `_seconds`; `_fraction` of the time; `started_at` ISO 8601, UTC. None: not known (yet).
    """

    name: Name
    """The only field without a default: a job without a name is none."""
    phase: Line = ""
    """new, starting, running, stopping, pushing, stopped, interrupted, finished, failed, dead: its supervisor is gone, or broken:
    it cannot be read."""
    reason: Line = ""
    step: Count = 0
    total_steps: Count | None = None
    activity: Line | None = None
    """train or validate, of a living run."""
    loss: float | None = None
    """May be not finite: that is worth seeing."""
    cells_per_second: Measure | None = None
    data_wait_fraction: Measure | None = None
    eta_seconds: Measure | None = None
    checkpoint_step: Count | None = None
    checkpoint_age_seconds: Measure | None = None
    bucket: Line | None = None
    """null: the results are on this disk alone."""
    push_lag_seconds: Measure | None = None
    push_last_success: Moment | None = None
    push_error: Line | None = None
    safe_steps: tuple[Count, ...] = ()
    is_safe: bool = False
    """Whether the bucket has everything."""
    restarts: Count = 0
    started_at: Moment | None = None
    """Of the latest start."""
    run_seconds: Measure = 0.0
    """That processes of the run have lived in total."""
    error_tail: Lines = ""
    supervisor_pid: Count | None = None
    run_pid: Count | None = None


@dataclass(frozen=True)
class GpuStatus:
    """One GPU, as nvidia-smi tells it."""

    name: Line = ""
    utilisation_fraction: Measure | None = None
    memory_used_gib: Measure | None = None
    memory_total_gib: Measure | None = None


@dataclass(frozen=True)
class IdleStatus:
    """The idle guard."""

    minutes: Measure = 0.0
    alive: bool = False
    idle_since: Moment | None = None
    used_by: Line | None = None
    can_power_off: bool = False
    error: Line = ""


@dataclass(frozen=True)
class MachineStatus:
    """The machine."""

    gpus: Annotated[tuple[GpuStatus, ...], Field(max_length=100)] | None = None
    disk_free_gib: Measure | None = None
    disk_total_gib: Measure | None = None
    idle_guard: IdleStatus | None = None
    """null: nothing powers the machine off."""
    booted_at: Moment | None = None


@dataclass(frozen=True)
class Status:
    """Everything."""

    format: Count = 0
    time: Moment | None = None
    jobs: Annotated[tuple[JobStatus, ...], Field(max_length=10_000)] = ()
    machine: MachineStatus = MachineStatus()
    strays: Annotated[tuple[Line, ...], Field(max_length=10_000)] = ()
    """What lies in runs/, belongs to no job and came from no laptop: nothing brings it to a bucket."""


def as_json(found: Status) -> str:
    """For people and programs."""
    return json.dumps(asdict(found), indent=1)


def from_json(text: str, source: str = "status") -> Status:
    """What the machine `source` wrote.

    Raises: RunError with one sentence if that cannot be read.
    """
    return read_message(Status, text, source, FORMAT)
