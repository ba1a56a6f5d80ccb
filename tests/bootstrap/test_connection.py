"""One ssh_config for fab, rsync and a person; and what a connection says that does not come about, or breaks."""

import getpass
import json
import re
import socket
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fabric import Config, Connection

from bootstrap.connection import Host, connect
from bootstrap.machine import Machine, box, rented
from bootstrap.ssh_config import ssh_config, write_ssh_config
from tests.tools.ssh_machine import OUTPUTS, SshMachine, behind_iap, close_connections
from training.errors import RunError, UserError

pytestmark = pytest.mark.needs("ssh")


def test_a_command_brings_its_output_and_its_exit_code(host):
    answer = host.ask("echo out; echo err >&2; cat; exit 3", stdin="in\n")

    assert (answer.code, answer.out, answer.err) == (3, "out\nin\n", "err\n")


def test_all_commands_share_one_connection(machine, host):
    before = machine.run("echo $PPID").stdout

    parents = {host.ask("ps -o ppid= -p $PPID").out for _ in range(3)}

    assert len(parents) == 1
    assert before not in parents


def test_the_file_is_for_people_and_for_fabric_too(machine, host):
    typed = subprocess.run(["ssh", "-F", host.ssh_config, "incubator-l4", "echo typed"], capture_output=True, text=True)
    with Connection("incubator-l4", config=Config(runtime_ssh_path=str(host.ssh_config))) as connection:
        connection.connect_kwargs["key_filename"] = str(machine.folder / "user_key")
        by_fabric = connection.run("echo fabric", hide=True, in_stream=False).stdout

    assert (typed.stdout, by_fabric) == ("typed\n", "fabric\n")


def test_rsync_goes_the_same_way(machine, host, tmp_path):
    (tmp_path / "a b").write_text("cells")

    host.copy(f"{tmp_path}/", ":/mnt/data/", "-p", files=("a b",))

    assert (machine.disk / "a b").read_text() == "cells"


def test_through_googles_tunnel(machine, laptop):
    behind_iap(machine)
    tunnel = "gcloud compute start-iap-tunnel incubator-l4 %p --listen-on-stdin --project=demo-project --zone=us-central1-a"
    outputs = replace(OUTPUTS, ssh_host="incubator-l4", ssh_user=machine.user, ssh_proxy=tunnel)

    assert connect(rented(outputs)).ask("echo here").out == "here\n"


def test_with_os_login_gcloud_is_asked_once_for_the_name(machine, laptop, tmp_path, monkeypatch):
    monkeypatch.setattr("bootstrap.ssh_config.KEY", tmp_path / "google_compute_engine")
    profile = f'{{"loginProfile": {{"posixAccounts": [{{"primary": true, "username": "{getpass.getuser()}"}}]}}}}'
    machine.laptop_program("gcloud", f"echo \"$*\" >>{tmp_path}/asked; echo '{profile}'")
    stack = rented(replace(OUTPUTS, ssh_port=machine.port, ssh_user=None))

    connect(stack)
    (file,) = laptop.glob("*/ssh_config")
    connect(stack)

    assert f"  User {getpass.getuser()}\n" in file.read_text()
    public = tmp_path / "google_compute_engine.pub"
    asked = f"compute os-login ssh-keys add --key-file={public} --project=demo-project --format=json --quiet\n"
    assert (tmp_path / "asked").read_text() == asked
    assert public.exists()


def test_a_booting_machine_is_waited_for(machine, laptop, capsys):
    machine.switch_off()
    threading.Timer(2, machine.boot).start()

    host = connect(machine.machine(), seconds=60)

    assert host.ask("echo up").out == "up\n"
    assert "waiting for incubator-l4: ssh: connect to host 127.0.0.1 port" in capsys.readouterr().out


def test_a_machine_that_never_answers_is_given_up(laptop):
    with pytest.raises(RunError, match=r"^127\.0\.0\.1 does not answer after \d seconds: .*Connection refused"):
        connect(box("nobody@127.0.0.1:1", "~/incubator"), seconds=1)


def test_a_name_that_is_no_host_is_refused_at_once(laptop):
    start = time.monotonic()

    with pytest.raises(UserError, match=r"no such host; check --host \(.*no-such-host\.invalid"):
        connect(box("no-such-host.invalid", "~/incubator"))

    assert time.monotonic() - start < 15


