"""The script of every boot, run for real: the disk is a file, and only `mount` and what needs root are stood in for."""

import os
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from infra.machine import DATA_DEVICE, STARTUP_SCRIPT
from infra.outputs import BOOT_HOOK, LAST_SYNC_HOOK
from infra.stack_config import BUCKET_LABEL, UNUSED_MINUTES
from tests.tools.gcs_server import GcsServer, needs_gcs
from training.errors import RunError
from training.runner.in_bucket import prove
from training.runner.report import FORMAT

MINUTES = 5
pytestmark = pytest.mark.needs("mkfs.ext4")


class Machine:
    """A disk, a mount point, and notes of what was asked of the system."""

    def __init__(self, folder: Path) -> None:
        self.disk, self.mount, self.notes, self.tools = folder / "disk", folder / "mnt", folder / "notes", folder / "tools"
        self.disk.touch()
        os.truncate(self.disk, 64 * 2**20)
        self.tools.mkdir()
        mounted = f'[ "$(cat {folder}/mounted 2>/dev/null)" = yes ]'
        self.leave_tool("mountpoint", mounted)
        self.leave_tool("mount", f'echo "mount $*" >>{self.notes}; echo yes >{folder}/mounted')
        self.leave_tool("runuser", f'echo "runuser $*" >>{self.notes}; shift 3; exec "$@"')
        self.leave_tool("sleep", "exit 0")
        self.leave_tool("systemd-run", "exit 0")
        self.leave_tool("shutdown", f'echo "shutdown $*" >>{self.notes}')
        self.servers = {"INCUBATOR_METADATA": "http://127.0.0.1:9", "INCUBATOR_STORAGE": "http://127.0.0.1:9"}  # nobody answers
        self.proc = folder / "proc"
        self.log_in("1", "/sbin/init")

    def leave_tool(self, name: str, script: str) -> None:
        (self.tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.tools / name).chmod(0o755)

    def let_its_guard_run(self, then: str = "exit 0") -> None:
        """The guard runs at once, before the rest of the script; each of its minutes passes with a command."""
        self.leave_tool("systemd-run", 'while [ "$1" != bash ]; do shift; done; exec "$@"')
        self.leave_tool("sleep", f'[ "$1" = 60 ] || exit 0\necho minute >>{self.notes}\n{then}')

    def log_in(self, number: str, title: str) -> None:
        (self.proc / number).mkdir(parents=True, exist_ok=True)
        (self.proc / number / "cmdline").write_bytes(title.encode() + b"\0" * 3)

    def boot(self) -> subprocess.CompletedProcess[str]:
        path = f"{self.tools}:{os.environ['PATH']}:/usr/sbin:/sbin"
        environment = {"PATH": path, "INCUBATOR_DISK": str(self.disk), "INCUBATOR_MOUNT": str(self.mount)} | {
            "INCUBATOR_PROC": str(self.proc),
            "INCUBATOR_UNUSED_MINUTES": str(MINUTES),
        }
        return subprocess.run(["bash", STARTUP_SCRIPT], env=environment | self.servers, capture_output=True, text=True)

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def label_of(disk: Path) -> str:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return subprocess.run(["wipefs", "--no-act", disk], env={"PATH": path}, capture_output=True, text=True).stdout


def test_a_blank_disk_is_formatted_once_and_mounted(machine):
    first = machine.boot()

    assert first.returncode == 0, first.stderr
    assert "formatting" in first.stdout
    assert "ext4" in label_of(machine.disk)
    assert machine.noted() == [f"mount -o discard,noatime {machine.disk} {machine.mount}"]
    before = machine.disk.read_bytes()

    again = machine.boot()

    assert again.returncode == 0
    assert "formatting" not in again.stdout
    assert machine.disk.read_bytes() == before


def test_a_disk_with_something_on_it_is_never_formatted(machine):
    with machine.disk.open("r+b") as disk:
        disk.seek(0x1FE)
        disk.write(b"\x55\xaa")  # a partition table
    before = machine.disk.read_bytes()

    done = machine.boot()

    assert "formatting" not in done.stdout
    assert machine.disk.read_bytes() == before


