"""`status`: one JSON object about the jobs and the machine. Reads files and asks nvidia-smi, nothing else."""

import json
import math
import os
import re
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from training.checkpoints.manifest import MANIFEST, complete_checkpoints
from training.checkpoints.progress_file import Progress, read_progress
from training.errors import UserError
from training.runner.guards.idle import can_power_off, read_idle_state, read_rule, used_by
from training.runner.job import JobPaths, job_names, read_job, read_jobs
from training.runner.mirror.push_state import PushState, read_push_state
from training.runner.processes import is_held, living
from training.runner.report import FORMAT, GpuStatus, IdleStatus, JobStatus, MachineStatus, Status
from training.runner.state import FINAL, Start, State, read_state, seconds_of, total_steps

GIB = 2**30
METRICS_BYTES = 256 * 1024
BROUGHT = ".brought"  # in a folder that a laptop has brought (bootstrap/steps.py), and has


def status(root: Path, name: str | None = None) -> Status:
    """How things stand.

    Raises: UserError if `name` is no job here.
    """
    if name is not None:
        jobs = [job_status(JobPaths(root.absolute(), name))]
    else:
        found, broken = read_jobs(root)
        jobs = [*(job_status(paths) for paths, _ in found), *(_broken(one, why) for one, why in broken.items())]
        jobs.sort(key=lambda job: job.name)
    return Status(FORMAT, _iso(time.time()), tuple(jobs), machine_status(root), tuple(map(str, strays(root))))


def strays(root: Path) -> list[Path]:
    """What lies in runs/, belongs to no job and came from no laptop."""
    runs = {JobPaths(root, name).run.name for name in job_names(root)}
    others = [path for path in (root / "runs").glob("[!.]*") if path.name not in runs or not path.is_dir()]
    return sorted(path for path in others if not (path / BROUGHT).exists())


def job_status(paths: JobPaths) -> JobStatus:
    """How one job stands. Raises: UserError if there is none."""
    job = read_job(paths)
    state, progress, pushed = read_state(paths) or State("starting"), read_progress(paths.run), read_push_state(paths.folder)
    supervisor, run_pid = living(paths.pid_file), living(paths.run_pid_file)
    is_safe = job.bucket is not None and pushed is not None and pushed.complete
    phase, reason = _phase(paths, state, supervisor, is_safe or job.bucket is None)
    runs = run_pid is not None and progress is not None and progress.pid == run_pid
    logged = _last_logged(paths.run / "metrics.jsonl")
    checkpoints = complete_checkpoints(paths.checkpoints)
    newest = checkpoints[-1] if checkpoints else None
    total = progress.total_steps if progress is not None else total_steps(paths.run)
    latest = state.starts[-1] if state.starts else None
    return JobStatus(
        name=job.name,
        phase=phase,
        reason=reason,
        step=_step(progress, newest.step if newest else 0),
        total_steps=total,
        activity=progress.phase if runs and progress is not None else None,
        loss=logged.get("train/loss_total", progress.loss if progress is not None else None),
        cells_per_second=_measure(logged.get("train/cells_per_second")),
        data_wait_fraction=_measure(logged.get("train/data_wait_fraction")),
        eta_seconds=_eta(progress) if runs else None,
        checkpoint_step=newest.step if newest else None,
        checkpoint_age_seconds=_age(newest.folder / MANIFEST) if newest else None,
        bucket=job.bucket,
        push_lag_seconds=pushed.lag_seconds if pushed is not None else None,
        push_last_success=pushed.last_success if pushed is not None else None,
        push_error=_push_error(pushed),
        safe_steps=pushed.safe_steps if pushed is not None else (),
        is_safe=is_safe,
        restarts=max(0, len(state.starts) - 1),
        started_at=latest.time if latest is not None else None,
        run_seconds=sum(_seconds(start, run_pid is not None, progress) for start in state.starts),
        error_tail=state.tail if state.phase == "failed" else "",
        supervisor_pid=supervisor,
        run_pid=run_pid,
    )


