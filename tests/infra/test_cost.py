from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from infra.cost import cost
from tests.tools.stand_in_cloud.by_hand import put_machine
from tests.tools.stand_in_cloud.rest import Rest, served
from tests.tools.stand_in_cloud.rest_resources import lister
from tests.tools.stand_in_cloud.world import World
from training.errors import UserError

NOW = datetime(2026, 11, 21, 20, tzinfo=UTC)
CREATED = "2026-11-21T04:00:00.000-08:00"  # eight hours before
VM, DATA, BOOT = 0.8536, 20 / 730, 25 / 730  # dollars an hour


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rest]:
    with served(tmp_path, monkeypatch) as rest:
        yield rest


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, list[str]]]:
    """What `cost` says of one machine with a public address: the numbers of each row."""
    world = World.create(tmp_path / "world.json")

    def told(
        until: datetime | None = None, own_price: float | None = None, scheduling: Any = None, **vm: Any
    ) -> dict[str, list[str]]:
        with world.edit() as state:
            put_machine(state, created=CREATED, **{"public": True, **vm})["inputs"]["scheduling"] |= scheduling or {}
        text = cost("demo-project", "l4", NOW, until, own_price)
        rows = [line.replace("at most ", "<=").split() for line in text.splitlines()[2:] if not line.startswith("-")]
        return {"text": [text], **{row[0] if row[0] != "disk" else row[1]: row[1 if row[0] == "together" else 2 :] for row in rows}}

    monkeypatch.setattr("infra.sweep.gcloud", lister(world))
    return told


def test_a_running_machine_costs_since_its_creation(machine):
    rows = machine(public=False)

    assert rows["VM"] == ["(running)", f"{VM:.4f}", f"{8 * VM:.2f}"]
    assert rows["incubator-l4-data"] == [f"{DATA:.4f}", f"{8 * DATA:.2f}"]
    assert rows["NAT"] == ["0.0064", "0.05"]
    assert rows["together"] == [f"{VM + DATA + BOOT + 0.0064:.4f}", f"{8 * (VM + DATA + BOOT + 0.0064):.2f}"]


def test_an_external_address_is_in_the_price_of_its_vm(machine):
    assert machine()["VM"] == ["(running)", f"{VM + 0.005:.4f}", f"{8 * (VM + 0.005):.2f}"]


def test_the_users_own_price_takes_the_place_of_the_tables(machine):
    rows = machine(public=False, own_price=0.5)

    assert rows["VM"] == ["(running)", "0.5000", "4.00"]
    assert "the VM: as told by usdPerHour" in rows["text"][0]


def test_left_alone_the_vm_costs_to_its_limit_and_its_disks_go_on(machine):
    rows = machine(until=NOW + timedelta(days=4), public=False)

    assert rows["VM"][-1] == f"{24 * VM:.2f}"
    assert rows["incubator-l4-data"][-1] == f"{104 * DATA:.2f}"
    assert rows["incubator-l4"][-1] == f"{104 * BOOT:.2f}"
    assert "- incubator-l4: the cloud stops it at 2026-11-22 12:00 UTC, in 16.0 hours; its disks cost on" in rows["text"][0]


def test_left_for_less_than_its_limit_the_vm_costs_to_the_date(machine):
    assert machine(until=NOW + timedelta(hours=2), public=False)["VM"][-1] == f"{10 * VM:.2f}"


def test_a_boot_disk_goes_with_a_vm_that_is_deleted_at_its_limit(machine):
    rows = machine(until=NOW + timedelta(days=4), scheduling={"instanceTerminationAction": "DELETE"})

    assert rows["incubator-l4"][-1] == f"{24 * BOOT:.2f}"
    assert rows["incubator-l4-data"][-1] == f"{104 * DATA:.2f}"


def test_the_limit_that_the_cloud_tells_counts_before_our_own_sum(machine):
    told = {"scheduling": {"terminationTimestamp": "2026-11-21T14:00:00.000-08:00"}}

    assert machine(until=NOW + timedelta(days=4), public=False, resourceStatus=told)["VM"][-1] == f"{10 * VM:.2f}"


def test_without_a_limit_the_vm_costs_to_the_date_and_that_is_said(machine):
    rows = machine(until=NOW + timedelta(days=4), public=False, scheduling={"maxRunDuration": None})

    assert rows["VM"][-1] == f"{104 * VM:.2f}"
    assert "- incubator-l4 has no limit: it runs until someone ends it" in rows["text"][0]


def test_a_stopped_machine_costs_its_disks(machine):
    rows = machine(
        until=NOW + timedelta(days=4), public=False, status="TERMINATED", lastStopTimestamp="2026-11-21T07:00:00.000-08:00"
    )

    assert rows["VM"] == ["(terminated)", "0.0000", f"{3 * VM:.2f}", f"{3 * VM:.2f}"]
    assert rows["incubator-l4"] == [f"{BOOT:.4f}", f"{8 * BOOT:.2f}", f"{104 * BOOT:.2f}"]
    assert "- incubator-l4 is stopped: its disks cost until they are deleted" in rows["text"][0]


@pytest.mark.parametrize(
    ("status", "stopped", "started", "hours"),
    [
        pytest.param("RUNNING", "06:00", "10:00", 2 + 2, id="runs-again"),
        pytest.param("TERMINATED", "11:00", "10:00", 7, id="stopped-again"),
    ],
)
def test_after_a_stop_in_between_the_sum_is_an_upper_bound(machine, status, stopped, started, hours):
    times = {"lastStopTimestamp": f"2026-11-21T{stopped}:00.000-08:00", "lastStartTimestamp": f"2026-11-21T{started}:00.000-08:00"}

    rows = machine(public=False, status=status, **times)

    assert rows["VM"][-1] == f"<={hours * VM:.2f}"
    assert "- at most: stopped in between; of several stops Google tells the last one only" in rows["text"][0]


def test_a_machine_that_the_tables_do_not_know_has_no_price(machine):
    rows = machine(until=NOW + timedelta(days=1), machine_type="a3-highgpu-8g")

    assert rows["VM"] == ["(running)", "?", "?", "?"]
    assert rows["together"] == [
        "over",
        f"{DATA + BOOT:.4f}",
        "over",
        f"{8 * (DATA + BOOT):.2f}",
        "over",
        f"{32 * (DATA + BOOT):.2f}",
    ]


def test_a_date_that_has_passed_is_refused(machine):
    with pytest.raises(UserError, match="--until: 2026-11-20 20:00 UTC has passed"):
        machine(until=NOW - timedelta(days=1))


def test_every_sum_says_that_it_is_an_estimate_and_of_when(machine):
    text = machine()["text"][0]

    assert text.splitlines()[0] == (
        "Stack l4 in project demo-project at 2026-11-21 20:00 UTC: about, in dollars (estimates, no bill)"
    )
    assert "list prices of 2026-09" in text


def test_the_real_gcloud_tells_the_same(cloud, machine, monkeypatch):
    expected = machine(until=NOW + timedelta(days=4), public=False)["text"][0]
    monkeypatch.undo()
    for name, value in cloud.env.items():
        monkeypatch.setenv(name, value)
    with cloud.world.edit() as state:
        put_machine(state, created=CREATED)

    assert cost("demo-project", "l4", NOW, NOW + timedelta(days=4)) == expected
    assert cost("demo-project", "cpu", NOW).startswith("Nothing of stack cpu costs money now")