def test_a_file_system_whose_first_block_is_damaged_is_not_formatted_away(machine):
    assert machine.boot().returncode == 0
    (machine.notes.parent / "mounted").unlink()
    with machine.disk.open("r+b") as disk:
        disk.seek(1024 + 56)
        disk.write(b"\0\0")  # the magic number of ext4
    before = machine.disk.read_bytes()
    assert label_of(machine.disk) == ""

    done = machine.boot()

    assert "formatting" not in done.stdout
    assert machine.disk.read_bytes() == before


def test_a_disk_that_cannot_be_read_is_never_formatted(machine):
    before = machine.disk.read_bytes()
    machine.leave_tool("wipefs", "exit 1")

    assert machine.boot().returncode == 1
    assert machine.disk.read_bytes() == before


def test_a_disk_that_has_grown_is_used_whole(machine):
    assert machine.boot().returncode == 0
    (machine.notes.parent / "mounted").unlink()  # a reboot
    os.truncate(machine.disk, 128 * 2**20)

    done = machine.boot()

    assert done.returncode == 0, done.stderr
    assert "131072 (1k) blocks long" in done.stdout + done.stderr or "32768 (4k) blocks long" in done.stdout + done.stderr


def test_what_a_run_left_is_called_as_its_owner_at_every_boot(machine):
    machine.boot()
    hook = machine.mount / "incubator" / "boot-hook"
    hook.parent.mkdir(parents=True)
    hook.write_text(f"#!/bin/sh\necho hook >>{machine.notes}\n")

    machine.boot()
    assert "hook" not in machine.noted()  # it may not be run
    hook.chmod(0o755)
    machine.boot()
    machine.boot()

    assert machine.noted()[1:] == [f"runuser --user {hook.owner()} -- {hook}", "hook"] * 2


def test_a_machine_without_its_disk_says_so(machine):
    machine.disk.unlink()

    done = machine.boot()

    assert done.returncode == 1
    assert f"there is no data disk at {machine.disk}" in done.stdout


def test_a_machine_on_which_nothing_is_bootstrapped_powers_itself_off(machine):
    machine.let_its_guard_run()
    for title in (
        "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups",
        "sshd: [accepted]",
        "sshd: ada [priv]",
        "sshd: ada [net]",
    ):
        machine.log_in(str(100 + len(title)), title)  # nobody who has logged in

    done = machine.boot()

    assert machine.noted()[: MINUTES + 1] == ["minute"] * MINUTES + ["shutdown -h now"]
    assert f"nothing was bootstrapped within {MINUTES} minutes: power off" in done.stdout


