"""Supervisors that no person starts: after a boot, and after a kill that hit the supervisor itself."""

import json
import logging
import os
from dataclasses import asdict
from pathlib import Path

from training.runner.guards.idle import idle_file
from training.runner.job import Job, JobPaths, own_command, read_jobs
from training.runner.mirror.push_state import read_push_state
from training.runner.processes import is_held, living, process_of, start_detached, try_to_write_json
from training.runner.state import FINAL, newest_step, read_state

log = logging.getLogger(__name__)

MAX_REVIVALS = 5
"""Without a new checkpoint: a supervisor that dies at once must not keep a rented machine on for ever."""


def boot(root: Path) -> list[str]:
    """Start, detached, a supervisor for each job that is unfinished or not wholly pushed, and the idle guard if it is asked for.

    Returns: what was started.
    """
    started = []
    jobs, broken = read_jobs(root)
    for refusal in broken.values():
        log.warning("%s", refusal)
    for paths, job in jobs:
        if has_work_left(paths, job) and living(paths.pid_file) is None:
            _start_supervisor(paths, 0)
            started.append(paths.name)
    return started + _start_guard(root)


def revive(root: Path) -> list[str]:
    """The same for each job whose supervisor was killed. One that ended by itself took its pid file along, and has its reasons.

    Returns: what was started.
    """
    started = []
    for paths, job in read_jobs(root)[0]:
        was_killed = paths.pid_file.exists() and living(paths.pid_file) is None and not is_held(paths.lock)
        if was_killed and living(paths.revived) is None and has_work_left(paths, job) and _revive(paths):
            started.append(paths.name)
    return started + _start_guard(root)


def has_work_left(paths: JobPaths, job: Job) -> bool:
    """Whether the run is to go on, or something of it is to be pushed."""
    state = read_state(paths)
    is_to_run = not paths.stopped.exists() and (state is None or state.phase not in FINAL)
    return is_to_run or not is_safe(paths, job, without_bucket=True)


def is_safe(paths: JobPaths, job: Job, without_bucket: bool = False) -> bool:
    """Whether the bucket has everything; `without_bucket` is the answer for a job that has none."""
    if job.bucket is None:
        return without_bucket
    pushed = read_push_state(paths.folder)
    return pushed is not None and pushed.complete


def _revive(paths: JobPaths) -> bool:
    """Returns: whether it was started: not in vain too often. `train` removes the count."""
    step = newest_step(paths)
    try:
        said = json.loads(paths.revived.read_text())
        count = int(said["count"]) if int(said["step"]) == step else 0
    except (OSError, ValueError, LookupError, TypeError):
        count = 0
    if count >= MAX_REVIVALS:
        return False
    log.warning("%s: its supervisor was killed: starting it again", paths.name)
    _start_supervisor(paths, count + 1)
    return True


def _start_supervisor(paths: JobPaths, count: int) -> None:
    """Note which process it is: it has no pid file yet."""
    process = process_of(_start(own_command(paths.root, "supervise", paths.name, "--boot"), paths.code, paths.log))
    said = {"step": newest_step(paths), "count": count}
    try_to_write_json(paths.revived, said | (asdict(process) if process is not None else {}))


def _start_guard(root: Path) -> list[str]:
    if not idle_file(root).exists() or is_held(root / "idle.lock"):
        return []
    _start(own_command(root.absolute(), "idle-guard"), root / "code", root / "idle.log")
    return ["idle-guard"]


def _start(command: list[str], cwd: Path, log_file: Path) -> int:
    try:
        return start_detached(command, cwd, log_file).pid
    except OSError as error:  # on a full disk a log that is not there yet cannot be made
        log.warning("%s", error)
        return start_detached(command, cwd, Path(os.devnull)).pid
