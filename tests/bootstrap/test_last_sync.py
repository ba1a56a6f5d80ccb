"""The last word to a machine, over a real sshd on loopback; and the words for gcloud where there is OS Login."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bootstrap import last_sync as module
from bootstrap.last_sync import COMMAND, last_sync, ssh
from infra.outputs import DATA, LAST_SYNC_HOOK, MachineOutputs

MACHINE = MachineOutputs(
    name="incubator-l4",
    instance_id="4711",
    project="demo-project",
    zone="us-central1-a",
    ssh_host="incubator-l4",
    ssh_port=22,
    bucket="cells",
    service_account="incubator-training@demo-project.iam.gserviceaccount.com",
    secrets=(),
    machine_type="g2-standard-8",
    provisioning="standard",
    usd_per_hour=0.85,
    price_of="2026-09",
    max_run_seconds=86400,
)
SSHD = Path("/usr/sbin/sshd")


@dataclass
class Host:
    """A machine that answers on loopback, and the hook that a run left on it."""

    outputs: MachineOutputs
    hook: Path

    def leave(self, script: str) -> None:
        self.hook.write_text(f"#!/bin/sh\n{script}\n")
        self.hook.chmod(0o755)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    if not SSHD.exists() or not shutil.which("ssh"):
        pytest.skip("no OpenSSH server here: apt-get install openssh-server")
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    shutil.copy(tmp_path / "user_key.pub", tmp_path / "authorized_keys")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host_key\nAuthorizedKeysFile {tmp_path}/authorized_keys\n"
        f"PidFile {tmp_path}/pid\nPasswordAuthentication no\nPermitRootLogin yes\nStrictModes no\nUsePAM no\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where a root's sshd locks its helpers in
    plain_ssh = shutil.which("ssh")
    (tmp_path / "ssh").write_text(
        f'#!/bin/sh\nexec {plain_ssh} -i {tmp_path}/user_key -o UserKnownHostsFile={tmp_path}/known "$@"\n'
    )
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    hook = tmp_path / "last-sync"
    monkeypatch.setattr(
        module, "COMMAND", COMMAND.replace(LAST_SYNC_HOOK, str(hook)).replace(f"mountpoint -q {DATA}", "mountpoint -q /")
    )
    outputs = replace(MACHINE, ssh_host="127.0.0.1", ssh_port=port, ssh_user=getpass.getuser())
    with subprocess.Popen([SSHD, "-D", "-e", "-f", tmp_path / "sshd_config"], stderr=subprocess.DEVNULL) as process:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield Host(outputs, hook)
        process.terminate()


def test_what_a_run_left_on_the_machine_is_called_and_waited_for(host, tmp_path):
    host.leave(f"sleep 0.2; echo done >{tmp_path}/synced")

    assert last_sync(host.outputs, seconds=30) is None
    assert (tmp_path / "synced").read_text() == "done\n"


def test_a_machine_on_which_nothing_ever_ran_has_nothing_to_sync(host):
    assert last_sync(host.outputs, seconds=30) is None


@pytest.mark.parametrize("code", [1, 3, 127])
def test_no_failure_of_a_sync_counts_as_done(host, code):
    host.leave(f"exit {code}")

    assert last_sync(host.outputs, seconds=30) == f"exit code {code}"


def test_a_disk_that_is_not_mounted_is_not_an_empty_one(host, monkeypatch):
    monkeypatch.setattr(module, "COMMAND", module.COMMAND.replace("mountpoint -q /", "mountpoint -q /nowhere"))

    wrong = last_sync(host.outputs, seconds=30)

    assert wrong is not None
    assert wrong.endswith("the data disk is not mounted at /mnt/data")


def test_a_sync_that_fails_says_why(host):
    host.leave("echo 'the bucket is gone' >&2; exit 1")

    wrong = last_sync(host.outputs, seconds=30)

    assert wrong is not None
    assert wrong.endswith("the bucket is gone")


def test_a_sync_that_takes_too_long_is_given_up(host):
    host.leave("sleep 20")

    assert last_sync(host.outputs, seconds=1) == "not done within 1 seconds"


def test_a_machine_that_does_not_answer_says_so(host):
    wrong = last_sync(replace(host.outputs, ssh_port=1), seconds=30)

    assert wrong is not None
    assert "Connection refused" in wrong


def test_with_os_login_gcloud_knows_the_user_and_the_tunnel():
    through_iap = replace(MACHINE, ssh_proxy="gcloud compute start-iap-tunnel ...")

    assert ssh(through_iap, "true") == [
        "gcloud", "compute", "ssh", "incubator-l4", "--project=demo-project", "--zone=us-central1-a",
        "--tunnel-through-iap", "--quiet", "--command=true",
    ]  # fmt: skip
    assert "--tunnel-through-iap" not in ssh(MACHINE, "true")


def test_with_a_key_the_tunnel_is_sshs_proxy():
    words = ssh(replace(MACHINE, ssh_user="ada", ssh_proxy="gcloud compute start-iap-tunnel incubator-l4 %p"), "true")

    assert "ProxyCommand=gcloud compute start-iap-tunnel incubator-l4 %p" in words
    assert "HostKeyAlias=compute.4711" in words  # a new VM under the old name is another host
    assert words[-4:] == ["-l", "ada", "incubator-l4", "true"]
