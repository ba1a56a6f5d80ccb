"""Commands and files over SSH, by OpenSSH and the generated ssh_config: one connection that all share, and errors in one line."""

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile
from textwrap import shorten

from bootstrap.machine import Machine
from bootstrap.ssh_config import write_ssh_config
from bootstrap.streams import Answer, capture, show
from training.errors import RunError, UserError
from training.text import escaped

BOOT_SECONDS = 300  # an L4 VM answers 20 to 120 seconds after its creation
BOX_SECONDS = 30
LOST = 255  # ssh's own exit code; no command of ours ends so

# fab's own connections need no forwarding of ports and no escape character; a person's (`ssh -F`) may have both.
_OURS = ("-o", "LogLevel=ERROR", "-o", "ClearAllForwardings=yes", "-o", "EscapeChar=none")

# What does not heal by waiting: (pattern of ssh's words, what to do).
_FINAL = (
    (
        re.compile(r"REMOTE HOST IDENTIFICATION HAS CHANGED|Host key verification failed"),
        "its host key is not the one seen before: if the machine is new, take it out of {known_hosts}; otherwise do not go on",
    ),
    (re.compile(r"Could not resolve hostname|Name or service not known"), "no such host; check --host"),
    (re.compile(r"Bad configuration option|percent_expand|bad ownership|UNPROTECTED PRIVATE KEY", re.I), "mend that first"),
)
# IAP says it of a VM that is stopped or gone, too (its documentation of error 4033).
_NO_TUNNEL = re.compile(r"Error while connecting \[4033\b")
_TUNNEL_ADVICE = (
    "Google's tunnel (IAP) does not let you through: you need roles/iap.tunnelResourceAccessor in project {project}: an owner runs "
    "gcloud projects add-iam-policy-binding {project} --member=user:YOU --role=roles/iap.tunnelResourceAccessor. "
    "Or the machine is stopped or gone"
)
_REFUSED_KEY = re.compile(r"Permission denied|Too many authentication failures")
_KEY_ADVICE = "the machine does not take your key: check the user and the key (ssh-add -l; sshUser and sshPublicKey of the stack)"
_OS_LOGIN_ADVICE = (
    "OS Login does not let you in: you need roles/compute.osAdminLogin in project {project}, and roles/iam.serviceAccountUser on "
    "the account that the machine runs as; a new role counts after a minute or two"
)


class Vanished(RunError):
    """What was copied was removed there meanwhile; the rest has come."""


class Lost(RunError):
    """The connection broke off. What was started there goes on: nothing there notices."""

    def __init__(self, machine: str, why: str, after: str = "the same command goes on where it stopped") -> None:
        super().__init__(f"{machine}: the connection was lost ({why}); {after}")
        self.machine, self.why = machine, why

    def then(self, after: str) -> "Lost":
        """The same, where something else than the same command goes on."""
        return Lost(self.machine, self.why, after)


class Host:
    """A machine that answers."""

    def __init__(self, machine: Machine, ssh_config: Path) -> None:
        self.machine, self.ssh_config = machine, ssh_config

    def ask(self, command: str, stdin: str = "", seconds: float = 120) -> Answer:
        """Run a command and take what it prints.

        Units: `seconds` to wait at most.
        Raises: RunError if the connection is lost, or after `seconds`.
        """
        try:
            answer = capture(self.ssh(command), stdin, seconds)
        except subprocess.TimeoutExpired:
            raise RunError(f"{self.machine.label}: not done within {seconds:g} seconds") from None
        except RunError as failure:
            raise RunError(f"{self.machine.label}: {failure}") from None
        if answer.code == LOST:
            raise self.lost(answer.err)
        return answer

    def show(self, command: str, stdin: str | None = "", options: tuple[str, ...] = ()) -> Answer:
        """Run a command whose output goes to the terminal, with what does not print escaped.

        Returns: its exit code, and the end of its standard error.
        Raises: RunError if the connection is lost.
        """
        answer = show(self.ssh(command, *options), stdin)
        if answer.code == LOST:
            raise self.lost("")
        return answer

    def ssh(self, command: str, *options: str) -> list[str]:
        """The words that run a command on the machine; ssh hands it to the login shell, so it is wrapped for one that is no sh."""
        return [*self._ssh(), *options, self.machine.label, f"exec sh -c {shlex.quote(command)}"]

    def rsync(self, source: str, to: str, *options: str, files: Iterable[str] | None = None) -> list[str]:
        """The words that copy to or from the machine (a path there begins with `:`); `files` are told on standard input."""
        places = [f"{self.machine.label}{place}" if place.startswith(":") else place for place in (source, to)]
        listed = [] if files is None else ["--files-from=-", "--from0"]
        return ["rsync", "-e", shlex.join(self._ssh()), "--protect-args", *options, *listed, *places]

    def copy(self, source: str, to: str, *options: str, files: tuple[str, ...] | None = None) -> str:
        """Copy, and return what rsync prints.

        Raises: UserError without rsync here or there; RunError if it does not come through.
        """
        words = self.rsync(source, to, *options, files=files)
        try:
            answer = capture(words, None if files is None else "".join(f"{name}\0" for name in files))
        except FileNotFoundError:
            raise UserError("rsync is not installed here (macOS: brew install rsync; Debian: apt-get install rsync)") from None
        except RunError as failure:
            raise RunError(f"{self.machine.label}: rsync: {failure}") from None
        if answer.code:
            raise self.copy_failed(answer.code, answer.err)
        return answer.out

    def copy_failed(self, code: int, said: str) -> Exception:
        """What rsync's exit code means."""
        if re.search(r"rsync: (command )?not found|rsync: No such file", said) or code == 127:
            return UserError(f"{self.machine.label}: rsync is not installed there (Debian, Ubuntu: sudo apt-get install rsync)")
        if "No space left on device" in said:
            return RunError(f"{self.machine.label}: the disk is full: {in_a_line(said)}")
        if code == 1:  # usage: the rsync 2.6.9 and the openrsync of macOS know fewer options
            return UserError(f"rsync here is too old ({in_a_line(said)}); needed: 3.1 or newer (macOS: brew install rsync)")
        if code in (10, 12, 20, 30, 35, LOST):
            return self.lost(said)
        if code == 24 or (code == 23 and "No such file or directory" in said):
            return Vanished(f"{self.machine.label}: files were removed there during the copy: {in_a_line(said)}")
        return RunError(f"{self.machine.label}: rsync failed: {in_a_line(said)}")

    def lost(self, said: str) -> Lost:
        """A connection that broke off: nothing is half-done that the same command does not mend, where nobody says otherwise."""
        return Lost(self.machine.label, in_a_line(said) or "no answer")

    def _ssh(self) -> list[str]:
        return ["ssh", "-F", str(self.ssh_config), *_OURS, *_asking()]


