"""The idle guard: it starts killed supervisors again, and powers off a machine that nobody uses."""

import logging
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

from training.errors import UserError
from training.runner.going_on import revive
from training.runner.guards.idle import IdleRule, IdleState, idle_file, read_rule, used_by
from training.runner.job import own_command
from training.runner.processes import held, try_to_write_json

log = logging.getLogger(__name__)

EVERY_SECONDS = 20.0
COMMAND_SECONDS = 60.0
REPORT_SECONDS = 120.0


def guard(root: Path, every_seconds: float = EVERY_SECONDS) -> None:
    """Look every `every_seconds`, until idle.json is gone. One guard at a time: a second one ends at once."""
    try:
        with held(root / "idle.lock", "another guard"):
            _guard(root, every_seconds)
    except UserError as refusal:
        if str(refusal) != "another guard":
            raise


def _guard(root: Path, every_seconds: float) -> None:
    """Nothing ends it but the user: without a guard the machine costs money for ever."""
    idle_since: float | None = None
    began = 0.0  # by the monotonic clock: that of the machine may jump after a boot
    rule: IdleRule | None = None
    may_be_written = True  # an earlier guard may have left a shutdown report
    while idle_file(root).exists():
        error = ""
        try:
            rule = read_rule(root) or rule
        except UserError as refusal:  # the last good rule stays
            error = str(refusal)
        try:
            revived = revive(root)
            used = used_by(root) or (f"job {revived[0]}, whose supervisor was killed" if revived else None)
        except (OSError, ValueError, RuntimeError) as failure:
            used, error = "unknown", f"{type(failure).__name__}: {failure}"
        if used is not None:
            idle_since = None
            may_be_written = may_be_written and not _shutdown_report(root, "--remove")  # its jobs are no longer as it says
        elif idle_since is None:
            idle_since, began = time.time(), time.monotonic()
        if rule is not None and idle_since is not None and time.monotonic() - began >= rule.minutes * 60:
            log.info("idle for %g minutes: %s", rule.minutes, " ".join(rule.command))
            _shutdown_report(root)
            refused = _power_off(rule)
            may_be_written = not refused or not _shutdown_report(root, "--remove")
            error = refused or error
        try_to_write_json(root / "idle-state.json", asdict(IdleState(time.time(), idle_since, error)))
        time.sleep(every_seconds)


def _shutdown_report(root: Path, *options: str) -> bool:
    """In a process of its own and for a limited time: whatever the bucket does, the machine is powered off.

    Returns: whether it was written, or removed; true too for a machine that has none to say.
    """
    if not (root / "machine.json").exists():
        return True
    try:
        words = own_command(root, "shutdown-report", *options)
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=REPORT_SECONDS, check=False)
        log.info("%s: %s", " ".join(("shutdown report", *options)), " ".join((done.stdout + done.stderr).split()))
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("shutdown report: %s", error)
        return False
    return done.returncode == 0


def _power_off(rule: IdleRule) -> str:
    """Returns: what went wrong, if it did."""
    try:
        done = subprocess.run(
            rule.command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else " ".join(done.stderr.split()) or f"exit code {done.returncode}"
