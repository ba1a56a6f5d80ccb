from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.gcloud import GcloudFailed, PermissionDenied
from infra.machine_types import usd_per_hour
from infra.sweep import KINDS, Billed, billed, delete
from infra.sweep_table import NOT_LISTED, table
from tests.tools.stand_in_cloud.by_hand import ADDRESS, SNAPSHOT, put, put_machine
from tests.tools.stand_in_cloud.place import Place
from tests.tools.stand_in_cloud.rest import Rest, served
from tests.tools.stand_in_cloud.world import DISK, World
from training.errors import RunError

PROJECT_PATH = "projects/demo-project/zones/us-central1-a"
CREATED = "2026-11-20T04:00:00.000-08:00"
OURS = {"labels": {"incubator-bucket": "demo-project-incubator", "incubator-stack": "l4"}}
VM = Billed("demo-project", "VM", "incubator-l4", "us-central1-a", "l4", "RUNNING", 623.15, "g2-standard-8")


WHOSE = "; of unnamed, since 2026-11-20"


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rest]:
    with served(tmp_path, monkeypatch) as rest:
        yield rest


@pytest.fixture
def typed_world(rented: Place, cloud_of: Callable[[Place], Place]) -> World:
    """That of a machine that the real engine has brought up, which gcloud reaches."""
    return cloud_of(rented).world


def _names(items: list[Billed]) -> list[str]:
    return [f"{item.kind} {item.name}" for item in items]


def test_everything_that_costs_money_is_found_with_its_price(cloud):
    with cloud.world.edit() as state:
        put_machine(state, spot=True)
        put(state, SNAPSHOT, "global/snapshots/incubator-l4-before", CREATED, {**OURS, "diskSizeGb": 200}, storageBytes=20 * 2**30)
        put(state, ADDRESS, "regions/us-central1/addresses/incubator-l4-address", CREATED, OURS)
        put(state, ADDRESS, "regions/us-central1/addresses/inside", CREATED, {**OURS, "addressType": "INTERNAL"})
        put(state, DISK, "zones/us-central1-a/disks/someone-elses", CREATED, {"size": 500, "type": "pd-ssd"})

    found = billed("demo-project")

    assert [(item.kind, item.name, item.place, item.status, item.note) for item in found] == [
        ("VM", "incubator-l4", "us-central1-a", "RUNNING", f"g2-standard-8, Spot{WHOSE}"),
        ("disk", "incubator-l4-data", "us-central1-a", "READY", f"200 GiB pd-balanced, used by incubator-l4{WHOSE}"),
        ("disk", "incubator-l4", "us-central1-a", "READY", f"250 GiB pd-balanced, used by incubator-l4{WHOSE}"),
        ("address", "incubator-l4-address", "us-central1", "RESERVED", "203.0.113.21"),
        ("snapshot", "incubator-l4-before", "global", "READY", "20 GiB stored"),
        ("NAT", "incubator-l4-router", "us-central1", "", "incubator-l4-nat, with one address; traffic comes on top"),
        ("network", "incubator-l4", "global", "", "costs nothing, with its rules and subnets"),
    ]
    vm = usd_per_hour("g2-standard-8", "us-central1-a", spot=True) * 730
    assert [item.usd_per_month for item in found] == pytest.approx([vm, 20, 25, 7.3, 1, 0.0064 * 730, 0])


def test_a_stack_is_not_mistaken_for_one_whose_name_begins_alike(world):
    with world.edit() as state:
        put_machine(state, "l4-spot", public=True)
        put_machine(state, "l4-spot-2")

    assert billed("demo-project", "l4") == []
    assert _names(billed("demo-project", "l4-spot")) == [
        "VM incubator-l4-spot",
        "disk incubator-l4-spot-data",
        "disk incubator-l4-spot",
        "network incubator-l4-spot",
    ]


def test_a_stopped_vm_costs_nothing_itself_but_what_it_holds_does(world):
    with world.edit() as state:
        put_machine(state, public=True, status="TERMINATED")

    found = billed("demo-project", "l4")

    assert [(item.kind, item.usd_per_month) for item in found] == [("VM", 0.0), ("disk", 20.0), ("disk", 25.0), ("network", 0.0)]
    assert found[0].note.startswith("g2-standard-8; stopped: its disks cost all the same; of unnamed, since 20")


def test_a_disk_of_our_vm_is_found_without_labels(world):
    with world.edit() as state:
        put_machine(state)
        for record in state["resources"].values():
            if record["type"] == DISK:
                del record["inputs"]["labels"]

    assert [item.name for item in billed("demo-project") if item.kind == "disk"] == ["incubator-l4-data", "incubator-l4"]


def test_without_the_compute_api_there_is_nothing(cloud):
    with cloud.world.edit() as state:
        state["services"] = []

    assert billed("demo-project") == []


def test_what_may_not_be_looked_at_is_not_taken_for_nothing(cloud):
    with cloud.world.edit() as state:
        state["missing_permissions"] = ["compute.snapshots.list"]
    with pytest.raises(PermissionDenied, match=r"compute\.snapshots\.list"):
        billed("demo-project")

    with cloud.world.edit() as state:
        state |= {"missing_permissions": [], "unreachable": ["us-west1"]}
    with pytest.raises(GcloudFailed, match="us-west1"):
        billed("demo-project")


