"""`fab status` as people read it."""

from collections.abc import Sequence
from datetime import UTC, datetime

from bootstrap.machine import Machine
from training.supervision.report import IdleStatus, JobStatus, MachineStatus, Status

HEADS = ("run", "state", "step", "loss", "cells/s", "waits for data", "left", "checkpoint", "in the bucket", "restarts", "cost")


def table(status: Status, machine: Machine) -> str:
    """A row a run, then what there is to say of some, then the machine. Texts of the machine were escaped when they were read."""
    rows = [HEADS, *(_row(job, machine) for job in status.jobs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if not status.jobs:
        lines = [f"{machine.label}: no run yet; start one: ./fab train --run RUN.yaml"]
    notes = [note for job in status.jobs for note in _notes(job)]
    return "\n".join([*lines, *notes, _machine(status.machine, machine, _time(status.time) or datetime.now(UTC))])


def duration(seconds: float | None) -> str:
    """In the two largest units."""
    if seconds is None:
        return "?"
    whole = max(0, round(seconds))
    for size, unit, less, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // less} {small}"
    return f"{whole} s"


def _row(job: JobStatus, machine: Machine) -> Sequence[str]:
    cost = machine.usd_per_hour and job.run_seconds / 3600 * machine.usd_per_hour
    return (
        job.name,
        f"{job.phase} ({job.activity})" if job.activity == "validate" and job.phase == "running" else job.phase,
        f"{job.step:,}" + (f" of {job.total_steps:,}" if job.total_steps else ""),
        "?" if job.loss is None else f"{job.loss:.4g}",
        "?" if job.cells_per_second is None else f"{job.cells_per_second:,.0f}",
        "?" if job.data_wait_fraction is None else f"{100 * job.data_wait_fraction:.0f} %",
        duration(job.eta_seconds) if (job.supervisor_pid is not None) else "-",
        "none" if job.checkpoint_step is None else f"{job.checkpoint_step:,}, {duration(job.checkpoint_age_seconds)} ago",
        _in_bucket(job),
        str(job.restarts),
        "-" if cost is None else f"{cost:.2f} $",
    )


def _in_bucket(job: JobStatus) -> str:
    if job.bucket is None:
        return "no bucket"
    newest = f"{max(job.safe_steps):,}" if job.safe_steps else "none"
    if job.is_safe:
        return f"{newest}, all of it"
    return f"{newest}, {duration(job.push_lag_seconds)} behind" if job.push_lag_seconds is not None else f"{newest}, not begun"


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
