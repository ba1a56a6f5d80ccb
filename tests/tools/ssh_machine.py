"""A Linux machine of one's own on loopback: a real OpenSSH server in mount and process namespaces of its own.

It has a clean home, a PATH whose first folder tests may fill (`nvidia-smi`, `sudo`), and a data disk mounted at /mnt/data.
An ordinary user runs it in a user namespace, as themselves.
What is started on it ends with it, as with a machine that is switched off; its disk and home stay for the next boot.
"""

import getpass
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from bootstrap.machine import Machine
from infra.outputs import MachineOutputs
from tests.tools.programs import NAMESPACES, own_namespaces, path_of, require

PLAIN = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
CACHE = Path("~/.cache/uv").expanduser()
SMALL_DISKS = ("64k", "64m")
"""Sizes of file systems at /mnt/SIZE; the user of the machine may not be allowed to mount some."""

OUTPUTS = MachineOutputs(
    name="incubator-l4",
    instance_id="4711",
    project="demo-project",
    zone="us-central1-a",
    ssh_host="127.0.0.1",
    ssh_port=22,
    bucket="demo-project-incubator",
    service_account="incubator-training@demo-project.iam.gserviceaccount.com",
    secrets=(),
    machine_type="e2-standard-4",
    provisioning="standard",
    usd_per_hour=0.13,
    price_of="2026-09",
    max_run_seconds=86400,
)


def needs_sshd() -> None:
    """Skip where no such machine can be: in CI that is a failure."""
    require("ssh", "sshd", "rsync", "pgrep", "mount", NAMESPACES)


