"""The idle guard, with a power-off command that only leaves a file."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.runner.conftest import REPOSITORY, until
from training.errors import UserError
from training.runner.guards.idle import (
    IN_VAIN_SECONDS,
    IdleRule,
    read_idle_state,
    read_rule,
    ssh_sessions,
    used_by,
    write_rule,
)
from training.runner.mirror.push_state import Record
from training.runner.processes import is_held, wait_until, write_pid_file
from training.runner.state import State, write_state
from training.runner.status import machine_status

GUARD = "import sys; from pathlib import Path; from training.runner.guards.power_off import guard; guard(Path(sys.argv[1]), 0.05)"
SLEEPS = shutil.which("sleep") or "/bin/sleep"


@pytest.fixture
def off(root) -> Path:
    """What the power-off command leaves behind; the rule asks for it after 0.6 seconds."""
    mark = root.parent / "off"
    write_rule(root, IdleRule(minutes=0.01, command=("touch", str(mark))))
    return mark


@pytest.fixture
def guard(root, off) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", GUARD, str(root)], cwd=REPOSITORY) as process:
        yield process
        process.kill()


@pytest.fixture
def no_ssh(monkeypatch) -> None:
    if ssh_sessions():
        pytest.skip("somebody is logged in over SSH here")


@pytest.fixture
def session(tmp_path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that calls itself what sshd calls the one of somebody who is logged in without a terminal."""
    program = tmp_path / "sshd"
    shutil.copy(SLEEPS, program)
    with subprocess.Popen(["sshd: someone@notty", "60"], executable=program) as process:
        until(ssh_sessions)
        yield process
        process.kill()


def test_an_idle_machine_is_powered_off(root, off, guard, no_ssh):
    until(off.exists)

    idle = machine_status(root).idle_guard
    assert idle is not None
    assert (idle.minutes, idle.alive, idle.used_by, idle.can_power_off) == (0.01, True, None, True)
    assert idle.idle_since is not None


def test_a_living_job_keeps_it_on(site, off, guard, no_ssh):
    off.unlink(missing_ok=True)
    write_pid_file(site.paths.pid_file, os.getpid())
    until(lambda: (s := read_idle_state(site.paths.root)) is not None and s.idle_since is None)
    off.unlink(missing_ok=True)
    checked = read_idle_state(site.paths.root)
    assert checked is not None
    until(lambda: (s := read_idle_state(site.paths.root)) is not None and s.checked > checked.checked + 1.2)

    assert not off.exists()
    assert used_by(site.paths.root) == "job job"
    site.paths.pid_file.unlink()
    until(off.exists)


def test_somebody_logged_in_over_ssh_keeps_it_on_without_a_terminal_too(root, session):
    assert any(who.startswith("someone@notty") for who in ssh_sessions())
    assert (used_by(root) or "").startswith("SSH: ")


@pytest.mark.parametrize(
    ("comm", "title", "counts"),
    [
        ("sshd", "sshd: ubuntu@pts/0", True),
        ("sshd", "sshd: ubuntu@notty", True),
        ("sshd", "sshd: ubuntu", True),
        ("sshd-session", "sshd-session: ubuntu@pts/1", True),
        ("sshd", "sshd: ubuntu [priv]", False),
        ("sshd", "sshd: root [net]", False),
        ("sshd", "sshd: unknown [priv]", False),
        ("sshd", "sshd: [accepted]", False),
        ("sshd", "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups", False),
        ("sshd", "/usr/sbin/sshd\0-D", False),
        ("bash", "sshd: ubuntu@pts/0", False),
    ],
)
def test_only_who_has_logged_in_counts(tmp_path, comm, title, counts):
    (tmp_path / "17").mkdir()
    (tmp_path / "17" / "comm").write_text(f"{comm}\n")
    (tmp_path / "17" / "cmdline").write_bytes(title.encode() + b"\0")

    assert bool(ssh_sessions(tmp_path)) is counts


def test_there_is_one_guard_and_it_ends_when_nobody_wants_it(root, guard, session):
    until(lambda: is_held(root / "idle.lock"))
    second = subprocess.run([sys.executable, "-c", GUARD, str(root)], cwd=REPOSITORY, timeout=60)
    assert second.returncode == 0
    assert is_held(root / "idle.lock")
    (root / "idle.json").unlink()

    assert guard.wait(timeout=60) == 0


def test_a_command_that_fails_is_told(root, guard, no_ssh):
    write_rule(root, IdleRule(minutes=0.001, command=("ls", "/no/such/folder")))

    until(lambda: (s := read_idle_state(root)) is not None and "/no/such/folder" in s.error)


@pytest.mark.parametrize("text", ["{", json.dumps({"minutes": 0}), json.dumps({"minuets": 3})])
def test_a_rule_that_is_none_is_refused(root, text):
    (root / "idle.json").write_text(text)

    with pytest.raises(UserError, match=r"idle\.json"):
        read_rule(root)
    idle = machine_status(root).idle_guard
    assert idle is not None
    assert "idle.json" in idle.error


def test_a_rule_that_was_mistyped_leaves_the_guard_with_the_last_good_one(root, off, guard, no_ssh):
    off.unlink(missing_ok=True)
    write_rule(root, IdleRule(minutes=0.03, command=("touch", str(off))))
    until(lambda: read_idle_state(root) is not None)
    (root / "idle.json").write_text("{")

    until(lambda: (s := read_idle_state(root)) is not None and "idle.json" in s.error)
    until(off.exists)


def test_neither_a_mistyped_rule_nor_a_full_disk_ends_the_guard(root, guard):
    until(lambda: is_held(root / "idle.lock"))
    (root / "idle.json").write_text("{")
    until(lambda: (s := read_idle_state(root)) is not None and "idle.json" in s.error)

    (root / ".idle-state.json.partial").mkdir()  # it cannot be written, as on a full disk
    (root / "idle-state.json").unlink(missing_ok=True)
    write_rule(root, IdleRule(minutes=60))
    assert not wait_until(lambda: guard.poll() is not None, 0.5)
    (root / ".idle-state.json.partial").rmdir()
    until(lambda: (s := read_idle_state(root)) is not None and s.error == "")


def test_a_job_that_has_pushed_in_vain_for_hours_does_not_keep_it_on(site):
    write_pid_file(site.paths.pid_file, os.getpid())
    write_state(site.paths, State("finished"))
    record = Record(str(site.paths.run), "file:///none", failures=30, error="no such bucket")
    record.write(site.paths.folder)
    assert used_by(site.paths.root) == "job job"

    long_ago = time.time() - IN_VAIN_SECONDS - 60
    os.utime(site.paths.folder / "state.json", (long_ago, long_ago))
    assert used_by(site.paths.root) != "job job"

    replace(record, failures=0, error=None).write(site.paths.folder)
    assert used_by(site.paths.root) == "job job"
    record.write(site.paths.folder)
    write_pid_file(site.paths.run_pid_file, os.getpid())
    assert used_by(site.paths.root) == "job job"