class Metadata(BaseHTTPRequestHandler):
    """Google's metadata server, as far as the script asks it."""

    answers: ClassVar = {
        "name": "incubator-l4",
        "attributes/incubator-bucket": "demo-project-incubator",
        "service-accounts/default/token": '{"access_token":"ya29.c.b0A","expires_in":3599,"token_type":"Bearer"}',
    }

    def do_GET(self) -> None:
        text = self.answers.get(self.path.removeprefix("/computeMetadata/v1/instance/"))
        self.send_response(200 if text and self.headers["Metadata-Flavor"] == "Google" else 404)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def google(machine, tmp_path, monkeypatch) -> Iterator[GcsServer]:
    """The machine reaches Google's metadata and its bucket, and its guard runs."""
    needs_gcs()
    with GcsServer(tmp_path / "buckets") as gcs, ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as metadata:
        threading.Thread(target=metadata.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        for name, value in gcs.env.items():
            monkeypatch.setenv(name, value)
        gcs.make_bucket("demo-project-incubator")
        machine.servers = {"INCUBATOR_METADATA": f"http://127.0.0.1:{metadata.server_port}", "INCUBATOR_STORAGE": gcs.url}
        machine.boot()  # mounts the disk
        machine.mount.mkdir(exist_ok=True)
        (machine.mount / "lost+found").mkdir()
        machine.let_its_guard_run()
        yield gcs
        metadata.shutdown()


def proven() -> list[str]:
    """What `fab down` is told of the machine, which has just gone off."""
    now = datetime.now(UTC)
    return prove("gs://demo-project-incubator", "incubator-l4", now - timedelta(minutes=10), now + timedelta(seconds=5))


@pytest.mark.needs("curl")
def test_that_nothing_was_ever_on_its_disk_is_proven_when_it_is_off(machine, google):
    machine.boot()

    (line,) = proven()

    assert "shutdown -h now" in machine.noted()
    assert line.startswith("incubator-l4 compared its disk with the bucket before it powered itself off, at ")
    assert line.endswith(": no run was ever started there")
    (posted,) = [path for method, path in google.seen if method == "POST" and "uploadType=media" in path]
    assert posted.endswith("name=runs%2F.machines%2Fincubator-l4.json")


def left_over(machine: Machine) -> None:
    (machine.mount / "incubator" / "runs" / "screen").mkdir(parents=True)


def rescued(machine: Machine) -> None:
    (machine.mount / "lost+found" / "#12").touch()


def not_mounted(machine: Machine) -> None:
    machine.leave_tool("mountpoint", "exit 1")


def not_readable(machine: Machine) -> None:
    machine.leave_tool("find", "exit 1")


@pytest.mark.needs("curl")
@pytest.mark.parametrize("harm", [left_over, rescued, not_mounted, not_readable])
def test_what_may_be_on_its_disk_is_never_nothing(machine, google, harm):
    machine.boot()
    proven()
    harm(machine)
    machine.boot()

    with pytest.raises(RunError, match=rf"{machine.mount}.* belongs to no job, and is on its disk alone"):
        proven()

    assert machine.noted().count("shutdown -h now") == 2


def test_also_without_a_bucket_it_powers_itself_off(machine):
    machine.let_its_guard_run()

    done = machine.boot()

    assert "no shutdown report came to the bucket" in done.stdout
    assert "shutdown -h now" in machine.noted()


def test_also_one_that_has_lost_its_disk(machine):
    machine.let_its_guard_run()
    machine.disk.unlink()

    assert machine.boot().returncode == 1
    assert "shutdown -h now" in machine.noted()


@pytest.mark.parametrize("title", ["sshd: ada", "sshd: ada@pts/0", "sshd: ada@notty", "sshd-session: ada@pts/12"])
def test_while_somebody_is_logged_in_it_stays_on(machine, title):
    machine.log_in("4711", title)
    leaves = f'[ "$(grep -c minute {machine.notes})" -lt 7 ] || rm -rf {machine.proc}/4711'
    machine.let_its_guard_run(then=leaves)

    machine.boot()

    assert machine.noted().index("shutdown -h now") == 6 + MINUTES


def test_what_is_bootstrapped_has_an_idle_guard_of_its_own(machine):
    hook = machine.mount / "incubator" / "boot-hook"
    machine.let_its_guard_run(then=f'[ "$(grep -c minute {machine.notes})" -lt 3 ] || {{ mkdir -p {hook.parent}; touch {hook}; }}')

    assert machine.boot().returncode == 0

    assert machine.noted().count("minute") == 3
    assert "shutdown -h now" not in machine.noted()


def test_the_guard_is_a_unit_of_its_own_and_without_systemd_the_boot_goes_on(machine):
    machine.leave_tool("systemd-run", f'echo "systemd-run $1 $2 $3 $4" >>{machine.notes}; exit 1')

    done = machine.boot()

    assert done.returncode == 0, done.stderr
    assert machine.noted()[0] == "systemd-run --quiet --collect --unit=incubator-unused bash"
    assert "there is no guard against a machine that is forgotten" in done.stdout


def test_the_script_and_the_programs_mean_the_same_disk_and_hooks():
    script = STARTUP_SCRIPT.read_text()

    assert f"/dev/disk/by-id/google-{DATA_DEVICE}}}" in script
    assert BOOT_HOOK == "/mnt/data/incubator/boot-hook"
    assert "${INCUBATOR_MOUNT:-/mnt/data}" in script
    assert "$mount/incubator/boot-hook" in script
    assert f'\\"format\\": {FORMAT},' in script
    assert f'attributes/{BUCKET_LABEL}")' in script
    assert f"off_if_unused $hook ${{INCUBATOR_UNUSED_MINUTES:-{UNUSED_MINUTES}}} " in script
    assert Path(LAST_SYNC_HOOK).parent == Path(BOOT_HOOK).parent