class SshMachine:
    """The machine, as a context; `laptop` is what the other end needs in its environment."""

    def __init__(self, folder: Path, env: dict[str, str] | None = None) -> None:
        self.folder, self.env = folder, env or {}
        for name in ("home", "disk", "bin", "laptop"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for key in ("host_key", "user_key"):
            if not (folder / key).exists():
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        self.port = _free_port()
        self.taken: set[str] = set()
        self._program("laptop", "ssh", f'exec {shutil.which("ssh", path=PLAIN)} -i {folder}/user_key -o IdentitiesOnly=yes "$@"')
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def disk(self) -> Path:
        """What is /mnt/data there."""
        return self.folder / "disk"

    @property
    def home(self) -> Path:
        """What is ~ there."""
        return self.folder / "home"

    @property
    def user(self) -> str:
        return getpass.getuser()

    @property
    def laptop(self) -> dict[str, str]:
        """The environment of a laptop that has the key."""
        return {"PATH": f"{self.folder / 'laptop'}:{os.environ['PATH']}"}

    @property
    def as_host(self) -> str:
        """What --host says."""
        return f"{self.user}@127.0.0.1:{self.port}"

    def program(self, name: str, script: str) -> None:
        """Put a program on the machine's PATH, before all others."""
        self._program("bin", name, script)

    def laptop_program(self, name: str, script: str) -> None:
        """Put a program on the laptop's PATH, before all others."""
        self._program("laptop", name, script)

    def without(self, name: str) -> None:
        """Take a program away from the machine, wherever it lies: a PATH with all programs but this one."""
        few = self.folder / "few"
        few.mkdir(exist_ok=True)
        self.taken.add(name)
        for folder in PLAIN.split(":"):
            for program in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else ():
                if program.name not in self.taken and not (few / program.name).exists():
                    (few / program.name).symlink_to(program)
        (few / name).unlink(missing_ok=True)
        self.env["PATH"] = f"{self.folder / 'bin'}:{few}"

    def take_uv_cache(self, root: Path) -> None:
        """Links to this user's cache of uv: a bootstrap then downloads only what nobody here ever did."""
        if CACHE.is_dir() and not (root / "cache" / "uv").exists():
            (root / "cache").mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-al", CACHE, root / "cache" / "uv"], check=False, capture_output=True)

    def machine(self, folder: str = "/mnt/data/incubator", **changes: object) -> Machine:
        """It, as a stack would rent it; or, with `folder`, as any box."""
        values = {
            "label": "incubator-l4", "address": "127.0.0.1", "folder": folder, "user": self.user, "port": self.port,
            "host_key_alias": "compute.4711", "usd_per_hour": 0.13, "machine_type": "e2-standard-4",
        }  # fmt: skip
        return Machine(**(values | changes))  # type: ignore[arg-type]

    def boot(self) -> Self:
        """Switch it on."""
        self._write_config()
        home = pwd.getpwuid(os.getuid()).pw_dir
        mounts = [
            "mount --make-rprivate /", "mount -t proc proc /proc", "mount -t tmpfs tmpfs /mnt", "mkdir /mnt/data",
            f"mount --bind {self.disk} /mnt/data", f"mount --bind {self.home} {home}",
        ]  # fmt: skip
        for size in SMALL_DISKS:
            mounts += [f"mkdir /mnt/{size}", f"mount -t tmpfs -o size={size} tmpfs /mnt/{size}"]
        if os.geteuid() == 0:
            mounts += ["mkdir -p /run/sshd"]
            sshd = f"exec {path_of('sshd')}"
        else:  # who mounts has to be root of a user namespace, and sshd itself again the user: there is no other to log in as
            sshd = f"exec unshare --user --map-user={os.getuid()} --map-group={os.getgid()} {path_of('sshd')}"
        script = " && ".join([*mounts, f"{sshd} -D -e -f {self.folder}/sshd_config"])
        namespaces = own_namespaces()
        assert namespaces is not None
        with (self.folder / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*namespaces, "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + 20
        while not _answers(self.port):
            lives = time.monotonic() < until and self._process.poll() is None
            assert lives, (self.folder / "sshd.log").read_text()
            time.sleep(0.02)
        return self

    def switch_off(self) -> None:
        """As a power cut does: nothing is asked, everything ends."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """A command by plain ssh, past everything of ours."""
        words = [str(self.folder / "laptop" / "ssh"), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        words += ["-o", "LogLevel=ERROR", "-p", str(self.port), f"{self.user}@127.0.0.1", command]
        return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)

    def new_host_key(self) -> None:
        """As if it were another machine, at the next boot."""
        for name in ("host_key", "host_key.pub"):
            (self.folder / name).unlink()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / "host_key"], check=True)

    def __enter__(self) -> Self:
        return self.boot()

    def __exit__(self, *_: object) -> None:
        self.switch_off()

    def _write_config(self) -> None:
        shutil.copy(self.folder / "user_key.pub", self.folder / "authorized_keys")
        certificates = {name: value for name, value in os.environ.items() if "CERT" in name}  # of a network that has its own
        settings = {"PATH": f"{self.folder / 'bin'}:{PLAIN}", "LANG": "C.UTF-8", **certificates, **self.env}
        told = " ".join(f'"{key}={value}"' for key, value in settings.items())
        lines = [
            f"Port {self.port}", "ListenAddress 127.0.0.1", f"HostKey {self.folder}/host_key", f"PidFile {self.folder}/pid",
            f"AuthorizedKeysFile {self.folder}/authorized_keys", "PasswordAuthentication no", "KbdInteractiveAuthentication no",
            "PermitRootLogin yes", "StrictModes no", "UsePAM no", "MaxStartups 100", "PrintMotd no", "PrintLastLog no",
            "AcceptEnv SECRET_*", f"SetEnv {told}",
        ]  # fmt: skip
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")

    def _program(self, place: str, name: str, script: str) -> None:
        path = self.folder / place / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


IAP = """case "$*" in
*start-iap-tunnel*) exec {python} -c '
import os, socket, sys, threading
with socket.create_connection(("127.0.0.1", {port})) as there:
    def back():
        while data := there.recv(65536):
            os.write(1, data)
        os._exit(0)
    threading.Thread(target=back, daemon=True).start()
    while data := os.read(0, 65536):
        there.sendall(data)
' ;;
*) exec {gcloud} "$@" ;;
esac"""


def behind_iap(machine: SshMachine) -> None:
    """A laptop whose gcloud reaches this machine where Google's tunnel would lead; everything else is the real gcloud's."""
    gcloud = shutil.which("gcloud") or "false"
    machine.laptop_program("gcloud", IAP.format(python=sys.executable, port=machine.port, gcloud=gcloud))


def close_connections(place: Path) -> None:
    """End the shared connections of a laptop's `.incubator`, which stay open for a minute otherwise."""
    for file in place.glob("*/ssh_config"):
        label = next(line.split()[1] for line in file.read_text().splitlines() if line.startswith("Host "))
        subprocess.run(["ssh", "-F", file, "-O", "exit", label], capture_output=True)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