def test_a_key_that_is_not_taken_is_refused(machine, laptop):
    (machine.folder / "authorized_keys").write_text("")

    with pytest.raises(UserError, match=r"does not take your key.*Permission denied"):
        connect(machine.machine(), seconds=2)  # for the first second it might be booting


def test_with_os_login_a_refusal_names_the_roles_from_the_first_try_on(machine, laptop, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bootstrap.ssh_config.KEY", tmp_path / "google_compute_engine")
    profile = f'{{"loginProfile": {{"posixAccounts": [{{"primary": true, "username": "{getpass.getuser()}"}}]}}}}'
    machine.laptop_program("gcloud", f"echo '{profile}'")
    (machine.folder / "authorized_keys").write_text("")

    with pytest.raises(UserError, match=r"roles/compute\.osAdminLogin in project demo-project.*Permission denied") as refusal:
        connect(rented(replace(OUTPUTS, ssh_port=machine.port, ssh_user=None)), seconds=2)

    assert "sshPublicKey" not in str(refusal.value)
    assert "roles/iam.serviceAccountUser" in capsys.readouterr().out.splitlines()[1]


def test_a_tunnel_that_is_not_allowed_is_refused_at_once_with_the_role(laptop, tmp_path, capsys):
    tunnel = tmp_path / "tunnel"
    tunnel.write_text(
        """#!/bin/sh
        echo "ERROR: (gcloud.compute.start-iap-tunnel) Error while connecting [4033: 'not authorized']." >&2
        exit 1
        """
    )
    tunnel.chmod(0o755)

    with pytest.raises(UserError, match=r"you need roles/iap\.tunnelResourceAccessor.*Or the machine is stopped or gone.*4033"):
        connect(rented(replace(OUTPUTS, ssh_user="ada", ssh_proxy=str(tunnel))), seconds=10)

    assert capsys.readouterr().out == ""


def test_a_changed_host_key_is_refused_with_the_way_out(machine, laptop):
    connect(machine.machine())
    close_connections(laptop)
    machine.switch_off()
    machine.new_host_key()
    machine.boot()

    with pytest.raises(UserError, match=r"take it out of .*incubator-l4/known_hosts; otherwise do not go on"):
        connect(machine.machine())


def test_a_new_vm_under_the_old_name_is_another_host(machine, laptop):
    connect(machine.machine())
    close_connections(laptop)
    machine.switch_off()
    machine.new_host_key()
    machine.boot()

    assert connect(machine.machine(host_key_alias="compute.4712")).ask("echo new").out == "new\n"


def test_a_connection_that_is_lost_in_a_command_says_so(machine, host):
    threading.Timer(1, machine.switch_off).start()

    with pytest.raises(RunError, match=r"incubator-l4: the connection was lost .*the same command goes on where it stopped"):
        host.ask("sleep 60")


def test_a_connection_that_is_lost_in_a_copy_says_so_and_the_next_goes_on(machine, host, tmp_path):
    (tmp_path / "big").write_bytes(bytes(range(256)) * 80_000)
    threading.Timer(1, machine.switch_off).start()

    with pytest.raises(RunError, match="the connection was lost"):
        host.copy(str(tmp_path / "big"), ":/mnt/data/", "--bwlimit=4M", "--partial-dir=.rsync-partial")
    machine.boot()
    again = connect(machine.machine())
    again.copy(str(tmp_path / "big"), ":/mnt/data/", "--partial-dir=.rsync-partial")

    assert (machine.disk / "big").read_bytes() == (tmp_path / "big").read_bytes()


def test_a_full_disk_is_named(machine, host, tmp_path):
    (tmp_path / "big").write_bytes(b"x" * 200_000)

    with pytest.raises(RunError, match=r"the disk is full: .*No space left on device"):
        host.copy(str(tmp_path / "big"), ":/mnt/64k/")


def test_a_machine_without_rsync_is_refused_with_the_remedy(machine, laptop, tmp_path):
    machine.switch_off()
    machine.without("rsync")
    machine.boot()
    (tmp_path / "file").touch()

    with pytest.raises(UserError, match="rsync is not installed there"):
        connect(machine.machine()).copy(str(tmp_path / "file"), ":/mnt/data/")


def test_an_rsync_here_that_does_not_know_an_option_is_refused_with_the_remedy(machine, host, tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(
        UserError, match=r"rsync here is too old \(.*--of-tomorrow.*\); needed: 3\.1 or newer \(macOS: brew install rsync\)"
    ):
        host.copy(str(tmp_path / "file"), ":/mnt/data/", "--of-tomorrow")


def test_a_command_that_takes_too_long_is_given_up(host):
    start = time.monotonic()
    with pytest.raises(RunError, match=r"^incubator-l4: not done within 0\.5 seconds$"):
        host.ask("sleep 60", seconds=0.5)
    assert time.monotonic() - start < 20


def test_a_box_is_reached_by_what_ssh_knows_of_it(laptop):
    file = write_ssh_config(box("ada@cells.example:2222", "~/incubator"))

    told = subprocess.run(["ssh", "-G", "-F", file, "cells.example"], capture_output=True, text=True).stdout.splitlines()

    assert {"hostname cells.example", "user ada", "port 2222", "stricthostkeychecking accept-new", "controlpersist 60"} <= set(told)
    assert "Include ~/.ssh/config" in file.read_text()


CARELESS = """Host *
  ForwardAgent yes
  ForwardX11 yes
  ForwardX11Trusted yes
  PermitLocalCommand yes
  LocalCommand touch {owned}
  SendEnv SECRET_*
  Tunnel yes
  RemoteForward {port} localhost:22
  GSSAPIDelegateCredentials yes
"""


def test_a_machine_gets_nothing_of_the_laptop_whatever_the_users_own_settings_say(machine, laptop, tmp_path, monkeypatch):
    """The user's file is laid where ours includes it; the server takes all that a client offers."""
    agent = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    found = dict(line.split(";")[0].split("=") for line in agent.splitlines() if "=" in line)
    monkeypatch.setenv("SSH_AUTH_SOCK", found["SSH_AUTH_SOCK"])
    monkeypatch.setenv("SECRET_TOKEN", "hf_owned")
    monkeypatch.setenv("DISPLAY", ":9")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "careless").write_text(CARELESS.format(owned=tmp_path / "owned", port=port))
    try:
        for target in (box(machine.as_host, "~/incubator"), machine.machine()):
            file = write_ssh_config(target)
            lines = file.read_text().replace("~/.ssh/config", str(tmp_path / "careless"))
            if target.is_rented:
                lines = lines.replace("Match all\n", f"Match all\n  Include {tmp_path / 'careless'}\n")
            file.write_text(lines)
            host = Host(target, file)

            printed = host.ask("env; cat /proc/net/tcp").out

            assert "SSH_CONNECTION=" in printed
            assert not re.search(r"SSH_AUTH_SOCK|DISPLAY|SECRET", printed)
            assert f"0100007F:{port:04X} " not in printed  # nobody listens for the laptop there
            assert not (tmp_path / "owned").exists()
            plain = subprocess.run(["ssh", "-F", tmp_path / "careless", "-G", "x"], capture_output=True, text=True).stdout
            assert "forwardagent yes" in plain  # the file is one that ssh takes
            close_connections(laptop)
    finally:
        subprocess.run(["kill", found["SSH_AGENT_PID"]], check=True)


@pytest.mark.parametrize("user", ["ada\n  ProxyCommand touch /tmp/owned", "", "-oProxyCommand=x", "a b", ["ada"]])
def test_a_name_that_gcloud_would_not_give_is_no_line_of_the_file(machine, laptop, tmp_path, monkeypatch, user):
    monkeypatch.setattr("bootstrap.ssh_config.KEY", tmp_path / "google_compute_engine")
    profile = json.dumps({"loginProfile": {"posixAccounts": [{"username": user}]}})
    machine.laptop_program("gcloud", f"cat {tmp_path}/profile")
    (tmp_path / "profile").write_text(profile)

    with pytest.raises(RunError, match="is no name of a user"):
        write_ssh_config(rented(replace(OUTPUTS, ssh_user=None)))


@pytest.mark.parametrize(
    "printed", ["", "[]", "null", '{"loginProfile": []}', '{"loginProfile": {"posixAccounts": [1]}}', "[" * 100_000]
)
def test_an_answer_of_gcloud_that_is_none_is_one_sentence(machine, laptop, tmp_path, monkeypatch, printed):
    monkeypatch.setattr("bootstrap.ssh_config.KEY", tmp_path / "google_compute_engine")
    (tmp_path / "profile").write_text(printed)
    machine.laptop_program("gcloud", f"cat {tmp_path}/profile")

    with pytest.raises(RunError, match="gcloud compute os-login: its answer is no OS Login profile"):
        write_ssh_config(rented(replace(OUTPUTS, ssh_user=None)))


LINES = "x\n  LocalCommand touch /tmp/owned"


@pytest.mark.parametrize(
    "machine",
    [
        replace(rented(OUTPUTS), address=LINES),
        replace(rented(OUTPUTS), proxy=LINES),
        replace(rented(OUTPUTS), host_key_alias=LINES),
        replace(rented(OUTPUTS), user=LINES),
        replace(rented(OUTPUTS), label=LINES),
    ],
    ids=["address", "proxy", "host_key_alias", "user", "label"],
)
def test_no_output_of_a_stack_begins_a_line_of_its_own(machine):
    with pytest.raises(UserError, match=r"has characters that do not print: no ssh_config can say that"):
        ssh_config(machine, machine.user, Path())


@pytest.mark.parametrize("name", ["..", "../../x", "/etc", "a/b", "", "a\nb", "-v"])
def test_no_name_of_a_machine_leaves_the_folder_of_the_settings(laptop, name):
    with pytest.raises(UserError, match=r"^name of the machine: "):
        write_ssh_config(rented(replace(OUTPUTS, name=name, ssh_user="ada")))

    assert not laptop.exists()


def test_machines_of_one_name_share_no_connection(tmp_path):
    tunnel = "gcloud compute start-iap-tunnel incubator-l4 %p"
    machines = [rented(replace(OUTPUTS, ssh_host="incubator-l4", ssh_proxy=tunnel, instance_id=number)) for number in ("1", "2")]

    texts = [ssh_config(machine, "ada", folder) for machine in machines for folder in (tmp_path / "a", tmp_path / "b")]

    paths = [line for text in texts for line in text.splitlines() if "ControlPath" in line]
    assert len(set(paths)) == 4
    assert texts[0] == ssh_config(machines[0], "ada", tmp_path / "a")


def test_a_stack_is_told_in_full():
    outputs = replace(OUTPUTS, ssh_user=None, ssh_proxy="gcloud compute start-iap-tunnel incubator-l4 %p")
    machine = rented(outputs)

    assert machine == Machine(
        label="incubator-l4", address="127.0.0.1", folder="/mnt/data/incubator", user=None, port=22,
        proxy="gcloud compute start-iap-tunnel incubator-l4 %p", host_key_alias="compute.4711", os_login="demo-project",
        bucket="gs://demo-project-incubator", usd_per_hour=0.13, machine_type="e2-standard-4", outputs=outputs,
    )  # fmt: skip
    assert machine.is_rented


@pytest.mark.parametrize(
    "host",
    [
        "",
        "a b",
        "me@",
        "box:0",
        "box:99999",
        "-oProxyCommand=x",
        "me@box:port",
        "box;reboot",
        "-v",
        "..",
        "me@-x",
        "[fe80::1%eth0]",
    ],
)
def test_what_is_no_host_is_refused(host):
    with pytest.raises(UserError, match=r"^--host: .*accepted: "):
        box(host, "~/incubator")


@pytest.mark.parametrize("folder", ["incubator", "~", "/", "~/", "/a b", "/a/../b", "~/$(reboot)", "'/x'"])
def test_what_is_no_folder_is_refused(folder):
    with pytest.raises(UserError, match=r"^--folder: .*accepted: a path from / or ~/"):
        box("me@box", folder)


def test_two_ports_of_one_address_are_two_machines(machine, laptop, tmp_path):
    with SshMachine(tmp_path / "other") as other:
        other.laptop_program("ssh", "exit 1")  # the key that counts is the first machine's
        (other.folder / "user_key.pub").write_text((machine.folder / "user_key.pub").read_text())
        (other.folder / "authorized_keys").write_text((machine.folder / "user_key.pub").read_text())
        (machine.disk / "name").write_text("first")
        (other.disk / "name").write_text("second")
        first = connect(box(machine.as_host, "~/incubator"))
        second = connect(box(other.as_host, "~/incubator"))

        said = [host.ask("cat /mnt/data/name").out for host in (first, second, first)]
        close_connections(laptop)

    assert said == ["first", "second", "first"]


@pytest.mark.parametrize("folder", ["50% cells", "it's mine", "my cells"])
def test_the_project_may_lie_in_an_odd_folder(machine, laptop, tmp_path, monkeypatch, folder):
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / folder)

    assert connect(machine.machine()).ask("echo here").out == "here\n"

    close_connections(tmp_path / folder / ".incubator")