def test_a_stack_is_deleted_for_good_and_another_stays(cloud):
    with cloud.world.edit() as state:
        put_machine(state)
        put_machine(state, "l4-spot", zone="us-central1-b")
        put(state, SNAPSHOT, "global/snapshots/incubator-l4-before", CREATED, OURS)
        put(state, ADDRESS, "regions/us-central1/addresses/incubator-l4-address", CREATED, OURS)
        put(state, ADDRESS, "global/addresses/incubator-l4-everywhere", CREATED, OURS)

    delete(reversed(billed("demo-project", "l4")))  # in an order that GCP would refuse

    left = {key.rpartition("/")[2] for key in cloud.world.read()["resources"]}
    assert left == {
        f"incubator-l4-spot{part}" for part in ("", "-data", "-router", "-nat")
    }  # "": the VM, its boot disk, its network


def test_what_cannot_be_deleted_is_told_and_the_rest_is_gone(cloud):
    with cloud.world.edit() as state:
        put_machine(state, public=True)
        data = "projects/demo-project/zones/us-central1-a/disks/incubator-l4-data"
        put_machine(state, "other", public=True)["inputs"]["attachedDisks"] = [{"source": data}]
    mine = billed("demo-project", "l4")

    with pytest.raises(
        RunError, match=r"goes on costing money:\ndisk incubator-l4-data \(us-central1-a\): .*already being used by .*other'"
    ):
        delete(mine)

    assert _names(billed("demo-project", "l4")) == ["disk incubator-l4-data"]  # the network is gone too


def test_the_table_sums_up_and_says_what_is_not_in_it():
    disk = Billed("demo-project", "disk", "incubator-l4-data", "us-central1-a", "l4", "READY", 20.0, "200 GiB pd-balanced")

    assert table([VM, disk]).splitlines() == [
        "      name               place          stack  status   $/month",
        "VM    incubator-l4       us-central1-a  l4     RUNNING   623.15  g2-standard-8",
        "disk  incubator-l4-data  us-central1-a  l4     READY      20.00  200 GiB pd-balanced",
        "Together about 643.15 dollars a month if all stays as it is (an estimate).",
        NOT_LISTED,
    ]


def test_a_price_that_is_not_known_makes_the_sum_a_least():
    rare = Billed("demo-project", "disk", "rare", "us-central1-a", "l4", "READY", None, "10 GiB hyperdisk; price not known")

    lines = table([VM, rare]).splitlines()

    assert lines[2].split()[:6] == ["disk", "rare", "us-central1-a", "l4", "READY", "?"]
    assert lines[3] == "Together at least about 623.15 dollars a month if all stays as it is (an estimate)."


def test_an_empty_table_says_that_nothing_costs_money():
    assert table([]) == f"Nothing of incubator costs money here: no VM, disk, address, snapshot, image or NAT.\n{NOT_LISTED}"


def test_vms_go_before_what_they_hold():
    assert KINDS.index("VM") < KINDS.index("disk") < KINDS.index("NAT")


def test_what_is_not_of_this_installation_is_shown_with_its_command_and_never_deleted(cloud):
    with cloud.world.edit() as state:
        put_machine(state)
        put_machine(state, "theirs", zone="us-west1-a", bucket="another-bucket")
        put(state, DISK, "zones/us-central1-a/disks/incubator-l4-old", CREATED, {"size": 500, "type": "pd-ssd"})
        put(state, DISK, "zones/us-central1-a/disks/team", CREATED, {"type": "pd-ssd", "labels": {"project": "incubator"}})
        put(state, DISK, "zones/us-central1-a/disks/taken", CREATED, {"type": "pd-ssd", **OURS})  # our label, no name of ours
        put(state, SNAPSHOT, "global/snapshots/by-hand", CREATED, {"sourceDisk": f"{PROJECT_PATH}/disks/incubator-l4-data"})
    before = set(cloud.world.read()["resources"])

    everything = billed("demo-project")

    alike = [item for item in everything if not item.ours]
    assert sorted(_names(alike)) == sorted(
        [
            *("VM incubator-theirs", "disk incubator-theirs-data", "disk incubator-theirs"),
            *("disk incubator-l4-old", "disk team", "disk taken", "snapshot by-hand", "NAT incubator-theirs-router"),
            "network incubator-theirs",
        ]
    )
    delete(everything)

    gone = {key.rpartition("/")[2] for key in before - set(cloud.world.read()["resources"])}
    assert gone == {"incubator-l4", "incubator-l4-data", "incubator-l4-router", "incubator-l4-nat"}
    text = table(alike)
    assert "   gcloud compute disks delete team --zone=us-central1-a --project=demo-project\n" in text
    assert "   gcloud compute snapshots delete by-hand --project=demo-project\n" in text
    assert "of unnamed (bucket another-bucket)" in text


def test_a_network_that_is_left_goes_with_its_rules_and_subnets(typed_world):
    """What would refuse the next `up` ("already exists"), and cannot be deleted while anything stands in it."""
    delete(billed("demo-project", "l4"))

    kinds = {one["type"] for one in typed_world.read()["resources"].values()}
    assert not {kind for kind in kinds if ":compute/" in kind}


def test_the_table_escapes_what_the_cloud_answers():
    odd = Billed("demo-project", "disk", "a\x1b[2J", "us-central1-a", "l4", "READY", 1.0, "1 GiB\npd-ssd", ours=False)

    text = table([odd, VM], others=[Billed("demo-project", "VM", "b\x1b]0;", "", "", "RUNNING", 1.0, "c\u202e")])

    assert not set(text) & {"\x1b", "\u202e"}
    assert r"a\x1b[2J" in text
    assert r"1 GiB\npd-ssd" in text
