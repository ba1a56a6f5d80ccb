import json
import re
from pathlib import Path

import pytest
import yaml

from infra.stack_config import MachineSettings, StorageSettings, project_config, read_settings
from training.errors import UserError

MACHINE = {"gcp:project": "demo-project", "incubator:kind": "machine"}
STORAGE = {"gcp:project": "demo-project", "incubator:kind": "storage", "incubator:location": "us-central1"}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGmcBFPQyLPCGxqGRvWDrtbjWKA6hAIdJGnRMGbTiA9u ada@lab"


def machine(**settings: str) -> MachineSettings:
    read = read_settings("l4", MACHINE | {f"incubator:{key}": value for key, value in settings.items()})
    assert isinstance(read, MachineSettings)
    return read


def test_pulumi_yaml_repeats_the_schema():
    told = yaml.safe_load(Path("Pulumi.yaml").read_text())["config"]

    assert told == project_config()


def test_every_setting_has_a_sentence():
    assert [key for key, entry in project_config().items() if len(entry["description"] or "") < 10] == []


@pytest.mark.parametrize("file", sorted(Path("configs/stacks").glob("[!P]*.yaml")), ids=lambda file: file.name)
def test_the_stacks_that_come_along_are_whole_but_for_the_project_and_the_place(file):
    stack = file.stem
    place = {"incubator:location": "us-central1"} if stack == "storage" else {}
    told = yaml.safe_load(file.read_text())["config"] | place

    assert read_settings(stack, told | {"gcp:project": "demo-project"})
    with pytest.raises(UserError, match=r"gcp:project is not set; run: \./fab init --project YOUR-PROJECT --region REGION"):
        read_settings(stack, told)


def test_what_pulumi_fills_in_for_the_other_kind_is_no_setting():
    defaults = {f"incubator:{key}": entry["default"] for key, entry in project_config().items()}

    assert read_settings("storage", defaults | STORAGE) == read_settings("storage", STORAGE)
    assert read_settings("l4", defaults | MACHINE) == read_settings("l4", MACHINE)


def test_texts_become_what_they_mean():
    read = machine(maxRunSeconds="3600", otherRegions="true", ssh="public", sshSourceRanges='["203.0.113.7/32"]', usdPerHour="0.5")

    assert (read.max_run_seconds, read.other_regions, read.price) == (3600, True, 0.5)
    assert [str(source) for source in read.ssh_source_ranges] == ["203.0.113.7/32"]


def test_a_bucket_has_a_name_of_its_project_unless_told():
    told = {"project": "demo-project", "location": "us-central1"}
    assert StorageSettings.model_validate(told).bucket_name == "demo-project-incubator"
    assert StorageSettings.model_validate(told | {"bucket": "my-cells"}).bucket_name == "my-cells"


def test_a_bucket_lands_nowhere_that_nobody_said():
    with pytest.raises(UserError, match=r"incubator:location is not set; run: ./fab init .* pulumi config set incubator:location"):
        read_settings("storage", {key: value for key, value in STORAGE.items() if not key.endswith("location")})


BAD_MACHINES = [
    ("zone", "us-cental1-a", "did you mean us-central1-.*accepted: us-central1-a, "),
    ("zone", "us-central1", "did you mean us-central1-"),
    ("zone", "mars", "accepted: us-central1-a, .*, or another zone of Google's"),
    ("zone", "5", "accepted"),
    ("machineType", "g2standard8", "did you mean g2-standard-8.*accepted: g2-standard-4, g2-standard-8"),
    ("machineType", "L4", "accepted: g2-standard-4, g2-standard-8, .*, or another machine type of Google's"),
    ("provisioning", "preemptible", "should be 'standard' or 'spot'"),
    ("terminationAction", "SUSPEND", "should be 'STOP' or 'DELETE'"),
    ("maxRunSeconds", "29", "greater than or equal to 30"),
    ("maxRunSeconds", "-3600", "greater than or equal to 30"),
    ("maxRunSeconds", "forever", "valid integer"),
    ("maxRunSeconds", "99999999999", "less than or equal to"),
    ("bootDiskType", "pd-standard", "should be 'pd-ssd' or 'pd-balanced'"),
    ("dataDiskType", "hyperdisk", "should be 'pd-ssd' or 'pd-balanced'"),
    ("bootDiskGib", "5", "greater than or equal to"),
    ("dataDiskGib", "1e9", "valid integer"),
    ("otherRegions", "perhaps", "valid boolean"),
    ("image", "Not An Image", "accepted: the name of an image, or family/NAME"),
    ("imageProject", "x", "accepted: a GCP project id"),
    ("ssh", "open", "should be 'iap' or 'public'"),
    ("sshSourceRanges", "my house", "accepted: IPv4 ranges of your own"),
    ("sshSourceRanges", '["my house"]', "accepted: IPv4 ranges of your own"),
    ("owner", "Ada Lovelace", "accepted: 1 to 63 of a-z"),
    ("run", "", None),
    ("storageStack", "Über", "accepted: the name of a stack"),
    ("reservation", "NO!", "accepted: the name of a reservation"),
    ("usdPerHour", "-1", "greater than 0"),
    ("usdPerHour", "cheap", "valid number"),
    ("usdPerHour", "nan", "finite|greater|less"),
    ("sshPublicKey", "-----BEGIN OPENSSH PRIVATE KEY-----", "accepted: one line of a .pub file"),
    ("sshPublicKey", "ssh-ed25519 short", "accepted: one line of a .pub file"),
    ("location", "us-central1-a", "no such key"),
    ("zoone", "us-central1-a", "no such key; did you mean zone"),
]


