"""The questions, asked of a real machine."""

import hashlib

from bootstrap import facts
from bootstrap.connection import connect
from bootstrap.facts import Facts

L4 = "NVIDIA L4, 580.159.03, 23034 MiB"


def test_a_bare_machine(machine, host):
    found = facts.ask(host)

    assert found.root == "/mnt/data/incubator"
    assert (found.system, found.user, found.is_mounted, found.is_writable) == ("Linux", machine.user, True, True)
    assert found.free_kib > 2**20
    assert found.memory_kib > 2**20
    assert found.rsync.endswith("/rsync")
    assert (found.uv, found.code, found.environment, found.folders, found.links, found.hooks, found.idle) == ("",) * 7
    assert found.nvidia_smi_code is None


def test_a_machine_on_which_all_is_there(machine, host):
    root = machine.disk / "incubator"
    for name in ("cache", "code/.venv", "data", "jobs", "runs"):
        (root / name).mkdir(parents=True)
    (root / "code" / "data").symlink_to("../data")
    (root / "code" / "runs").symlink_to("../runs")
    texts = {
        "uv": "uv",
        "code/.shipped": "fab\n",
        "env": "A=b\n",
        "boot-hook": "1",
        "last-sync": "2",
        "idle.json": '{"minutes": 30}',
    }
    for name, text in texts.items():
        (root / name).write_text(text)
    (root / "env").chmod(0o600)
    (root / "code" / ".commit").write_text("12\t34")
    (root / "code" / ".venv" / ".synced").write_text("ee\n")
    (root / "swapfile").write_bytes(bytes(4096))
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}

    found = facts.ask(host)

    assert found.uv == sums["uv"]
    assert found.code == sums["code/.shipped"]
    assert found.tokens == f"600 {sums['env']}"
    assert found.hooks == f"{sums['boot-hook']} {sums['last-sync']}"
    assert (found.folders, found.links) == ("cache code data jobs runs", "../data ../runs")
    assert (found.environment, found.idle, found.commit, found.swapfile_kib) == ("ee", '{"minutes": 30}', "12 34", 4)


def test_what_nvidia_smi_says_and_how_it_ends(machine, host):
    machine.program("nvidia-smi", f"echo '{L4}'")
    good = facts.ask(host)
    machine.program("nvidia-smi", "echo 'NVIDIA-SMI has failed'; exit 9")
    bad = facts.ask(host)

    assert (good.nvidia_smi_code, good.nvidia_smi) == (0, L4)
    assert (bad.nvidia_smi_code, bad.nvidia_smi) == (9, "NVIDIA-SMI has failed")


def test_a_guard_that_lives_is_seen(machine, host):
    (machine.disk / "incubator").mkdir()
    host.ask("cd /mnt/data/incubator && nohup flock idle.lock sleep 600 </dev/null >/dev/null 2>&1 & sleep 0.3")
    alive = facts.ask(host)
    host.ask("pkill -x sleep")

    assert alive.is_guarded
    assert not facts.ask(host).is_guarded


def test_a_guard_that_is_not_wanted_is_remembered_until_one_is(machine, host):
    root = machine.disk / "incubator"
    root.mkdir()
    (root / "idle.never").touch()
    before = facts.ask(host)
    (root / "idle.json").write_text("{}")

    assert before.idle == "never"
    assert facts.ask(host).idle == "{}"


def test_a_folder_at_home_is_told_in_full(machine, laptop):
    found = facts.ask(connect(machine.machine("~/my-cells", usd_per_hour=0.1)))

    assert found.root == machine.run("echo $HOME").stdout.strip() + "/my-cells"


def test_a_greeting_of_the_shell_is_no_fact(machine, host):
    (machine.home / ".bashrc").write_text("echo 'Welcome to this machine'\n")

    assert facts.ask(host).root == "/mnt/data/incubator"
    assert Facts.of("Welcome\nroot\t/data\nuv\t\nunknown\tx\n") == Facts("/data")
