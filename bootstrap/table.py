"""`fab status` as people read it."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from bootstrap.machine import Machine
from training.runner.report import IdleStatus, JobStatus, MachineStatus, Status
from training.text import aligned

MOST_RUN_SECONDS = 120 * 86400  # what Google accepts, and infra/stack_config.py
HEADS = ("run", "state", "step", "loss", "cells/s", "waits for data", "left", "checkpoint", "in the bucket", "restarts", "cost")


def table(status: Status, machine: Machine) -> str:
    """A row a run, then what there is to say of some, then the machine. Texts of the machine were escaped when they were read."""
    lines = runs_table(status.jobs, machine.usd_per_hour)
    if not status.jobs:
        lines = [f"{machine.label}: no run yet; start one: ./fab train --run RUN.yaml"]
    now = _time(status.time) or datetime.now(UTC)
    late = [line for job in status.jobs for line in limit_lines(job, machine, now)]
    return "\n".join([*lines, *late, _machine(status.machine, machine, now)])


def limit_lines(job: JobStatus, machine: Machine, now: datetime) -> list[str]:
    """What there is to say where a run needs longer than the cloud lets its VM run; nothing where it fits, or that is not known."""
    outputs, ends = machine.outputs, machine.ends
    if outputs is None or ends is None or job.eta_seconds is None or job.supervisor_pid is None:
        return []
    left = (ends - now).total_seconds()
    if job.eta_seconds <= left:
        return []
    stack = outputs.name.partition("-")[2]
    return [
        f"{job.name}: needs about {duration(job.eta_seconds)} more, and the cloud ends the VM in {duration(left)}, at "
        f"{ends.astimezone(UTC):%Y-%m-%d %H:%M} UTC (maxRunSeconds: {outputs.max_run_seconds}). It goes on from its newest "
        f"checkpoint when the VM is started again: {outputs.start}",
        f"a longer limit is a new VM on the same data disk: ./fab stop; pulumi config set incubator:maxRunSeconds "
        f"{_whole_hours(1.2 * job.eta_seconds)} --stack {stack}; ./fab up --stack {stack} --replace; then ./fab train as before",
    ]


def _whole_hours(seconds: float) -> int:
    """Seconds, rounded up to hours, and no more than a VM may run at most."""
    return min(math.ceil(seconds / 3600) * 3600, MOST_RUN_SECONDS)


def runs_table(jobs: Sequence[JobStatus], usd_per_hour: float | None = None) -> list[str]:
    """A row a run, then what there is to say of some.

    Units: `usd_per_hour` US dollars; 0 where the price is not known, None where nothing is rented.
    """
    rows = [HEADS, *(_row(job, usd_per_hour) for job in jobs)]
    return [*aligned(rows), *(note for job in jobs for note in _notes(job))]


def duration(seconds: float | None) -> str:
    """In the two largest units."""
    if seconds is None:
        return "?"
    whole = max(0, round(seconds))
    for size, unit, less, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // less} {small}"
    return f"{whole} s"


def _row(job: JobStatus, usd_per_hour: float | None) -> Sequence[str]:
    cost = "-" if usd_per_hour is None else f"{job.run_seconds / 3600 * usd_per_hour:.2f} $" if usd_per_hour else "?"
    return (
        job.name,
        f"{job.phase} ({job.activity})" if job.activity == "validate" and job.phase == "running" else job.phase,
        f"{job.step:,}" + (f" of {job.total_steps:,}" if job.total_steps else ""),
        "?" if job.loss is None else f"{job.loss:.4g}",
        "?" if job.cells_per_second is None else f"{job.cells_per_second:,.0f}",
        "?" if job.data_wait_fraction is None else f"{100 * job.data_wait_fraction:.0f} %",
        duration(job.eta_seconds) if (job.supervisor_pid is not None) else "-",
        _checkpoint(job),
        _in_bucket(job),
        str(job.restarts),
        cost,
    )


def _checkpoint(job: JobStatus) -> str:
    if job.checkpoint_step is None:
        return "none"
    age = job.checkpoint_age_seconds
    return f"{job.checkpoint_step:,}" + ("" if age is None else f", {duration(age)} ago")


def _in_bucket(job: JobStatus) -> str:
    if job.bucket is None:
        return "no bucket"
    newest = f"{max(job.safe_steps):,}" if job.safe_steps else "none"
    if job.is_safe:
        return f"{newest}, all of it"
    if job.push_lag_seconds is None:
        return newest if job.safe_steps else "none, not begun"
    return f"{newest}, {duration(job.push_lag_seconds)} behind"


def _notes(job: JobStatus) -> list[str]:
    notes = [f"{job.name}: {job.reason}"] if job.reason else []
    if job.push_error:
        notes.append(f"{job.name}: the bucket: {job.push_error}")
    return notes + [f"{job.name} | {line}" for line in job.error_tail.splitlines()[-10:]]


def _machine(found: MachineStatus, machine: Machine, now: datetime) -> str:
    gpus = [
        f"{gpu.name} {_percent(gpu.utilisation_fraction)}, {_gib(gpu.memory_used_gib)} of {_gib(gpu.memory_total_gib)} GiB"
        for gpu in found.gpus or ()
    ]
    words = gpus or ["no GPU"]
    if found.disk_free_gib is not None and found.disk_total_gib is not None:
        words.append(f"{found.disk_free_gib:.0f} of {found.disk_total_gib:.0f} GiB of disk free")
    booted = _time(found.booted_at)
    if machine.usd_per_hour and booted is not None:
        seconds = (now - booted).total_seconds()
        words.append(f"up for {duration(seconds)}: {seconds / 3600 * machine.usd_per_hour:.2f} $ without its disks")
    words.append(_idle(found.idle_guard, now))
    return f"{machine.label}: " + "; ".join(words)


def _idle(guard: IdleStatus | None, now: datetime) -> str:
    if guard is None:
        return "nothing powers it off when it is idle"
    if not guard.alive:
        return "its idle guard is dead (./fab bootstrap starts it)"
    if not guard.can_power_off:
        return f"its idle guard cannot power it off{f': {guard.error}' if guard.error else ''}"
    since = _time(guard.idle_since)
    if since is None:
        return f"off after {guard.minutes:g} idle minutes (in use: {guard.used_by or 'yes'})"
    return f"off after {guard.minutes:g} idle minutes (idle for {duration((now - since).total_seconds())})"


def _percent(fraction: float | None) -> str:
    return "?" if fraction is None else f"{100 * fraction:.0f} %"


def _gib(size: float | None) -> str:
    return "?" if size is None else f"{size:.1f}"


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
