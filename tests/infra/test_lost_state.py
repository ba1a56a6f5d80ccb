"""A machine in mid-run, and Pulumi's state lost, elsewhere, or renamed: real engine and real gcloud over one stand-in cloud."""

from pathlib import Path
from typing import NoReturn, cast

import pytest

from bootstrap import off
from bootstrap.machine import Machine, NoState, NotUp
from infra.engine import Engine
from infra.lost_state import machine_without_state
from infra.policy import INSTANCE
from infra.rent import give_back, rent
from infra.sweep import COMMANDS, Billed
from infra.tasks import machine_of
from infra.vm import Vm
from tests.infra.test_tasks import KEY, fab
from tests.tools.stand_in_cloud.by_hand import put, put_machine
from tests.tools.stand_in_cloud.place import sure
from tests.tools.stand_in_cloud.rest_resources import lister
from tests.tools.stand_in_cloud.world import DISK, World
from training.errors import UserError


def test_the_machine_of_a_lost_state_is_known_and_given_back_and_not_rented_twice(rented, cloud_of, capsys):
    place = cloud_of(rented)
    engine = Engine("l4")
    known = machine_of(engine)
    sure(place.engine.run("stack", "rm", "l4", "--force", "--preserve-config", "--yes"))

    machine = machine_of(engine)

    assert machine is not None
    assert machine == known
    with pytest.raises(UserError, match=r"incubator-l4 is there already .* not in this Pulumi state, .* ./fab down --stack l4"):
        rent(engine, allow_replace=False)

    give_back(engine, machine)

    assert "not in this Pulumi state: VM incubator-l4, disk incubator-l4-data, " in capsys.readouterr().out
    assert place.ids() == []
    assert machine_of(engine) is None


def test_down_brings_the_last_results_of_a_machine_that_this_laptop_never_rented(rented, cloud_of, tmp_path, monkeypatch):
    place = cloud_of(rented)
    (tmp_path / "state").mkdir()
    monkeypatch.setenv("PULUMI_BACKEND_URL", f"file://{tmp_path / 'state'}")  # of a second laptop: it remembers nothing
    asked = tmp_path / "asked"
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\necho "$*" >>{asked}\necho "ERROR: run screen is not in the bucket" >&2; exit 1\n')
    ssh.chmod(0o755)
    with place.world.edit() as state:
        (vm,) = [one for one in state["resources"].values() if one["type"] == INSTANCE]
        vm["inputs"]["metadata"] |= {"ssh-keys": f"ada:{KEY}"}
    monkeypatch.setenv("PATH", str(ssh.parent), prepend=":")

    refused = fab("down", "--stack", "l4", "--seconds", "2")

    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "-> incubator-l4: its runs end with a checkpoint; last results go to gs://demo-project-incubator" in refused.stdout
    assert "Nothing was destroyed" in refused.stderr
    assert asked.exists()
    assert place.ids(INSTANCE) != []

    done = fab("down", "--stack", "l4", "--without-sync")
    assert done.returncode == 0, done.stdout + done.stderr
    assert place.ids() == []


def test_a_renamed_stack_still_costs_what_it_costs(rented, cloud_of):
    place = cloud_of(rented)
    assert place.engine.run("stack", "rename", "big", "--stack", "l4").returncode == 0

    done = fab("cost", "--stack", "big")

    assert done.returncode == 0, done.stderr
    assert "VM incubator-l4 (running)" in done.stdout
    assert (
        "about 643" in fab("sweep", "--stack", "big").stdout
        or "Beside it: VM incubator-l4" in fab("sweep", "--stack", "big").stdout
    )


def test_a_machine_of_the_same_name_of_another_installation_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    world = World.create(tmp_path / "world.json")
    monkeypatch.setattr("infra.lost_state.gcloud", lister(world))
    with world.edit() as state:
        put_machine(state, bucket="another-bucket")

    with pytest.raises(
        UserError, match=r"not of this installation: its label incubator-bucket is another-bucket \(accepted: demo-"
    ):
        machine_without_state("demo-project", "l4")