def connect(machine: Machine, seconds: float | None = None) -> Host:
    """Wait until the machine answers, saying so.

    Units: `seconds` to wait at most (default: 300 for a rented machine, which may be booting, otherwise 30).
    Raises: UserError for what waiting cannot mend: an unknown host, a changed host key, a key that is not taken.
            RunError after that.
    """
    host = Host(machine, write_ssh_config(machine))
    limit = seconds or (BOOT_SECONDS if machine.is_rented else BOX_SECONDS)
    start = told = time.monotonic()
    while True:
        said = _try(host)
        if said is None:
            return host
        waited = time.monotonic() - start
        _refuse_for_good(host, said, is_booting=machine.is_rented and waited < limit / 2)
        if waited > limit:
            raise RunError(f"{machine.label} does not answer after {waited:.0f} seconds: {in_a_line(said)}")
        if waited < 3 or time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"waiting for {machine.label}: {in_a_line(said)} ({waited:.0f} of at most {limit:.0f} s)", flush=True)
            if machine.os_login and _REFUSED_KEY.search(said):
                print(f"  if this stays: {_key_advice(machine)}", flush=True)
        time.sleep(min(3.0, limit / 10))


def _try(host: Host) -> str | None:
    """Open the shared connection.

    It stays in the background with the standard error it was given, and would hold a pipe open: so that is a file.

    Returns: what ssh and the tunnel said against it, or None.
    """
    with TemporaryFile("w+", errors="replace") as said, NamedTemporaryFile("r", errors="replace") as tunnel:
        try:
            done = subprocess.run(
                [*host._ssh(), *_heard(host.machine.proxy, tunnel.name), "-f", "-N", host.machine.label],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                timeout=90,
            )
        except FileNotFoundError:
            raise UserError("ssh is not installed here (Debian, Ubuntu: apt-get install openssh-client)") from None
        except subprocess.TimeoutExpired:
            return "no answer within 90 seconds"
        said.seek(0)
        return None if done.returncode == 0 else tunnel.read() + said.read() or f"ssh ended with {done.returncode}"


def _heard(proxy: str | None, file: str) -> tuple[str, ...]:
    """The option that keeps what the tunnel says: where a connection is to be shared, ssh sends that to /dev/null."""
    if proxy is None:
        return ()
    command = f"exec {proxy} 2>>{shlex.quote(file.replace('%', '%%'))}"
    return "-o", f"ProxyCommand=sh -c {shlex.quote(command)}"


def _refuse_for_good(host: Host, said: str, is_booting: bool) -> None:
    offending = re.search(r"Offending .*key in (\S+):\d+", said)
    known_hosts = offending[1] if offending else host.ssh_config.with_name("known_hosts")
    for pattern, advice in _FINAL:
        if pattern.search(said):
            raise UserError(f"{host.machine.label}: {advice.format(known_hosts=known_hosts)} ({in_a_line(said)})")
    if _NO_TUNNEL.search(said):
        advice = _TUNNEL_ADVICE.format(project=host.machine.os_login or "PROJECT")
        raise UserError(f"{host.machine.label}: {advice} ({in_a_line(said)})")
    if _REFUSED_KEY.search(said) and not is_booting:  # keys and accounts come to a new VM some seconds after sshd
        raise UserError(f"{host.machine.label}: {_key_advice(host.machine)} ({in_a_line(said)})")


def _key_advice(machine: Machine) -> str:
    return _OS_LOGIN_ADVICE.format(project=machine.os_login) if machine.os_login else _KEY_ADVICE


def _asking() -> list[str]:
    """A password or a passphrase can be asked for only where somebody sits."""
    return [] if sys.stdin is not None and sys.stdin.isatty() else ["-o", "BatchMode=yes"]


def in_a_line(said: str, width: int = 300) -> str:
    """What a program or a machine printed, as a part of a message."""
    lines = [line.strip() for line in said.splitlines() if line.strip(" @\r")]
    return shorten(escaped(" ".join(lines)).replace("kex_exchange_identification: ", ""), width, placeholder=" ...")
