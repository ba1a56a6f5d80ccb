"""The idle guard: a machine that nobody uses is powered off. ROOT/idle.json says after how long and how; it may change any time."""

import json
import logging
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from training.checkpoints.push_state import read_push_state
from training.protocol import without_unknown
from training.refusal import Refused
from training.supervision.job import JobPaths, job_names, own_command
from training.supervision.processes import held, living, try_to_write_json, write_json
from training.supervision.state import FINAL, read_state

log = logging.getLogger(__name__)

EVERY_SECONDS = 20.0
COMMAND_SECONDS = 60.0
LAST_WORD_SECONDS = 120.0
IN_VAIN_SECONDS = 2 * 3600.0
FORMAT = 1
"""Of idle.json."""
POWER_OFF = ("sudo", "-n", "shutdown", "-h", "now")


class IdleRule(BaseModel):
    """What idle.json says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Annotated[int, Field(ge=0)] = 0
    minutes: Annotated[float, Field(gt=0)] = 30.0
    command: Annotated[tuple[str, ...], Field(min_length=1)] = POWER_OFF


@dataclass(frozen=True)
class IdleState:
    """What the guard last saw.

    Units: times in seconds since 1970.
    """

    checked: float = 0.0
    idle_since: float | None = None
    error: str = ""


_STATE = TypeAdapter(IdleState)


def idle_file(root: Path) -> Path:
    """Present: the machine is guarded."""
    return root / "idle.json"


def read_rule(root: Path) -> IdleRule | None:
    """The rule; None if there is none.

    Raises: Refused for a file that says something else.
    """
    path = idle_file(root)
    try:
        return IdleRule.model_validate_json(without_unknown(path.read_bytes(), IdleRule.model_fields, FORMAT))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise Refused(f"{path}: {' '.join(str(error).split())}") from None


def read_idle_state(root: Path) -> IdleState | None:
    """What the guard last saw; None if it never looked."""
    try:
        return _STATE.validate_json((root / "idle-state.json").read_bytes())
    except (OSError, ValueError):
        return None


def guard(root: Path, every_seconds: float = EVERY_SECONDS) -> None:
    """Look every `every_seconds`, until idle.json is gone. One guard at a time: a second one ends at once."""
    try:
        with held(root / "idle.lock", "another guard"):
            _guard(root, every_seconds)
    except Refused as refusal:
        if str(refusal) != "another guard":
            raise


def _guard(root: Path, every_seconds: float) -> None:
    """Nothing ends it but the user: without a guard the machine costs money for ever."""
    idle_since: float | None = None
    began = 0.0  # by the monotonic clock: that of the machine may jump after a boot
    rule: IdleRule | None = None
    while idle_file(root).exists():
        error = ""
        try:
            rule = read_rule(root) or rule
        except Refused as refusal:  # the last good rule stays
            error = str(refusal)
        try:
            used = used_by(root)
        except (OSError, ValueError, RuntimeError) as failure:
            used, error = "unknown", f"{type(failure).__name__}: {failure}"
        if used is not None:
            idle_since = None
        elif idle_since is None:
            idle_since, began = time.time(), time.monotonic()
        if rule is not None and idle_since is not None and time.monotonic() - began >= rule.minutes * 60:
            log.info("idle for %g minutes: %s", rule.minutes, " ".join(rule.command))
            _say_last_word(root)
            error = _power_off(rule) or error
        try_to_write_json(root / "idle-state.json", asdict(IdleState(time.time(), idle_since, error)))
        time.sleep(every_seconds)


def _say_last_word(root: Path) -> None:
    """In a process of its own and for a limited time: whatever the bucket does, the machine is powered off."""
    if not (root / "machine.json").exists():
        return
    try:
        words = own_command(root, "last-word")
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LAST_WORD_SECONDS, check=False
        )
        log.info("last word: %s", " ".join((done.stdout + done.stderr).split()))
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("last word: %s", error)


def _power_off(rule: IdleRule) -> str:
    """Returns: what went wrong, if it did."""
    try:
        done = subprocess.run(
            rule.command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else " ".join(done.stderr.split()) or f"exit code {done.returncode}"


def used_by(root: Path) -> str | None:
    """What keeps the machine in use, in words; None if nothing does.

    A job that only pushes counts, until that has been in vain for hours.
    """
    for name in job_names(root):
        paths = JobPaths(root, name)
        if living(paths.run_pid_file) is not None or (living(paths.pid_file) is not None and not _pushes_in_vain(paths)):
            return f"job {name}"
    sessions = ssh_sessions()
    return f"SSH: {sessions[0]}" if sessions else None


def _pushes_in_vain(paths: JobPaths) -> bool:
    """Whether the run ended hours ago, and its bucket does not take what is left. The disk keeps it."""
    state = read_state(paths)
    if state is None or state.phase not in (*FINAL, "interrupted"):
        return False
    pushed = read_push_state(paths.folder)
    has_failed = pushed is None or pushed.failures > 0
    return has_failed and time.time() - (paths.folder / "state.json").stat().st_mtime > IN_VAIN_SECONDS


def ssh_sessions(proc: Path = Path("/proc")) -> list[str]:
    """Connections over SSH that have logged in, whether or not they have a terminal, and also an idle ControlMaster.

    sshd names its processes: `sshd: NAME` or `sshd: NAME@pts/0` (`sshd-session:` from OpenSSH 9.8 on) is one that has logged in;
    `[listener]`, `[accepted]`, `[net]`, `[priv]` are those that wait for, make or guard one. `who` shows terminals only.
    """
    found = []
    for folder in proc.glob("[0-9]*"):
        try:
            if (folder / "comm").read_text().strip() not in ("sshd", "sshd-session"):
                continue
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # it has ended meanwhile
        prefix, colon, who = title.partition(": ")
        if colon and prefix in ("sshd", "sshd-session") and "[" not in who and not who.startswith("/"):
            found.append(who)
    return sorted(found)


def can_power_off(rule: IdleRule) -> bool:
    """Whether the command of the rule would be allowed, as far as one can tell without running it."""
    if shutil.which(rule.command[0]) is None:
        return False
    if rule.command[0] != "sudo":
        return True
    words = ["sudo", "-n", "-l", *(word for word in rule.command[1:] if word != "-n")]
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def guard_is_alive(root: Path) -> bool:
    """Whether a guard holds the lock."""
    if not (root / "idle.lock").exists():
        return False
    try:
        with held(root / "idle.lock", "another guard"):
            return False
    except Refused:
        return True


def write_rule(root: Path, rule: IdleRule) -> None:
    """Ask for a guard."""
    write_json(idle_file(root), json.loads(rule.model_dump_json()))