def _broken(name: str, why: str) -> JobStatus:
    """Under a name that may be one of a job; the reason has the folder's own name."""
    return JobStatus(name=re.sub(r"[^A-Za-z0-9._=-]", "-", name).lstrip("._=-")[:100] or "unnamed", phase="broken", reason=why)


def _phase(paths: JobPaths, state: State, supervisor: int | None, nothing_to_push: bool) -> tuple[str, str]:
    """The phase as people want it told: that a supervisor pushes, or is gone."""
    if supervisor is not None:
        ended = state.supervisor == supervisor and state.phase in (*FINAL, "interrupted")
        return ("pushing", f"{state.phase}: {state.reason}".rstrip(": ")) if ended else (state.phase, state.reason)
    if not state.starts and not (paths.folder / "state.json").exists():
        return "new", "never started"
    if state.phase in (*FINAL, "interrupted"):
        rest = "" if nothing_to_push else "; not everything is in the bucket: `boot`, `stop` or `last-sync` pushes the rest"
        return state.phase, f"{state.reason}{rest}".removeprefix("; ")
    if paths.stopped.exists():
        return "dead", "its supervisor is gone; the user has stopped it, and nothing starts it but `train`"
    return "dead", "its supervisor is gone; the idle guard, cron, the next boot, or `train`, goes on from the newest checkpoint"


def _step(progress: Progress | None, saved: int) -> int:
    return max(saved, progress.step if progress is not None else 0)


def _seconds(start: Start, run_lives: bool, progress: Progress | None) -> float:
    if start.ended:
        return start.seconds
    end = time.time() if run_lives or progress is None else progress.time
    return max(0.0, round(end - seconds_of(start.time), 1))


def _eta(progress: Progress | None) -> float | None:
    """Without validations; of the newest 50 steps."""
    if progress is None or progress.median_step_seconds is None:
        return None
    return round((progress.total_steps - progress.step) * progress.median_step_seconds, 1)


def _push_error(pushed: PushState | None) -> str | None:
    return None if pushed is None else pushed.error


def _last_logged(path: Path) -> dict[str, float]:
    """The newest line of training values in metrics.jsonl; empty without one. The last line may be torn."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - METRICS_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and "train/loss_total" in values:
            return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
    return {}


def _measure(value: float | None) -> float | None:
    """What the laptop takes: None for what is not finite."""
    return max(0.0, value) if value is not None and math.isfinite(value) else None


def machine_status(root: Path) -> MachineStatus:
    """How the machine stands."""
    disk = shutil.disk_usage(root)
    booted = next(int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    return MachineStatus(
        gpus=_gpus(),
        disk_free_gib=round(disk.free / GIB, 2),
        disk_total_gib=round(disk.total / GIB, 2),
        idle_guard=_idle(root),
        booted_at=_iso(booted),
    )


def _idle(root: Path) -> IdleStatus | None:
    try:
        rule = read_rule(root)
    except UserError as refusal:
        return IdleStatus(0.0, is_held(root / "idle.lock"), None, None, False, str(refusal))
    if rule is None:
        return None
    seen, alive = read_idle_state(root), is_held(root / "idle.lock")
    since = seen.idle_since if seen is not None and alive else None
    error = seen.error if seen is not None else ""
    return IdleStatus(rule.minutes, alive, _iso(since), used_by(root), can_power_off(rule), error)


def _gpus() -> tuple[GpuStatus, ...] | None:
    """None without a driver that answers."""
    asked = "--query-gpu=name,utilization.gpu,memory.used,memory.total"
    try:
        done = subprocess.run(
            ["nvidia-smi", asked, "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    rows = [[word.strip() for word in line.split(",")] for line in done.stdout.splitlines() if line.count(",") == 3]
    if done.returncode or not rows:
        return None
    return tuple(GpuStatus(row[0], _scaled(row[1], 100), _scaled(row[2], 1024), _scaled(row[3], 1024)) for row in rows)


def _scaled(text: str, unit: float) -> float | None:
    try:
        return round(float(text) / unit, 3)
    except ValueError:  # [N/A]
        return None


def _age(path: Path) -> float | None:
    try:
        return round(max(0.0, time.time() - path.stat().st_mtime), 1)
    except OSError:
        return None


def _iso(seconds: Any) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