def test_a_machine_without_the_label_has_no_command_that_would_make_it_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    world = World.create(tmp_path / "world.json")
    monkeypatch.setattr("infra.lost_state.gcloud", lister(world))
    with world.edit() as state:
        del put_machine(state)["inputs"]["labels"]

    with pytest.raises(UserError, match=r"label incubator-bucket is missing .* Whose it is: \./fab sweep") as told:
        machine_without_state("demo-project", "l4")

    assert "config set" not in str(told.value)


class StackUnknown:
    """Of a backend that knows no stack."""

    stack = "l4"

    def exists(self) -> bool:
        return False


@pytest.mark.parametrize("other", ["VM", "disk"])
def test_what_was_not_asked_for_its_results_is_not_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str):
    world, deleted = World.create(tmp_path / "world.json"), list[Billed]()
    monkeypatch.setattr("infra.lost_state.gcloud", lister(world))
    monkeypatch.setattr("infra.sweep.gcloud", lister(world))
    monkeypatch.setattr("infra.rent.delete", deleted.extend)
    with world.edit() as state:
        vm = put_machine(state)
    machine = machine_without_state("demo-project", "l4")
    give_back(cast(Engine, StackUnknown()), machine)
    assert {item.name for item in deleted} >= {"incubator-l4", "incubator-l4-data"}
    deleted.clear()
    with world.edit() as state:
        labels, zone = vm["inputs"]["labels"], "zones/us-central1-a"
        if other == "VM":
            put_machine(state, "l4-second")["inputs"]["labels"] = labels
        else:
            put(
                state,
                DISK,
                f"{zone}/disks/incubator-l4-old",
                "2026-11-20T04:00:00.000-08:00",
                {"size": 9, "type": "pd-ssd", "labels": labels},
            )

    with pytest.raises(
        UserError, match=rf"{other} incubator-l4-(second|old)\b.*nothing was deleted.*gcloud compute {COMMANDS[other]} delete"
    ):
        give_back(cast(Engine, StackUnknown()), machine)

    assert deleted == []


@pytest.mark.parametrize("public", [True, False])
def test_the_way_in_is_read_from_the_vm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, public: bool):
    world = World.create(tmp_path / "world.json")
    monkeypatch.setattr("infra.lost_state.gcloud", lister(world))
    with world.edit() as state:
        put_machine(state, public=public, spot=True)["inputs"]["metadata"]["ssh-keys"] = f"ada:{KEY}"

    machine = machine_without_state("demo-project", "l4")

    assert machine is not None
    assert (machine.ssh_user, machine.provisioning, machine.max_run_seconds) == ("ada", "spot", 86400)
    assert machine.ssh_host == ("203.0.113.20" if public else "incubator-l4")
    assert (machine.ssh_proxy is None) == public


@pytest.mark.parametrize("refusal", [NotUp("no output", "l4"), NoState("no stack named 'l4' found", "l4")], ids=["new", "lost"])
def test_a_machine_that_runs_is_found_whatever_pulumi_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: UserError):
    world = World.create(tmp_path / "world.json")
    with world.edit() as state:
        put_machine(state)
    monkeypatch.setattr("infra.lost_state.gcloud", lister(world))
    monkeypatch.setattr("infra.vm.project_of", lambda stack: "demo-project")
    monkeypatch.setattr("bootstrap.off.vm_of", lambda machine: Vm("RUNNING"))

    def of_pulumi(*_: object) -> NoReturn:
        raise refusal

    monkeypatch.setattr("bootstrap.off.machine_of", of_pulumi)

    found = off.find("l4", None, None)

    assert isinstance(found, Machine)
    assert (found.label, found.bucket) == ("incubator-l4", "gs://demo-project-incubator")
