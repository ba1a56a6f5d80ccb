"""Both kinds of stack through the real engine, over the stand-in cloud: what people type, and what becomes of it."""

import signal
import subprocess
import time

import pytest

from infra.advice import next_step
from infra.engine import Engine as OurEngine
from infra.policy import BUDGET, DISK, INSTANCE
from infra.shortage import shortage
from infra.stack_config import IMAGE_FAMILY, IMAGE_PROJECT
from tests.tools.stand_in_cloud.place import BUCKET, sure


def test_a_second_time_nothing_changes(rented):
    sure(rented.engine.run("up", "--stack", "l4", "--yes", "--expect-no-changes"))
    sure(rented.engine.run("preview", "--stack", "storage", "--expect-no-changes"))


@pytest.mark.parametrize("settings", [{}, {"provisioning": "spot"}, {"ssh": "public", "sshSourceRanges": ["203.0.113.7/32"]}])
def test_the_policy_lets_every_way_to_a_machine_pass(stored, at, settings):
    at(stored).set("l4", **settings)
    plan = OurEngine("l4").plan()

    assert (plan.replaced, plan.deleted) == ((), ())


def test_the_machine_comes_goes_and_comes_again_and_storage_stays(rented, at):
    place = at(rented)
    stays = {key for key, one in place.world.read()["resources"].items() if ":compute/" not in one["type"]}
    assert len(place.ids()) == 8  # network, subnet, rule, router, NAT, data disk, VM and its boot disk

    gone = sure(place.engine.destroy("l4"))

    assert place.ids() == []
    assert set(place.world.read()["resources"]) == stays
    assert BUCKET in stays
    assert "protected" not in gone.stdout
    sure(place.engine.up("l4"))
    assert len(place.ids()) == 8


def test_storage_is_not_destroyed_by_a_word(stored, at):
    place = at(stored)
    before = place.world.read()["resources"]

    refused = place.engine.run("destroy", "--stack", "storage", "--yes")

    assert refused.returncode != 0
    assert "cannot be deleted" in refused.stdout + refused.stderr
    assert "pulumi state unprotect" in refused.stdout + refused.stderr
    assert place.engine.destroy("storage").returncode != 0  # without a preview either
    assert place.world.read()["resources"] == before


def test_storage_can_be_given_up_for_good_and_the_apis_stay_enabled(stored, at):
    place = at(stored)
    sure(place.engine.run("state", "unprotect", "--all", "--yes", "--stack", "storage"))

    sure(place.engine.destroy("storage"))

    assert BUCKET not in place.world.read()["resources"]
    assert "compute.googleapis.com" in place.world.read()["services"]


EARLIER = """
import infra.guard
import pulumi


def _earlier(args):
    if args.type_ == "gcp:storage/bucket:Bucket":
        args.props["versioning"].enabled = False
        del args.props["lifecycle_rules"][2:]
        args.props["lifecycle_rules"][1].condition.with_state = None


infra.guard.guard = lambda settings: pulumi.runtime.register_stack_transformation(_earlier)
"""


def test_a_bucket_of_an_earlier_program_gets_versions_in_place(empty, at):
    place = at(empty)
    program = place.project / "infra" / "__main__.py"
    now = program.read_text()
    place.write(before=EARLIER)
    sure(place.engine.up("storage"))
    created = place.world.read()["resources"][BUCKET]["created"]
    assert place.world.read()["resources"][BUCKET]["inputs"]["versioning"] == {"enabled": False}

    program.write_text(now)
    assert {name: op for name, op in place.engine.plan("storage").items() if op not in ("same", "refresh")} == {"bucket": "update"}
    sure(place.engine.up("storage"))

    bucket = place.world.read()["resources"][BUCKET]
    assert bucket["created"] == created
    assert (bucket["inputs"]["versioning"], len(bucket["inputs"]["lifecycleRules"])) == ({"enabled": True}, 4)
    sure(place.engine.run("preview", "--stack", "storage", "--expect-no-changes"))


def test_a_bucket_that_only_looks_empty_is_not_destroyed_and_the_advice_says_why(stored, at):
    place = at(stored)
    with place.world.edit() as state:
        state["bucket_objects"] = {BUCKET: ["runs/screen/model.pt#1796060486789603"]}  # an earlier version: nothing is live
    sure(place.engine.run("state", "unprotect", "--all", "--yes", "--stack", "storage"))

    refused = place.engine.destroy("storage")

    assert refused.returncode != 0
    assert BUCKET in place.world.read()["resources"]
    assert "gcloud storage rm --all-versions 'gs://BUCKET/**'" in next_step("storage", refused.stdout, verb="destroy")


def test_a_secret_that_is_taken_back_takes_nothing_else_along(stored, at):
    place = at(stored)
    with place.world.edit() as state:
        state["secrets"] = ["hf-token"]
    place.set("storage", secrets=["hf-token"])
    sure(place.engine.up("storage"))

    place.set("storage", secrets=[])
    sure(place.engine.up("storage"))

    assert "secretmanager.googleapis.com" in place.world.read()["services"]


