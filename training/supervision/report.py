"""What `status` tells: the same classes on the machine, which writes them, and on the laptop, which reads them."""

import json
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter


@dataclass(frozen=True)
class JobStatus:
    """One job.

    Units: `_seconds`; `_fraction` of the time; `started_at` ISO 8601, UTC. None: not known (yet).
    """

    name: str
    phase: str
    """new, starting, running, stopping, pushing, stopped, interrupted, finished, failed, dead: its supervisor is gone, or broken:
    it cannot be read."""
    reason: str
    step: int
    total_steps: int | None
    activity: str | None
    """train or validate, of a living run."""
    loss: float | None
    cells_per_second: float | None
    data_wait_fraction: float | None
    eta_seconds: float | None
    checkpoint_step: int | None
    checkpoint_age_seconds: float | None
    bucket: str | None
    """null: the results are on this disk alone."""
    push_lag_seconds: float | None
    push_last_success: str | None
    push_error: str | None
    safe_steps: tuple[int, ...]
    is_safe: bool
    """Whether the bucket has everything."""
    restarts: int
    started_at: str | None
    """Of the latest start."""
    run_seconds: float
    """That processes of the run have lived in total."""
    error_tail: str
    supervisor_pid: int | None
    run_pid: int | None


@dataclass(frozen=True)
class GpuStatus:
    """One GPU, as nvidia-smi tells it."""

    name: str
    utilisation_fraction: float | None
    memory_used_gib: float | None
    memory_total_gib: float | None


@dataclass(frozen=True)
class IdleStatus:
    """The idle guard."""

    minutes: float
    alive: bool
    idle_since: str | None
    used_by: str | None
    can_power_off: bool
    error: str


@dataclass(frozen=True)
class MachineStatus:
    """The machine."""

    gpus: tuple[GpuStatus, ...] | None
    disk_free_gib: float
    disk_total_gib: float
    idle_guard: IdleStatus | None
    """null: nothing powers the machine off."""
    booted_at: str


@dataclass(frozen=True)
class Status:
    """Everything."""

    time: str
    jobs: tuple[JobStatus, ...]
    machine: MachineStatus


def as_json(found: Status) -> str:
    """For people and programs."""
    return json.dumps(asdict(found), indent=1)


def from_json(text: str) -> Status:
    """Raises: ValueError if it is none."""
    return TypeAdapter(Status).validate_json(text)
