"""What a change of a setting does to what exists: the table of infra/README.md, through the real engine over the stand-in cloud."""

import json
from pathlib import Path
from typing import Any

import pytest

from infra.advice import next_step
from infra.engine import Engine as OurEngine
from infra.engine import Plan
from infra.stack_config import IMAGE_FAMILY
from tests.tools.stand_in_cloud.place import Place, sure

ROOT = Path(__file__).parents[2]
ROWS: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"owner": "ada"}, {"vm": "update", "data-disk": "update"}),
    ({"maxRunSeconds": 3600}, {"vm": "replace"}),
    ({"machineType": "g2-standard-16"}, {"vm": "update"}),
    ({"terminationAction": "DELETE"}, {"vm": "update"}),
    ({"dataDiskGib": 240}, {"data-disk": "update"}),
    ({"zone": "us-central1-b"}, {"vm": "replace", "data-disk": "replace"}),
    ({"image": f"{IMAGE_FAMILY}-v20260814"}, {"vm": "replace"}),
    ({"dataDiskType": "pd-ssd"}, {"vm": "replace", "data-disk": "replace"}),
    ({"bootDiskType": "pd-ssd"}, {"vm": "replace"}),
    ({"bootDiskGib": 300}, {"vm": "update"}),
    ({"provisioning": "spot"}, {"vm": "replace"}),
    (
        {"ssh": "public", "sshSourceRanges": ["203.0.113.7/32"]},
        {"vm": "update", "ssh": "update", "nat": "delete", "router": "delete"},
    ),
]
NAMES = [next(iter(settings)) for settings, _ in ROWS]


@pytest.mark.parametrize(("settings", "changes"), ROWS, ids=NAMES)
def test_a_change_does_what_the_table_says(rented, at, settings, changes):
    place = at(rented)
    place.set("l4", **settings)

    told = json.loads(sure(place.engine.run("preview", "--stack", "l4", "--json")).stdout)

    steps = {
        step["urn"].split("::")[-1]: step["op"] for step in told["steps"] if step["op"] in ("create", "update", "replace", "delete")
    }
    assert steps == changes


def test_the_table_of_the_readme_is_the_one_that_is_tested():
    table = (ROOT / "infra" / "README.md").read_text().split("| setting |")[1]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    told = {key.strip().strip("`"): what.strip() for _, key, what, *_ in rows}

    assert set(told) == set(NAMES)
    for key, (_, changes) in zip(NAMES, ROWS, strict=True):
        assert told[key].startswith("replaces" if "replace" in changes.values() else "in place")
        assert ("VM and data disk" in told[key]) == (changes.get("data-disk") == "replace")


@pytest.mark.parametrize("stack", ["cpu", "l4-spot"])
def test_the_other_stacks_of_the_project_come_too(stored, at, stack):
    place = at(stored)
    if not place.engine.run("stack", "select", stack).returncode == 0:
        place.engine.init(stack)
    place.set(stack, **{"gcp:project": "demo-project"})

    sure(place.engine.up(stack))

    scheduling = place.vm()["inputs"]["scheduling"]
    assert (scheduling["onHostMaintenance"], scheduling["preemptible"]) == {
        "cpu": ("MIGRATE", False),
        "l4-spot": ("TERMINATE", True),
    }[stack]
    sure(place.engine.run("preview", "--stack", stack, "--expect-no-changes"))


def boot_disk(place: Place) -> dict[str, Any]:
    (disk,) = [one for one in place.world.read()["resources"].values() if one.get("boot_of")]
    return disk


def test_a_boot_disk_grows_in_place_and_takes_new_labels(rented, at):
    place = at(rented)
    before = boot_disk(place)
    place.set("l4", bootDiskGib=300, owner="ada")

    sure(place.engine.up("l4"))

    after = boot_disk(place)
    assert (before["inputs"]["size"], after["inputs"]["size"], after["created"]) == (250, 300, before["created"])
    assert after["inputs"]["labels"]["owner"] == "ada"
    sure(place.engine.run("preview", "--stack", "l4", "--expect-no-changes"))


def test_a_smaller_boot_disk_is_planned_as_a_change_in_place_and_google_refuses_it(rented, at):
    place = at(rented)
    place.set("l4", bootDiskGib=200)
    assert OurEngine("l4").plan() == Plan((), (), boot_disk_gib=(250, 200), updated=("vm (bootDisk)",))

    refused = place.engine.up("l4")

    assert "New disk size '200' GiB must be larger than existing size '250' GiB" in refused.stdout
    assert "pulumi config set incubator:bootDiskGib GIB --stack l4" in next_step("l4", refused.stdout)
    assert boot_disk(place)["inputs"]["size"] == 250


def test_a_smaller_data_disk_is_a_new_one(rented, at):
    place = at(rented)
    place.set("l4", dataDiskGib=100)

    assert set(OurEngine("l4").plan().replaced) == {"vm", "data-disk"}
