"""What the programs of both kinds of stack ask the engine for (what the engine makes of it: test_engine.py)."""

import dataclasses
from pathlib import Path

import pulumi
import pytest

from infra.outputs import MachineOutputs, StorageOutputs
from infra.policy import BUCKET, BUCKET_GRANT, DISK, FIREWALL, INSTANCE, SERVICE
from infra.preflight import IAP_API, MACHINE_APIS, OS_LOGIN_API, STORAGE_APIS
from infra.storage import APIS
from training.checkpoints.manifest import MANIFEST
from training.checkpoints.model_file import PAYLOAD

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGmcBFPQyLPCGxqGRvWDrtbjWKA6hAIdJGnRMGbTiA9u ada@lab"
PUBLIC = {"ssh": "public", "sshSourceRanges": '["203.0.113.7/32", "198.51.100.0/24"]'}
PLACE = "--project=demo-project --zone=us-central1-a"
STACKS = {
    "storage": {},
    "l4": {},
    "l4-spot": {"kind": "machine", "provisioning": "spot"},
    "cpu": {"kind": "machine", "machineType": "e2-standard-4"},
    "open": {"kind": "machine", **PUBLIC},
    "key": {"kind": "machine", "sshUser": "ada", "sshPublicKey": KEY},
    "reserved": {"kind": "machine", "reservation": "my-l4"},
    "secrets": {"kind": "storage", "location": "us-central1", "secrets": '["hf-token", "wandb"]'},
    "budget": {"kind": "storage", "location": "us-central1", "billingAccount": "0123AB-4567CD-89EF01", "monthlyBudget": "100"},
}


@pytest.mark.parametrize("stack", STACKS)
def test_no_stack_declares_what_the_policy_forbids(program, stack):
    assert len(program(stack, **STACKS[stack]).planned) >= 5  # otherwise the program itself refuses: test_policy.py


def test_a_machine_says_all_that_bootstrap_knows_of_it(program):
    outputs = MachineOutputs.of(program("l4").outputs, "l4")

    assert dataclasses.asdict(outputs) == {
        "name": "incubator-l4",
        "instance_id": "4711",
        "project": "demo-project",
        "zone": "us-central1-a",
        "ssh_user": None,
        "ssh_host": "incubator-l4",
        "ssh_port": 22,
        "ssh_proxy": f"gcloud compute start-iap-tunnel incubator-l4 %p --listen-on-stdin {PLACE}",
        "bucket": "demo-project-incubator",
        "service_account": "incubator-training@demo-project.iam.gserviceaccount.com",
        "secrets": ("hf-token",),
        "machine_type": "g2-standard-8",
        "provisioning": "standard",
        "usd_per_hour": 0.8536,
        "price_of": "2026-09",
        "max_run_seconds": 86400,
    }


def test_the_storage_stack_says_what_machines_read(program):
    outputs = StorageOutputs.of(program("storage", secrets='["hf-token"]').outputs, "storage")

    assert dataclasses.asdict(outputs) == {
        "project": "demo-project",
        "region": "us-central1",
        "bucket": "demo-project-incubator",
        "service_account": "incubator-training@demo-project.iam.gserviceaccount.com",
        "secrets": ("hf-token",),
    }