@pytest.mark.parametrize("zone", ["europe-north2-a", "us-south1-ai1b", "us-east4-b"])
@pytest.mark.parametrize("machine_type", ["g4-standard-48", "a3-highgpu-8g", "c3-standard-4-lssd", "g2-standard-9"])
def test_what_may_be_newer_than_the_tables_is_left_for_google_to_say_and_its_price_is_not_made_up(zone, machine_type):
    told = machine(zone=zone, machineType=machine_type)

    assert told.region == zone.rpartition("-")[0]
    assert told.price is None
    assert machine(zone=zone, machineType=machine_type, usdPerHour="2.5").price == 2.5
    assert StorageSettings.model_validate({"project": "demo-project", "location": told.region}).location == told.region


@pytest.mark.parametrize(("key", "value", "words"), BAD_MACHINES)
def test_a_wrong_setting_of_a_machine_is_refused_with_file_key_value_and_what_is_accepted(key, value, words):
    if words is None:  # an empty text is what Pulumi has for what is not set
        assert machine(**{key: value}) == machine()
        return
    with pytest.raises(UserError, match=words) as refusal:
        machine(**{key: value})

    assert str(refusal.value).startswith(f"configs/stacks/Pulumi.l4.yaml: incubator:{key}: ")
    assert value.removeprefix("[").strip('"]') in str(refusal.value) or "no such key" in words  # which may hold a secret
    assert "\n" not in str(refusal.value)


BAD_STORAGE = [
    ("location", "mars", "accepted: us-central1"),
    ("bucket", "ab", "accepted: 3 to 63"),
    ("bucket", "My_Cells", "accepted: 3 to 63"),
    ("bucket", "google-cells", "starts with goog"),
    ("bucket", "goog-cells", "starts with goog"),
    ("bucket", "192.168.0.1", "accepted: 3 to 63"),
    ("bucket", "cells.example.org", "accepted: 3 to 63"),  # Google wants to see that the domain is yours
    ("checkpointDays", "0", "greater than or equal to 1"),
    ("secrets", '["hf token"]', "not the secret"),
    ("secrets", '["hf-token", "hf-token"]', "each name once"),
    ("billingAccount", "my account", "an id such as"),
    ("monthlyBudget", "0", "greater than or equal to 1"),
    ("zone", "us-central1-b", "no such key"),
]


@pytest.mark.parametrize(("key", "value", "words"), BAD_STORAGE)
def test_a_wrong_setting_of_storage_is_refused(key, value, words):
    with pytest.raises(UserError, match=words) as refusal:
        read_settings("storage", STORAGE | {f"incubator:{key}": value})

    assert str(refusal.value).startswith(f"configs/stacks/Pulumi.storage.yaml: incubator:{key}: ")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"provisioning": "spot", "reservation": "my-l4"}, "reservation: a Spot VM cannot use one"),
        ({"ssh": "public"}, "ssh: public needs sshSourceRanges"),
        ({"sshSourceRanges": '["203.0.113.7/32"]'}, "no effect with ssh: iap"),
        ({"sshUser": "ada"}, "sshUser and sshPublicKey only work together"),
        ({"sshPublicKey": KEY}, "sshUser and sshPublicKey only work together"),
    ],
)
def test_what_does_not_fit_together_is_refused(settings, words):
    with pytest.raises(UserError, match=re.escape(words)):
        machine(**settings)