def test_a_budget_alert_that_is_taken_back_goes_with_its_provider(stored, at):
    place = at(stored)
    place.set("storage", billingAccount="0123AB-4567CD-89EF01", monthlyBudget=100)
    sure(place.engine.up("storage"))
    assert len([one for one in place.world.read()["resources"].values() if one["type"] == BUDGET]) == 1

    place.set("storage", billingAccount="", monthlyBudget="")
    sure(place.engine.up("storage"))

    assert not [one for one in place.world.read()["resources"].values() if one["type"] == BUDGET]


def test_changes_in_place_keep_the_vm(rented, at):
    place = at(rented)
    before = place.vm()
    place.set("l4", owner="ada", machineType="g2-standard-16", dataDiskGib=240)

    sure(place.engine.up("l4"))

    after = place.vm()
    assert (after["id"], after["created"]) == (before["id"], before["created"])
    assert (after["inputs"]["labels"]["owner"], after["inputs"]["machineType"]) == ("ada", "g2-standard-16")


def test_another_zone_takes_vm_and_disk_along(rented, at):
    place = at(rented)
    place.set("l4", zone="us-central1-b")

    sure(place.engine.up("l4"))

    assert place.ids(INSTANCE) == ["projects/demo-project/zones/us-central1-b/instances/incubator-l4"]
    assert place.ids(DISK) == [
        "projects/demo-project/zones/us-central1-b/disks/incubator-l4",
        "projects/demo-project/zones/us-central1-b/disks/incubator-l4-data",
    ]


def test_a_newer_image_of_the_family_leaves_the_vm_alone(stored, at):
    place = at(stored)
    place.set("l4", image=f"family/{IMAGE_FAMILY}")
    sure(place.engine.up("l4"))
    with place.world.edit() as state:
        newer = {"name": f"{IMAGE_FAMILY}-v20261101", "creationTimestamp": "2026-11-01T00:00:00.000-07:00"}
        state["images"][IMAGE_PROJECT].append(newer | {"family": IMAGE_FAMILY, "diskSizeGb": 50})

    sure(place.engine.run("preview", "--stack", "l4", "--expect-no-changes"))
    assert place.vm()["inputs"]["bootDisk"]["initializeParams"]["image"].endswith("v20260909")


CREATES = ["network", "subnetwork", "firewall", "router", "routerNat", "disk", "instance"]


@pytest.mark.parametrize("nth", range(len(CREATES)), ids=CREATES)
def test_whatever_fails_up_or_destroy_brings_a_clean_end(stored, at, nth):
    place = at(stored)
    token = f"gcp:compute/{CREATES[nth]}:{CREATES[nth][0].upper()}{CREATES[nth][1:]}"
    with place.world.edit() as state:
        state["faults"] = [
            {"on": "create", "type": token, "kind": "error", "message": "googleapi: Error 503: try again", "times": 1}
        ]

    assert place.engine.up("l4").returncode != 0

    if nth % 2:
        sure(place.engine.up("l4"))
        assert len(place.ids()) == 8
    sure(place.engine.destroy("l4"))
    assert place.ids() == []


STORED = {
    "gcp:projects/service:Service": "API",
    "gcp:storage/bucket:Bucket": "bucket",
    "gcp:serviceaccount/account:Account": "account",
    "gcp:storage/bucketIAMMember:BucketIAMMember": "grant in the bucket",
    "gcp:projects/iAMMember:IAMMember": "role",
}


@pytest.mark.parametrize("token", STORED, ids=STORED.values())
def test_whatever_of_storage_fails_the_next_up_makes_it_whole(empty, at, token):
    place = at(empty)
    with place.world.edit() as state:
        state["faults"] = [
            {"on": "create", "type": token, "kind": "error", "message": "googleapi: Error 503: try again", "times": 1}
        ]

    assert place.engine.up("storage").returncode != 0
    sure(place.engine.up("storage"))

    assert set(STORED) <= {one["type"] for one in place.world.read()["resources"].values()}
    sure(place.engine.run("preview", "--stack", "storage", "--expect-no-changes"))


def test_a_delete_that_fails_once_is_asked_again(rented, at):
    place = at(rented)
    with place.world.edit() as state:
        state["faults"] = [
            {"on": "delete", "type": INSTANCE, "kind": "error", "message": "googleapi: Error 503: try again", "times": 1}
        ]

    assert place.engine.destroy("l4").returncode != 0
    assert place.ids(INSTANCE) != []
    sure(place.engine.destroy("l4"))
    assert place.ids() == []


def test_a_vm_that_someone_deleted_by_hand_comes_back(rented, at):
    place = at(rented)
    with place.world.edit() as state:
        for key in [key for key, one in state["resources"].items() if one["type"] == INSTANCE or one.get("boot_of")]:
            del state["resources"][key]

    sure(place.engine.up("l4"))

    assert len(place.ids()) == 8


def test_what_someone_deleted_by_hand_does_not_keep_destroy_from_its_end(rented, at):
    place = at(rented)
    with place.world.edit() as state:
        for key in [key for key, one in state["resources"].items() if ":compute/" in one["type"]]:
            del state["resources"][key]

    sure(place.engine.destroy("l4"))