def test_the_vm_is_what_the_settings_say(program):
    vm = program("l4").one(INSTANCE).inputs

    assert vm["machineType"] == "g2-standard-8"
    assert vm["bootDisk"]["initializeParams"] | {"labels": None} == {
        "image": "projects/deeplearning-platform-release/global/images/common-cu129-ubuntu-2204-nvidia-580-v20260909",
        "size": 250,
        "type": "pd-balanced",
        "labels": None,
    }
    assert vm["scheduling"] == {
        "provisioningModel": "STANDARD",
        "preemptible": False,
        "automaticRestart": True,
        "onHostMaintenance": "TERMINATE",
        "instanceTerminationAction": "STOP",
        "maxRunDuration": {"seconds": 86400},
    }
    assert vm["serviceAccount"]["email"] == "incubator-training@demo-project.iam.gserviceaccount.com"
    assert vm["shieldedInstanceConfig"] == {"enableVtpm": True, "enableIntegrityMonitoring": True, "enableSecureBoot": False}
    assert (vm["bootDisk"]["deviceName"], vm["attachedDisks"][0]["deviceName"]) == ("boot", "data")
    assert "guestAccelerators" not in vm
    assert "metadataStartupScript" not in vm
    assert vm["metadata"]["enable-oslogin"] == "TRUE"
    assert vm["metadata"]["startup-script"] == Path("infra/startup.sh").read_text()
    assert vm["metadata"]["incubator-bucket"] == "demo-project-incubator"
    assert vm["labels"] == {
        "incubator-bucket": "demo-project-incubator",
        "incubator-stack": "l4",
        "owner": "unnamed",
        "run": "none",
    }


def test_a_spot_vm_says_what_happens_when_it_is_taken_away(program):
    scheduling = (
        program("l4-spot", kind="machine", provisioning="spot", terminationAction="DELETE").one(INSTANCE).inputs["scheduling"]
    )

    assert scheduling["provisioningModel"] == "SPOT"
    assert (scheduling["preemptible"], scheduling["automaticRestart"]) == (True, False)
    assert scheduling["instanceTerminationAction"] == "DELETE"


@pytest.mark.parametrize(
    ("settings", "maintenance"),
    [
        ({"machineType": "e2-standard-4"}, "MIGRATE"),
        ({"machineType": "e2-standard-4", "provisioning": "spot"}, "TERMINATE"),
        ({"machineType": "g2-standard-8"}, "TERMINATE"),
        ({"machineType": "g2-standard-8", "provisioning": "spot"}, "TERMINATE"),
    ],
    ids=lambda value: " ".join(value.values()) if isinstance(value, dict) else "",
)
def test_a_vm_moves_before_maintenance_where_google_lets_it(program, settings, maintenance):
    assert program("l4", **settings).one(INSTANCE).inputs["scheduling"]["onHostMaintenance"] == maintenance


def test_iap_lets_in_googles_proxy_only_and_gives_a_nat(program):
    machine = program("l4")

    assert machine.one(FIREWALL).inputs["sourceRanges"] == ["35.235.240.0/20"]
    assert machine.one(INSTANCE).inputs["networkInterfaces"][0].get("accessConfigs") in (None, [])
    assert len(machine.all("gcp:compute/routerNat:RouterNat")) == 1


def test_public_lets_in_the_named_ranges_and_needs_no_nat(program):
    machine = program("l4", **PUBLIC)

    assert machine.one(FIREWALL).inputs["sourceRanges"] == ["203.0.113.7/32", "198.51.100.0/24"]
    assert machine.one(INSTANCE).inputs["networkInterfaces"][0]["accessConfigs"] == [{"networkTier": "PREMIUM"}]
    assert machine.all("gcp:compute/router:Router") == machine.all("gcp:compute/routerNat:RouterNat") == []
    assert machine.outputs["ssh_proxy"] is None


def test_a_key_takes_the_place_of_os_login(program):
    machine = program("l4", sshUser="ada", sshPublicKey=KEY)

    assert machine.one(INSTANCE).inputs["metadata"]["ssh-keys"] == f"ada:{KEY}"
    assert machine.one(INSTANCE).inputs["metadata"]["enable-oslogin"] == "FALSE"
    assert machine.outputs["ssh_user"] == "ada"


def test_a_family_is_resolved_to_a_name(program):
    vm = program("l4", image="family/common-cu129-ubuntu-2204-nvidia-580").one(INSTANCE).inputs

    assert vm["bootDisk"]["initializeParams"]["image"].endswith("/global/images/newest-of-its-family")


