"""What the idle guard goes by: its rule (ROOT/idle.json, which may change any time), what it last saw, and who uses the machine."""

import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from training.errors import UserError
from training.files import write_json
from training.runner.job import JobPaths, job_names
from training.runner.mirror.push_state import read_push_state
from training.runner.processes import living
from training.runner.protocol import without_unknown
from training.runner.state import FINAL, read_state

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

    Raises: UserError for a file that says something else.
    """
    path = idle_file(root)
    try:
        return IdleRule.model_validate_json(without_unknown(path.read_bytes(), IdleRule.model_fields, FORMAT))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None


def read_idle_state(root: Path) -> IdleState | None:
    """What the guard last saw; None if it never looked."""
    try:
        return _STATE.validate_json((root / "idle-state.json").read_bytes())
    except (OSError, ValueError):
        return None


def used_by(root: Path) -> str | None:
    """What keeps the machine in use, in words; None if nothing does.

    A job that only pushes counts, until that has been in vain for hours.
    """
    for name in job_names(root):
        paths = JobPaths(root, name)
        supervisor = living(paths.pid_file)
        if living(paths.run_pid_file) is not None or (supervisor is not None and not _pushes_in_vain(paths)):
            return f"job {name}"
        if living(paths.revived) not in (None, supervisor):
            return f"job {name}, whose supervisor was killed and starts again"
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


def write_rule(root: Path, rule: IdleRule) -> None:
    """Ask for a guard."""
    write_json(idle_file(root), json.loads(rule.model_dump_json()))
