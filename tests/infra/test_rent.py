"""`fab up` and what `fab down` asks of infra, through the real engine and the real gcloud, over one stand-in cloud."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from typing import Any

import pytest

from infra.engine import Engine
from infra.policy import INSTANCE
from infra.rent import give_back, rent
from infra.sweep import billed
from infra.tasks import machine_of
from infra.vm import vm_of
from tests.tools.stand_in_cloud.place import BUCKET, Place
from training.errors import RunError, UserError

PROJECT = "demo-project"


def sold_out(place: Place, *zones: str, **more: Any) -> None:
    """No VM in these zones, until told otherwise."""
    with place.world.edit() as state:
        state["faults"] += [
            {"on": "create", "type": INSTANCE, "kind": "stock-out", "zone": zone, "times": -1} | more for zone in zones
        ]


def test_a_machine_comes_and_goes(stored, cloud_of, capsys):
    place = cloud_of(stored)
    engine = Engine("l4")

    rent(engine, allow_replace=False)

    said = capsys.readouterr().out
    assert "about $0.85 an hour while it runs. If you forget it: it powers itself off 60 minutes after its boot if nothing" in said
    assert (
        "the cloud ends it after 24 hours ($20.49); what is left then costs about $50 a month until ./fab down --stack l4" in said
    )
    assert "incubator-l4 runs in us-central1-a (g2-standard-8, standard)" in said
    machine = machine_of(engine)
    assert machine is not None
    vm = vm_of(machine)
    assert vm is not None
    assert vm.is_on
    assert vm.started is not None
    assert vm.ends == vm.started + timedelta(days=1)
    assert {item.kind for item in billed(PROJECT, "l4")} >= {"VM", "disk", "NAT"}

    give_back(engine)

    assert machine_of(engine) is None
    assert billed(PROJECT, "l4") == []
    assert BUCKET in place.world.read()["resources"]


def test_three_zones_sold_out_then_one_that_has_some(stored, cloud_of, capsys):
    place = cloud_of(stored)
    place.set("l4", otherRegions=True)
    sold_out(place, "us-central1-a", "us-central1-b")
    sold_out(place, "us-central1-c", code="ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS")

    rent(Engine("l4"), allow_replace=False)

    assert place.vm()["inputs"]["zone"] == "us-east1-b"
    assert capsys.readouterr().out.count(" is sold out; trying ") == 3
    zone = Engine("l4").settings()
    assert zone.model_dump()["zone"] == "us-east1-b"  # so that a plain `pulumi up` leaves it where it is
    assert {item.place for item in billed(PROJECT, "l4")} <= {"us-east1-b", "us-east1", "global"}


def test_the_zone_that_the_error_names_comes_first(stored, cloud_of):
    place = cloud_of(stored)
    sold_out(place, "us-central1-a", zones_available="us-central1-c")

    rent(Engine("l4"), allow_replace=False)

    assert place.vm()["inputs"]["zone"] == "us-central1-c"


def test_sold_out_everywhere_says_what_is_left_and_puts_the_zone_back(stored, cloud_of):
    place = cloud_of(stored)
    sold_out(place, "us-central1-a", "us-central1-b", "us-central1-c")

    with pytest.raises(RunError, match="sold out in us-central1-a, us-central1-b, us-central1-c: no machine was rented"):
        rent(Engine("l4"), allow_replace=False)

    assert place.ids(INSTANCE) == []
    assert Engine("l4").settings().model_dump()["zone"] == "us-central1-a"
    with place.world.edit() as state:
        state["faults"] = state["faults"][:1]
    rent(Engine("l4"), allow_replace=False)  # an empty disk in another zone is no obstacle
    assert place.vm()["inputs"]["zone"] == "us-central1-b"
    give_back(Engine("l4"))
    assert billed(PROJECT, "l4") == []


def test_a_quota_is_not_tried_elsewhere(stored, cloud_of, capsys):
    place = cloud_of(stored)
    with place.world.edit() as state:
        state["faults"] = [{"on": "create", "type": INSTANCE, "kind": "quota", "times": -1}]

    with pytest.raises(RunError, match="another zone would not help"):
        rent(Engine("l4"), allow_replace=False)

    assert "trying" not in capsys.readouterr().out
    assert [call for call in place.world.read()["log"] if call["type"] == INSTANCE and call["call"] == "create"].__len__() == 1


def test_a_quota_that_another_region_lacks_is_passed_over(stored, cloud_of):
    place = cloud_of(stored)
    place.set("l4", otherRegions=True)
    sold_out(place, "us-central1-a", "us-central1-b", "us-central1-c")
    with place.world.edit() as state:
        state["quotas"]["regions"]["us-east1"]["NVIDIA_L4_GPUS"]["limit"] = 0

    rent(Engine("l4"), allow_replace=False)

    assert place.vm()["inputs"]["zone"] == "us-east4-a"


def test_quota_zero_is_refused_before_anything_is_created(stored, cloud_of):
    place = cloud_of(stored)
    with place.world.edit() as state:
        state["quotas"]["project"]["GPUS_ALL_REGIONS"]["limit"] = 0

    with pytest.raises(
        UserError, match=r"GPUS_ALL_REGIONS(.|\n)*console\.cloud\.google\.com/iam-admin/quotas\?project=demo-project"
    ):
        rent(Engine("l4"), allow_replace=False)

    assert place.ids() == []


def test_a_rented_machine_is_not_moved_away_from_its_disk(rented, cloud_of):
    place = cloud_of(rented)
    with place.world.edit() as state:
        for key in [key for key, one in state["resources"].items() if one["type"] == INSTANCE or one.get("boot_of")]:
            del state["resources"][key]  # taken away
    sold_out(place, "us-central1-a")

    with pytest.raises(RunError, match="us-central1-a is sold out, and the data disk of stack l4 stands there"):
        rent(Engine("l4"), allow_replace=False)

    assert "projects/demo-project/zones/us-central1-a/disks/incubator-l4-data" in place.ids()


def test_a_change_that_would_replace_the_vm_is_refused_unless_it_is_meant(rented, cloud_of):
    place = cloud_of(rented)
    place.set("l4", provisioning="spot")

    with pytest.raises(UserError, match=r"would replace vm, and what is on its disk .*--replace"):
        rent(Engine("l4"), allow_replace=False)
    assert place.vm()["inputs"]["scheduling"]["provisioningModel"] == "STANDARD"

    rent(Engine("l4"), allow_replace=True)
    assert place.vm()["inputs"]["scheduling"]["provisioningModel"] == "SPOT"


def test_a_smaller_boot_disk_is_refused_before_anything_changes(rented, cloud_of):
    place = cloud_of(rented)
    place.set("l4", bootDiskGib=200, owner="ada")

    with pytest.raises(UserError, match=r"incubator:bootDiskGib: 200: the boot disk has 250 GiB.*accepted: 250 or more; or a new"):
        rent(Engine("l4"), allow_replace=False)

    assert place.vm()["inputs"]["labels"]["owner"] == "unnamed"
    place.set("l4", provisioning="spot")  # a new VM has a new boot disk
    rent(Engine("l4"), allow_replace=True)
    assert place.vm()["inputs"]["bootDisk"]["initializeParams"]["size"] == 200


def test_a_vm_that_is_not_what_was_asked_for_is_told(rented, cloud_of):
    place = cloud_of(rented)
    place.set("l4", provisioning="spot")
    rent(Engine("l4"), allow_replace=True)
    with place.world.edit() as state:
        (vm,) = [one for one in state["resources"].values() if one["type"] == INSTANCE]
        vm["status"] = "TERMINATED"

    with pytest.raises(
        RunError, match=r"status: TERMINATED instead of RUNNING\. To start it: gcloud compute instances start incubator-l4 --zone"
    ):
        rent(Engine("l4"), allow_replace=False)


def test_a_vm_that_the_cloud_made_and_the_engine_lost_is_swept(stored, cloud_of):
    place = cloud_of(stored)
    with place.world.edit() as state:
        state["faults"] = [{"on": "create", "type": INSTANCE, "kind": "timeout"}]
    with pytest.raises(RunError):
        rent(Engine("l4"), allow_replace=False)
    assert place.ids(INSTANCE) != []

    with pytest.raises(UserError, match=r"incubator-l4 is there already .* not in this Pulumi state, .*\./fab down --stack l4"):
        rent(Engine("l4"), allow_replace=False)
    with pytest.raises(RunError, match=r"something uses it that Pulumi does not know of: \./fab down --stack l4"):
        give_back(Engine("l4"))

    give_back(Engine("l4"), machine_of(Engine("l4")))
    assert billed(PROJECT, "l4") == []
    rent(Engine("l4"), allow_replace=False)
    assert place.vm()["status"] == "RUNNING"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("network", r"gcloud compute networks delete incubator-l4 --project=demo-project"),
        ("subnetwork", r"gcloud compute networks subnets delete incubator-l4 --region=us-central1 --project=demo-project"),
        ("firewall", r"gcloud compute firewall-rules delete incubator-l4-ssh --project=demo-project"),
        ("disk", r"\./fab sweep --stack l4 --delete"),
    ],
)
def test_what_costs_nothing_and_was_lost_is_named_with_the_command_that_deletes_it(stored, cloud_of, kind, words):
    place = cloud_of(stored)
    with place.world.edit() as state:
        state["faults"] = [{"on": "create", "type": f"gcp:compute/{kind}:{kind.capitalize()}", "kind": "timeout"}]
    with pytest.raises(RunError):
        rent(Engine("l4"), allow_replace=False)

    with pytest.raises(RunError, match=words):
        rent(Engine("l4"), allow_replace=False)


def test_ctrl_c_hears_the_engine_out(stored, cloud_of):
    place = cloud_of(stored)
    with place.world.edit() as state:
        state["faults"] = [{"on": "create", "type": INSTANCE, "kind": "slow", "seconds": 3}]
    command = [sys.executable, "-c", "from infra.engine import Engine; from infra.rent import rent; rent(Engine('l4'), False)"]

    def hears_it() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, preexec_fn=hears_it
    ) as process:
        while process.poll() is None and not place.ids(INSTANCE):
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the engine too
        printed, _ = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "interrupted; what came is in the state of stack l4" in printed
    assert Engine("l4").holds(INSTANCE)
    rent(Engine("l4"), allow_replace=False)


def test_what_the_program_refuses_up_refuses(stored, cloud_of):
    place = cloud_of(stored)
    place.set("l4", zone="europe-west4-a")

    with pytest.raises(UserError, match=r"incubator:zone: europe-west4-a: the bucket of stack storage is in us-central1"):
        rent(Engine("l4"), allow_replace=False)

    assert place.ids() == []


def test_storage_is_not_given_back(stored, cloud_of):
    cloud_of(stored)

    with pytest.raises(UserError, match="stack storage holds the bucket with your results, and is protected"):
        give_back(Engine("storage"))