def test_ctrl_c_leaves_a_state_that_can_be_put_right(stored, at):
    place = at(stored)
    with place.world.edit() as state:
        state["faults"] = [{"on": "create", "type": INSTANCE, "kind": "slow", "seconds": 60, "times": 1}]
    words = [str(place.engine.path), "up", "--stack", "l4", "--yes", "--skip-preview", "--non-interactive", "--color", "never"]
    with subprocess.Popen(
        words,
        cwd=place.project,
        env=place.engine.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "Instance vm creating" in line:
                break
        while process.poll() is None and not place.ids(INSTANCE):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)  # the first one waits for what is under way, the second does not
        for line in process.stdout:
            if "cancel" in line:
                break
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode != 0
    assert place.ids(INSTANCE) != []  # the cloud has it, the state only half

    put_right = place.engine.run("refresh", "--stack", "l4", "--yes", "--clear-pending-creates")
    assert put_right.returncode == 0, put_right.stdout + put_right.stderr


@pytest.mark.parametrize(
    ("stack", "settings", "edit", "words"),
    [
        ("l4", {"storageStack": "elsewhere"}, {}, "incubator:storageStack: elsewhere: there is no such stack here yet"),
        ("l4", {"zone": "europe-west4-a"}, {}, "the bucket of stack storage is in us-central1"),
        ("l4", {"zone": "us-cental1-a"}, {}, "Pulumi.l4.yaml: incubator:zone: us-cental1-a: did you mean us-central1-"),
        ("l4", {"maxRunSeconds": -5}, {}, "incubator:maxRunSeconds: -5: input should be greater than or equal to 30"),
        ("l4", {"maxRunSeconds": "long"}, {}, "maxRunSeconds"),
        ("l4", {"kind": "vm"}, {}, "incubator:kind: vm (accepted: storage, machine)"),
        ("l4", {"zoone": "us-central1-a"}, {}, "a stack of kind machine has no such key; did you mean zone"),
        ("l4", {"machineType": "g2-standard-16"}, {"credentials": False}, "gcloud auth application-default login"),
        ("storage", {"secrets": ["hf-token"]}, {}, "secrets/hf-token] not found"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_words(stored, at, stack, settings, edit, words):
    place = at(stored)
    place.set(stack, **settings)
    with place.world.edit() as state:
        state.update(edit)

    refused = place.engine.up(stack)

    said = refused.stdout + refused.stderr
    assert refused.returncode != 0
    assert words in " ".join(said.split())
    assert "Traceback" not in said
    assert place.ids() == []


def test_a_bucket_name_that_is_taken_is_refused_in_words(empty, at):
    place = at(empty)
    with place.world.edit() as state:
        state["taken_buckets"] = [BUCKET]

    refused = place.engine.up("storage")

    assert "The requested bucket name is not available" in refused.stdout
    place.set("storage", bucket="another-name")
    sure(place.engine.up("storage"))


def test_the_bucket_of_a_stack_cannot_be_exchanged(stored, at):
    place = at(stored)
    place.set("storage", bucket="another-name")

    refused = place.engine.up("storage")

    assert refused.returncode != 0
    assert "marked for protection" in refused.stdout + refused.stderr
    assert "pulumi state unprotect 'URN' --stack storage" in next_step("storage", refused.stdout + refused.stderr)
    assert BUCKET in place.world.read()["resources"]


def test_a_storage_stack_that_is_not_up_is_refused_with_what_to_run(empty, at):
    refused = at(empty).engine.preview("l4")

    words = "stack storage has no output project: it is not up yet, or of another kind; run: pulumi up --stack storage"
    assert words in refused.stderr
    assert "Traceback" not in refused.stdout + refused.stderr


def test_the_words_of_a_failure_are_those_of_the_resource_that_failed(stored, at, capfd):
    """A warning, a name or an earlier line that has the words of another failure changes nothing."""
    place = at(stored)
    place.write(after="\npulumi.warn(\"Quota 'GPUS_ALL_REGIONS' exceeded, and the bucket is marked for protection\")\n")
    with place.world.edit() as state:
        state["faults"] = [
            {"on": "create", "type": INSTANCE, "kind": "error", "message": "googleapi: Error 503: try again", "times": 1}
        ]

    ended = OurEngine("l4").show("up", "--yes", "--skip-preview", "--stack", "l4")

    assert ended.code != 0
    assert "marked for protection" in capfd.readouterr().out
    assert ended.reported[0].endswith("googleapi: Error 503: try again")
    assert shortage([], ended.errors) is None
    assert "(see above)" in next_step("l4", ended.errors)


def test_what_comes_to_no_event_is_read_from_what_the_engine_prints(stored, at, monkeypatch):
    at(stored)
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "another")

    ended = OurEngine("l4").show("up", "--yes", "--skip-preview", "--stack", "l4")

    assert (ended.code != 0, ended.reported) == (True, ())
    assert "PULUMI_CONFIG_PASSPHRASE (or _FILE)" in next_step("l4", ended.errors)
