"""Processes and who they are: pid files that a reused pid cannot fool, children that do not outlive, locks that do not stale."""

import ctypes
import fcntl
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from training.errors import UserError
from training.files import write_json

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # opened here: between fork and exec nothing may be loaded


@dataclass(frozen=True)
class Process:
    """One process for good: a pid is used again, and so are its clock ticks after a reboot."""

    pid: int
    started: int
    """Field 22 of /proc/PID/stat: clock ticks since boot."""
    boot: str


def boot_id() -> str:
    """A word that is new after every boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def process_of(pid: int) -> Process | None:
    """The process that has this pid now; None if there is none, or it is dead and only not yet reaped."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else Process(pid, int(fields[18]), boot_id())


def write_pid_file(path: Path, pid: int) -> None:
    """Say which process it is."""
    if (process := process_of(pid)) is not None:
        try_to_write_json(path, asdict(process))


def living(path: Path) -> int | None:
    """The pid in a pid file, if that very process lives."""
    try:
        said = json.loads(path.read_text())
        process = Process(int(said["pid"]), int(said["started"]), str(said["boot"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return process.pid if process_of(process.pid) == process else None


def try_to_write_json(path: Path, values: object) -> None:
    """Write a file whole, or say that it could not be: a full disk must not end who watches it."""
    try:
        write_json(path, values)
    except OSError as error:
        log.warning("%s: not written: %s", path, error)


def boot_seconds() -> float:
    """Seconds since boot: a clock that nobody sets, and that goes on while a machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def started_at(pid: int) -> float:
    """When a living process began, in seconds since boot; now if it is gone."""
    process = process_of(pid)
    return boot_seconds() if process is None else process.started / os.sysconf("SC_CLK_TCK")


@contextmanager
def held(path: Path, taken: str) -> Iterator[None]:
    """Hold a lock. The kernel lets go of it when the process is dead, however it died: a file that was left is no obstacle.

    Raises: UserError with `taken` if another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:  # children do not inherit it: Python opens with O_CLOEXEC
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(taken) from None
        yield


def is_held(path: Path) -> bool:
    """Whether another process holds a lock."""
    if not path.exists():
        return False
    try:
        with held(path, "another process"):
            return False
    except UserError:
        return True


def start_child(command: list[str], cwd: Path, log: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start a process in its own session, all streams away from ours, that gets SIGTERM when we die."""
    return _start(command, cwd, log, environment, _end_with_parent)


def start_detached(command: list[str], cwd: Path, log: Path) -> "subprocess.Popen[bytes]":
    """Start a process that survives us, our session and its terminal, as under nohup."""
    return _start(command, cwd, log, dict(os.environ), _ignore_hangup)


def _start(
    command: list[str], cwd: Path, log: Path, environment: dict[str, str], first: Callable[[], None]
) -> "subprocess.Popen[bytes]":
    with log.open("ab") as out:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=first,
        )


def _end_with_parent() -> None:
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _ignore_hangup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def has_ended(child: "subprocess.Popen[bytes]") -> bool:
    """Whether a child is dead. It is not reaped here, so that its process group keeps its number until `reap`."""
    if child.returncode is not None:
        return True
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def reap(child: "subprocess.Popen[bytes]") -> int:
    """Kill what is left of a child's group (loader workers outlive a SIGKILL for a while).

    Returns: its exit code, negative for a signal.
    """
    if child.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    return child.wait()


def tell(child: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Send a signal to the child alone: its loader workers die of a SIGTERM that it survives."""
    if not has_ended(child):
        with suppress(ProcessLookupError):
            os.kill(child.pid, number)


def end_child(child: "subprocess.Popen[bytes]", seconds: float) -> int:
    """SIGTERM, and after `seconds` SIGKILL for the whole group.

    Returns: its exit code, negative for a signal.
    """
    tell(child, signal.SIGTERM)
    wait_until(lambda: has_ended(child), seconds)
    return reap(child)


def end_orphan(pid_file: Path, seconds: float) -> bool:
    """End the process of a pid file, which is no child of ours, as `end_child` does.

    Returns: whether there was one.
    """
    pid = living(pid_file)
    if pid is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    if not wait_until(lambda: living(pid_file) is None, seconds):
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        wait_until(lambda: living(pid_file) is None, seconds)
    return True


def wait_until(condition: Callable[[], bool], seconds: float, every: float = 0.1) -> bool:
    """Poll.

    Units: `seconds` at most, polling `every` seconds.
    Returns: whether it came true.
    """
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= limit:
            return False
        time.sleep(every)
    return True
