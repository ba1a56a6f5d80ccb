"""Ways of still paying while one thinks one does not: each is found by `fab sweep` and by `fab cost`, or stopped by the cloud."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from infra.cost import cost
from infra.stack_config import UNUSED_MINUTES
from infra.sweep import Billed, billed
from tests.tools.stand_in_cloud.by_hand import ADDRESS, IMAGE, ROUTER, SNAPSHOT, put, put_machine
from tests.tools.stand_in_cloud.world import DISK, INSTANCE, State

CREATED, NOW = "2026-11-20T04:00:00.000-08:00", datetime(2026, 11, 21, 20, tzinfo=UTC)
ZONE, DATA = "zones/us-central1-a", "projects/demo-project/zones/us-central1-a/disks/incubator-l4-data"


def _without(state: State, *types: str) -> None:
    """Somebody has deleted these by hand."""
    for key in [key for key, one in state["resources"].items() if one["type"] in types or one.get("boot_of")]:
        del state["resources"][key]


def _machine(state: State) -> None:
    put_machine(state)


def _machine_elsewhere(state: State) -> None:
    """otherRegions moved it; the stack's file says us-central1-a."""
    put_machine(state, zone="asia-southeast1-b")


def _off(state: State) -> None:
    put_machine(state, public=True, status="TERMINATED", lastStopTimestamp="2026-11-20T07:00:00.000-08:00")


def _no_limit(state: State) -> None:
    """Somebody took the limit away in the console."""
    del put_machine(state, public=True)["inputs"]["scheduling"]["maxRunDuration"]


def _label_gone(state: State) -> None:
    put_machine(state)
    for one in state["resources"].values():
        one["inputs"].pop("labels", None)


def _disk_left(state: State) -> None:
    put_machine(state, public=True)
    _without(state, INSTANCE)


def _nat_left(state: State) -> None:
    put_machine(state)
    _without(state, INSTANCE, DISK)


def _snapshot(state: State) -> None:
    put(state, SNAPSHOT, "global/snapshots/just-in-case", CREATED, {"sourceDisk": DATA})


def _image(state: State) -> None:
    put(state, IMAGE, "global/images/my-image", CREATED, {"sourceDisk": DATA})


def _address(state: State) -> None:
    put(state, ADDRESS, "regions/us-central1/addresses/incubator-l4-fixed", CREATED, {})


def _another_installation(state: State) -> None:
    """A clone of the project with a bucket of its own."""
    put_machine(state, bucket="demo-project-second")


# What was done; what `sweep` and `cost` find of it; whether `sweep --delete` takes it (otherwise its command is printed).
WAYS: list[tuple[Callable[[State], None], list[str], bool]] = [
    (_machine, ["VM incubator-l4", "disk incubator-l4-data", "disk incubator-l4", "NAT incubator-l4-router"], True),
    (_machine_elsewhere, ["VM incubator-l4", "disk incubator-l4-data", "disk incubator-l4", "NAT incubator-l4-router"], True),
    (_off, ["VM incubator-l4", "disk incubator-l4-data", "disk incubator-l4"], True),
    (_no_limit, ["VM incubator-l4", "disk incubator-l4-data", "disk incubator-l4"], True),
    (_label_gone, ["VM incubator-l4", "disk incubator-l4-data", "disk incubator-l4"], False),
    (_disk_left, ["disk incubator-l4-data"], True),
    (_nat_left, ["NAT incubator-l4-router"], True),
    (_snapshot, ["snapshot just-in-case"], False),
    (_image, ["image my-image"], False),
    (_address, ["address incubator-l4-fixed"], False),
    (_another_installation, ["VM incubator-l4", "disk incubator-l4-data", "disk incubator-l4"], False),
]


def _costly(items: list[Billed]) -> list[Billed]:
    return [item for item in items if item.costs]


@pytest.mark.parametrize(("way", "names", "ours"), WAYS, ids=[way[0].__name__.strip("_") for way in WAYS])
def test_what_still_costs_is_found_by_sweep_and_by_cost_of_this_stack_and_of_another(world, way, names, ours):
    with world.edit() as state:
        way(state)

    for stack in (None, "l4"):
        items = [item for item in _costly(billed("demo-project", stack)) if item.kind != "NAT" or ours]
        assert [f"{item.kind} {item.name}" for item in items] == names
        assert {item.ours for item in items} == {ours}
        assert all(item.usd_per_month is not None for item in items)
    mine, another = cost("demo-project", "l4", NOW), cost("demo-project", "renamed", NOW)
    for name in names:
        assert name in mine
        assert name in another
    assert another.startswith("Nothing of stack renamed costs money now")
    assert ("not of this installation" in mine) == (not ours)


def test_a_network_alone_costs_nothing_and_is_shown(world):
    with world.edit() as state:
        put_machine(state)
        _without(state, INSTANCE, DISK, ROUTER, "gcp:compute/routerNat:RouterNat")

    (network,) = billed("demo-project", "l4")

    assert (network.kind, network.ours, network.costs, network.usd_per_month) == ("network", True, False, 0.0)


def test_the_cloud_ends_a_machine_that_runs_for_ever(program):
    scheduling = program().one(INSTANCE).inputs["scheduling"]

    assert scheduling["maxRunDuration"]["seconds"] == 86400
    assert scheduling["instanceTerminationAction"] == "STOP"
    assert UNUSED_MINUTES * 60 < 86400
