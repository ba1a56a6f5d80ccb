"""The stand-in cloud keeps the rules of the real one: shown with the real engine and a small program."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.tools.stand_in_cloud import rules
from tests.tools.stand_in_cloud.differences import UNKNOWN
from tests.tools.stand_in_cloud.engine import Engine
from tests.tools.stand_in_cloud.world import DISK, INSTANCE, World, of_type

pytestmark = pytest.mark.cloud
PROJECT = """
name: tiny
runtime: {name: python, options: {toolchain: uv, virtualenv: .venv}}
main: program
config:
  zone: {type: string, default: us-central1-a}
  machineType: {type: string, default: g2-standard-8}
  label: {type: string, default: one}
  description: {type: string, default: ""}
  maxRunSeconds: {type: integer, default: 7200}
  dataGib: {type: integer, default: 20}
  bootType: {type: string, default: pd-balanced}
"""
PROGRAM = """
import pulumi
import pulumi_gcp as gcp

config = pulumi.Config()
zone = config.require("zone")
first_delete = pulumi.ResourceOptions(delete_before_replace=True)
network = gcp.compute.Network("network", name="tiny", auto_create_subnetworks=False)
subnet = gcp.compute.Subnetwork(
    "subnet", name="tiny", region=zone[:-2], network=network.id, ip_cidr_range="10.10.0.0/24", opts=first_delete
)
disk = gcp.compute.Disk("disk", name="tiny-data", zone=zone, type="pd-balanced", size=config.require_int("dataGib"))
image = gcp.compute.get_image(project="deeplearning-platform-release", family="common-cu129-ubuntu-2204-nvidia-580")
vm = gcp.compute.Instance(
    "vm",
    name="tiny",
    zone=zone,
    machine_type=config.require("machineType"),
    description=config.get("description") or None,
    labels={"label": config.require("label")},
    boot_disk={"initialize_params": {"image": image.self_link, "size": 100, "type": config.require("bootType")}},
    attached_disks=[{"source": disk.id, "device_name": "data"}],
    network_interfaces=[{"subnetwork": subnet.id, "access_configs": [{}]}],
    scheduling={
        "on_host_maintenance": "TERMINATE",
        "max_run_duration": {"seconds": config.require_int("maxRunSeconds")},
        "instance_termination_action": "STOP",
    },
    allow_stopping_for_update=config.get_bool("mayStop", True),
    opts=first_delete,
)
pulumi.export("address", vm.network_interfaces[0].access_configs[0].nat_ip)
pulumi.export("image", image.name)
"""
STAY = {"tiny-dev": "same", "network": "same", "subnet": "same", "disk": "same", "vm": "same"}
CREATED = dict.fromkeys(STAY, "create")
REAL_ENGINE = pytest.mark.needs("pulumi")


def engine_with(folder: Path, program: str, **options: bool) -> Engine:
    """A user who has written a program, and a stack `dev`."""
    (folder / "program").mkdir()
    (folder / "Pulumi.yaml").write_text(PROJECT)
    (folder / "program" / "__main__.py").write_text(program)
    engine = Engine(folder, folder / "home", World.create(folder / "world.json"), **options)
    engine.init("dev")
    return engine


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return engine_with(tmp_path, PROGRAM)


def done(completed: subprocess.CompletedProcess[str]) -> str:
    """What a command that succeeded printed."""
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


def refused(completed: subprocess.CompletedProcess[str]) -> str:
    """What a command that failed printed."""
    assert completed.returncode != 0
    return completed.stdout + completed.stderr


def vms(engine: Engine) -> list[dict[str, Any]]:
    return of_type(engine.world.read(), INSTANCE)


def calls(engine: Engine) -> list[str]:
    return [f"{entry['call']} {entry['type'].rpartition(':')[2]}" for entry in engine.world.read()["log"]]


@REAL_ENGINE
def test_up_twice_makes_everything_once_and_destroy_leaves_nothing(engine):
    assert engine.plan("dev") == CREATED
    done(engine.up("dev"))
    made = engine.world.read()["resources"]

    assert engine.plan("dev") == STAY
    done(engine.up("dev"))
    assert engine.world.read()["resources"] == made
    assert engine.outputs("dev") == {
        "address": vms(engine)[0]["outputs"]["networkInterfaces"][0]["accessConfigs"][0]["natIp"],
        "image": "common-cu129-ubuntu-2204-nvidia-580-v20260909",
    }
    assert calls(engine)[-1] == "create Instance"

    done(engine.destroy("dev"))
    assert engine.world.read()["resources"] == {}


@REAL_ENGINE
def test_the_plugins_also_start_cold(tmp_path):
    engine = engine_with(tmp_path, PROGRAM, warm=False)

    assert engine.plan("dev") == CREATED


@REAL_ENGINE
@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [
        ("zone", "us-central1-b", {"disk": "replace", "vm": "replace"}),
        ("zone", "us-east1-b", {"subnet": "replace", "disk": "replace", "vm": "replace"}),
        ("machineType", "g2-standard-12", {"vm": "update"}),
        ("label", "two", {"vm": "update"}),
        ("description", "other", {"vm": "update"}),
        ("maxRunSeconds", "3600", {"vm": "replace"}),
        ("dataGib", "30", {"disk": "update"}),
        ("dataGib", "10", {"disk": "replace", "vm": "update"}),  # the real one makes a smaller disk anew, and empty
        ("bootType", "pd-ssd", {"vm": "replace"}),
    ],
)
def test_a_change_is_in_place_or_replaces_as_in_the_real_cloud(engine, key, value, changed):
    done(engine.up("dev"))
    done(engine.run("config", "set", "--stack", "dev", key, value))

    plan = engine.plan("dev")

    assert plan == STAY | changed
    if key != "dataGib":
        done(engine.up("dev"))
        assert engine.plan("dev") == STAY


@REAL_ENGINE
def test_a_machine_type_changes_only_where_the_vm_may_be_stopped(engine):
    done(engine.run("config", "set", "--stack", "dev", "mayStop", "false"))
    done(engine.up("dev"))
    done(engine.run("config", "set", "--stack", "dev", "machineType", "g2-standard-12"))

    assert "requires stopping it" in refused(engine.up("dev"))
    assert vms(engine)[0]["inputs"]["machineType"] == "g2-standard-8"


@REAL_ENGINE
def test_a_stock_out_tells_its_code_and_other_zones_only_in_the_operation(engine):
    stock_out = {"on": "create", "type": INSTANCE, "zone": "us-central1-a", "kind": "stock-out", "times": -1}
    with engine.world.edit() as state:
        state["faults"] = [
            stock_out | {"times": 1},
            stock_out | {"code": "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "zones_available": "us-central1-b,us-central1-c"},
        ]
    place = "The zone 'projects/demo-project/zones/us-central1-a' does not have enough resources available to fulfill the request."

    first, second = refused(engine.up("dev")), refused(engine.up("dev"))

    assert f"Error waiting for instance to create: {place}  Try a different zone, or try again later." in first
    assert f"Error waiting for instance to create: {place}  '(resource type:compute)'." in second
    assert "ZONE_RESOURCE_POOL_EXHAUSTED" not in first + second
    state = engine.world.read()
    errors = [operation["error"]["errors"][0] for operation in state["operations"]]
    infos = [error["errorDetails"][0]["errorInfo"]["metadatas"] for error in errors]
    assert [error["code"] for error in errors] == ["ZONE_RESOURCE_POOL_EXHAUSTED", "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"]
    assert [info["zonesAvailable"] for info in infos] == ["", "us-central1-b,us-central1-c"]
    assert vms(engine) == []
    done(engine.run("config", "set", "--stack", "dev", "zone", "us-central1-b"))
    done(engine.up("dev"))
    assert [vm["inputs"]["zone"] for vm in vms(engine)] == ["us-central1-b"]


@REAL_ENGINE
@pytest.mark.parametrize(
    ("quota", "told"),
    [
        (("project", "GPUS_ALL_REGIONS"), "Quota 'GPUS_ALL_REGIONS' exceeded.  Limit: 0.0 globally."),
        (("regions", "us-central1", "NVIDIA_L4_GPUS"), "Quota 'NVIDIA_L4_GPUS' exceeded.  Limit: 0.0 in region us-central1."),
    ],
)
def test_a_quota_of_zero_refuses_the_vm(engine, quota, told):
    with engine.world.edit() as state:
        scope: Any = state["quotas"]
        for step in quota:
            scope = scope[step]
        scope["limit"] = 0

    assert told in refused(engine.up("dev"))
    (operation,) = engine.world.read()["operations"]
    assert operation["error"]["errors"][0]["code"] == "QUOTA_EXCEEDED"


@REAL_ENGINE
def test_what_was_created_and_then_timed_out_is_in_the_cloud_and_not_in_the_state(engine):
    with engine.world.edit() as state:
        state["faults"] = [{"on": "create", "type": INSTANCE, "kind": "timeout"}]

    assert "timeout while waiting for state to become 'DONE'" in refused(engine.up("dev"))
    assert len(vms(engine)) == 1
    assert "already exists, alreadyExists" in refused(engine.up("dev"))


@REAL_ENGINE
def test_the_second_create_of_all_fails_once(engine):
    with engine.world.edit() as state:
        state["faults"] = [{"on": "create", "nth": 2, "kind": "error"}]

    assert "googleapi: Error 503" in refused(engine.up("dev"))
    done(engine.up("dev"))
    assert engine.plan("dev") == STAY


@REAL_ENGINE
def test_ctrl_c_twice_leaves_the_vm_in_the_cloud_and_a_pending_create_in_the_state(engine):
    with engine.world.edit() as state:
        state["faults"] = [{"on": "create", "type": INSTANCE, "kind": "slow", "seconds": 600}]
    with engine.start("up", "--stack", "dev", "--yes", "--skip-preview") as up:
        assert up.stdout is not None
        assert any("Instance vm creating" in line for line in up.stdout)
        engine.wait_for(lambda state: of_type(state, INSTANCE))
        os.killpg(up.pid, signal.SIGINT)
        assert any("^C received; cancelling" in line for line in up.stdout)
        os.killpg(up.pid, signal.SIGINT)

    assert up.returncode != 0
    pending = done(engine.run("stack", "export", "--stack", "dev"))
    assert '"pending_operations"' in pending
    assert len(vms(engine)) == 1


@REAL_ENGINE
def test_refresh_sees_what_was_deleted_by_hand(engine):
    done(engine.up("dev"))
    with engine.world.edit() as state:
        del state["resources"][vms(engine)[0]["id"]]

    done(engine.refresh("dev"))

    assert engine.plan("dev") == STAY | {"vm": "create"}


@REAL_ENGINE
@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"sizeGb": 5}, "an argument named 'sizeGb' is not expected here"),
        ({"size": "large"}, "expected int, got 'large'"),
        ({"type": "pd-golden"}, "expected type to be one of ['pd-standard'"),
        ({"name": "Bad_Name"}, "doesn't match regexp"),
        (
            {"guestOsFeatures": [{"kind": "GVNIC"}]},
            "an argument named 'kind' is not expected here; DiskGuestOsFeatureArgs knows type",
        ),
        ({"guestOsFeatures": [{}]}, "the argument 'type' is required"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(tmp_path, inputs, told):
    wanted = {"name": "tiny", "zone": "us-central1-a", "type": "pd-ssd"} | inputs
    program = f"import pulumi, pulumi_gcp\npulumi.CustomResource('gcp:compute/disk:Disk', 'disk', {wanted})\n"
    engine = engine_with(tmp_path, program)

    assert told in refused(engine.preview("dev"))
    assert calls(engine) == []


@REAL_ENGINE
def test_a_lifecycle_rule_whose_only_number_is_0_has_no_condition(tmp_path):
    """The real provider does not send it (terraform-provider-google#17990)."""
    rule: Any = {"action": {"type": "Delete"}, "condition": {"daysSinceNoncurrentTime": 0}}
    inputs = {"name": "tiny-cells", "location": "US", "lifecycleRules": [rule]}
    program = f"import pulumi, pulumi_gcp\npulumi.CustomResource('gcp:storage/bucket:Bucket', 'bucket', {inputs})\n"
    engine = engine_with(tmp_path, program)
    assert "must specify at least one condition" in refused(engine.up("dev"))

    rule["condition"]["sendDaysSinceNoncurrentTimeIfZero"] = True
    (tmp_path / "program" / "__main__.py").write_text(program.replace("'daysSinceNoncurrentTime': 0", f"**{rule['condition']}"))
    done(engine.up("dev"))


@REAL_ENGINE
@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("raise pulumi.RunError('zone: not this one')", "error: zone: not this one"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_the_language_host_tells_a_refusal_in_a_line_and_any_other_error_with_its_traceback(tmp_path, line, told):
    engine = engine_with(tmp_path, f"import pulumi\n{line}\n")

    output = refused(engine.preview("dev"))

    assert told in output
    assert ("Traceback" in output) == ("ZeroDivisionError" in told)
    assert output.count(told.removeprefix("error: ")) == 1


@REAL_ENGINE
def test_a_disk_in_use_cannot_be_deleted_and_a_network_that_holds_something_neither(engine):
    done(engine.up("dev"))
    done(engine.run("state", "delete", "--stack", "dev", "--yes", "urn:pulumi:dev::tiny::gcp:compute/instance:Instance::vm"))

    told = refused(engine.destroy("dev", "--continue-on-error"))

    assert "/disks/tiny-data' is already being used by 'projects/demo-project/zones/us-central1-a/instances/tiny'" in told
    assert "/subnetworks/tiny' is already being used by" in told
    assert len(of_type(engine.world.read(), DISK)) == 2


def test_an_unknown_zone_means_another_disk():
    known = {"name": "a", "zone": "us-central1-a"}

    assert rules.changes(DISK, known, known | {"zone": UNKNOWN}) == {"zone": "changed"}
    assert rules.replaces(DISK, "zone", known, known | {"zone": UNKNOWN})


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ({"deletionProtection": False}, {}, {}),
        ({"bootDisk": {"autoDelete": True}}, {"bootDisk": {}}, {}),
        ({"bootDisk": {"autoDelete": False}}, {"bootDisk": {}}, {"bootDisk.autoDelete": "gone"}),
        ({"tags": ["a", "b"]}, {"tags": ["b", "a"]}, {}),
        (
            {"networkInterfaces": [{"accessConfigs": [{}]}]},
            {"networkInterfaces": [{}]},
            {"networkInterfaces[0].accessConfigs[0]": "gone"},
        ),
        ({"labels": {"a.b": "1"}}, {"labels": {"a.b": "2"}}, {'labels["a.b"]': "changed"}),
        ({"shieldedInstanceConfig": {"enableSecureBoot": True}}, {}, {}),
        ({"scheduling": {"maxRunDuration": {"seconds": 60}}}, {}, {"scheduling.maxRunDuration.seconds": "gone"}),
    ],
)
def test_what_is_the_same_to_the_cloud_is_no_change(old, new, changes):
    assert rules.changes(INSTANCE, old, new) == changes


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ({"versioning": {"enabled": True}}, {}, {}),  # a block that is no longer named stays as it was
        ({"versioning": {"enabled": True}}, {"versioning": {"enabled": False}}, {"versioning.enabled": "gone"}),
        (
            {"lifecycleRules": [{"condition": {"age": 1, "withState": "LIVE"}}]},
            {"lifecycleRules": [{"condition": {"age": 1}}]},
            {},
        ),
        (
            {"lifecycleRules": [{"condition": {"daysSinceNoncurrentTime": 7}}]},
            {"lifecycleRules": [{"condition": {"daysSinceNoncurrentTime": 1}}]},
            {"lifecycleRules[0].condition.daysSinceNoncurrentTime": "changed"},
        ),
    ],
)
def test_a_bucket_keeps_what_the_real_provider_keeps(old, new, changes):
    assert rules.changes(rules.BUCKET, old, new) == changes