WIDE = [
    ["0.0.0.0/0"],
    ["10.0.0.0/8"],
    ["203.0.0.0/15"],
    ["0.0.0.0/1", "128.0.0.0/1"],
    ["198.18.0.0/17", "198.18.128.0/17", "203.0.113.7"],
    [f"198.{second}.0.0/17" for second in (10, 20, 30)],  # which do not touch
]


@pytest.mark.parametrize("ranges", WIDE, ids=str)
def test_more_than_one_slash_16_may_not_try_to_log_in(ranges):
    with pytest.raises(UserError, match=r"addresses could try to log in; accepted: .* together at most 65536 addresses"):
        machine(ssh="public", sshSourceRanges=json.dumps(ranges))


@pytest.mark.parametrize("range_", [5, "::/0", "203.0.113.7/33", "::ffff:0:0/96", "2001:db8::/48", "203.0.113.7, 203.0.113.8"])
def test_what_is_no_ipv4_range_is_refused(range_):
    with pytest.raises(UserError, match=re.escape(f"{range_}: accepted: IPv4 ranges of your own")):
        machine(ssh="public", sshSourceRanges=json.dumps([range_]))


@pytest.mark.parametrize(
    ("range_", "accepted"),
    [
        ("203.0.113.7/24", ["203.0.113.0/24", "203.0.113.7/32"]),
        ("198.18.0.1/255.255.0.0", ["198.18.0.0/16", "198.18.0.1/32"]),
        ("10.1.2.3/8", ["10.1.2.3/32"]),  # the range around it would be refused
    ],
)
def test_a_range_with_an_address_in_it_is_refused_with_what_is_accepted(range_, accepted):
    with pytest.raises(UserError) as refusal:
        machine(ssh="public", sshSourceRanges=range_)

    named = re.findall(r"[0-9.]+/[0-9]+", str(refusal.value).rpartition("accepted: ")[2])
    assert named == accepted
    for each in named:
        assert [str(source) for source in machine(ssh="public", sshSourceRanges=each).ssh_source_ranges] == [each]


def test_what_the_refusal_of_wide_ranges_names_is_accepted():
    with pytest.raises(UserError) as refusal:
        machine(ssh="public")

    (range_,) = re.findall(r"[0-9.]+/32", str(refusal.value))
    assert machine(ssh="public", sshSourceRanges=range_)
    assert machine(ssh="public", sshSourceRanges="198.18.0.0/16")  # "one /16"
    assert machine(ssh="public", sshSourceRanges='["198.18.0.0/16", "198.18.7.0/24"]')  # an address in both counts once
    assert machine(ssh="iap")


def test_one_range_needs_no_brackets():
    assert [str(source) for source in machine(ssh="public", sshSourceRanges="203.0.113.7/32").ssh_source_ranges] == [
        "203.0.113.7/32"
    ]


@pytest.mark.parametrize("token", ["hf_" + "aB3" * 11, "0123456789abcdef0123456789abcdef01234567"])
def test_a_secret_in_place_of_its_name_is_refused_and_not_repeated(token):
    with pytest.raises(UserError, match="this looks like a secret itself") as refusal:
        read_settings("storage", STORAGE | {"incubator:secrets": f'["{token}"]'})

    assert token not in str(refusal.value)


def test_half_a_budget_is_refused():
    with pytest.raises(UserError, match="billingAccount and monthlyBudget only work together"):
        read_settings("storage", STORAGE | {"incubator:monthlyBudget": "100"})


@pytest.mark.parametrize("kind", ["", "vm", None])
def test_an_unknown_kind_is_refused(kind):
    with pytest.raises(UserError, match=re.escape("incubator:kind: ") + ".*" + re.escape("(accepted: storage, machine)")):
        read_settings("l4", {"gcp:project": "demo-project", "incubator:kind": kind})


@pytest.mark.parametrize("stack", ["L4", "my_l4", "l4.eu", "4l", "x" * 41, "l4-"])
def test_a_name_that_the_cloud_would_refuse_is_refused(stack):
    with pytest.raises(UserError, match="its name becomes part of names in the cloud"):
        read_settings(stack, MACHINE)


def test_a_project_that_is_none_is_refused():
    with pytest.raises(UserError, match=r"gcp:project: .*accepted: a GCP project id"):
        read_settings("l4", MACHINE | {"gcp:project": "My Project"})