def test_a_reservation_is_used_by_name(program):
    affinity = program("l4", reservation="my-l4").one(INSTANCE).inputs["reservationAffinity"]

    assert affinity["type"] == "SPECIFIC_RESERVATION"
    assert affinity["specificReservation"]["values"] == ["my-l4"]


def test_what_is_named_secret_is_read_by_training_and_stands_nowhere_else(program):
    storage = program("storage", secrets='["hf-token"]')

    grant = storage.one("gcp:secretmanager/secretIamMember:SecretIamMember").inputs
    assert (grant["secretId"], grant["role"]) == ("hf-token", "roles/secretmanager.secretAccessor")
    assert "secretmanager.googleapis.com" in [api.inputs["service"] for api in storage.all(SERVICE)]
    assert "secretmanager.googleapis.com" not in [api.inputs["service"] for api in program("storage").all(SERVICE)]


def test_training_reads_the_bucket_writes_below_runs_and_logs(program):
    storage = program("storage")
    members = storage.all("gcp:projects/iAMMember:IAMMember")

    assert [member.inputs["role"] for member in members] == ["roles/logging.logWriter", "roles/monitoring.metricWriter"]
    grants = {grant.inputs["role"]: grant.inputs.get("condition", {}) for grant in storage.all(BUCKET_GRANT)}
    assert set(grants) == {"roles/storage.objectViewer", "roles/storage.objectUser"}
    assert grants["roles/storage.objectViewer"] == {}
    assert grants["roles/storage.objectUser"]["expression"] == (
        "resource.name.startsWith('projects/_/buckets/demo-project-incubator/objects/runs/')"
    )


def test_the_bucket_ages_out_what_checkpoints_are_made_of(program):
    rules = program("storage", checkpointDays="30").one(BUCKET).inputs["lifecycleRules"]

    checkpoints = {"matchesPrefixes": ["runs/"], "matchesSuffixes": [PAYLOAD, MANIFEST]}
    assert [rule["condition"] for rule in rules if rule["action"]["type"] == "Delete"] == [
        {"age": 30, "withState": "LIVE", **checkpoints},
        {"daysSinceNoncurrentTime": 1, "withState": "ARCHIVED", **checkpoints},
        {"daysSinceNoncurrentTime": 7, "withState": "ARCHIVED"},
    ]


def test_a_budget_warns_about_the_project_alone(program):
    budget = program("storage", billingAccount="0123AB-4567CD-89EF01", monthlyBudget="100").one("gcp:billing/budget:Budget").inputs

    assert budget["budgetFilter"]["projects"] == ["projects/123456789012"]
    assert budget["amount"]["specifiedAmount"] == {"units": "100"}


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ({}, "stack storage has no output project: it is not up yet, or of another kind; run: pulumi up --stack storage"),
        ({"region": "europe-west4"}, "incubator:zone: us-central1-a: the bucket of stack storage is in europe-west4"),
        ({"project": "another-project"}, "gcp:project: demo-project: stack storage is of project another-project"),
    ],
)
def test_a_storage_stack_that_does_not_fit_is_refused_in_a_sentence(program, storage, words):
    fits = {**program("storage").outputs, **storage}

    with pytest.raises(pulumi.RunError, match=words):
        program("l4", storage=fits if storage else {})


def test_another_region_may_be_allowed(program):
    assert program("l4", zone="europe-west4-a", otherRegions="true").one(DISK).inputs["zone"] == "europe-west4-a"


def test_a_refusal_is_one_the_engine_shows_without_a_traceback(program):
    with pytest.raises(pulumi.RunError, match=r"Pulumi\.l4\.yaml: incubator:zone: us-cental1-a: did you mean us-central1-"):
        program("l4", zone="us-cental1-a")


def test_storage_enables_what_a_machine_needs():
    needed = {*MACHINE_APIS, *IAP_API, *OS_LOGIN_API, *STORAGE_APIS}

    assert needed <= set(APIS)
