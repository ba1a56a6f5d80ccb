from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.findings import Findings
from infra.gcloud import NotFound
from infra.preflight import _judge_image, _judge_region, image_family, preflight
from infra.stack_config import IMAGE, IMAGE_FAMILY, IMAGE_PROJECT, MachineSettings, StorageSettings
from tests.tools.stand_in_cloud.by_hand import put_machine
from tests.tools.stand_in_cloud.rest import ZONES, Rest, served
from training.errors import RunError, UserError

STORAGE = StorageSettings.model_validate({"project": "demo-project", "location": "us-central1"})
NOT_COMPARED = (
    "warning: accounts: whether Pulumi's is the same is not known: gcloud is told to send no credentials (auth/disable_credentials)"
)
NEWER = {"name": f"{IMAGE_FAMILY}-v20261101", "diskSizeGb": "50"}


def _machine(**told: Any) -> MachineSettings:
    return MachineSettings.model_validate({"project": "demo-project", **told})


def _obstacles(settings: MachineSettings | StorageSettings, stack: str = "l4") -> list[str]:
    """Each obstacle of a refusal, without its number."""
    with pytest.raises(UserError) as refusal:
        preflight(settings, stack)
    head, *rest = str(refusal.value).split("\n")
    assert head == f"stack {stack} cannot be brought up yet in project {settings.project}; nothing was created:"
    return [text.strip() for text in "\n".join(rest).replace("\n   ", " ").split("\n")]


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rest]:
    monkeypatch.setattr("infra.preflight.told_by", lambda _: {"incubator:location": "us-central1"})
    with served(tmp_path, monkeypatch) as rest:
        yield rest


def test_a_machine_with_nothing_in_its_way_is_told_line_by_line(cloud):
    assert preflight(_machine(), "l4") == [
        "Pulumi's credentials: GOOGLE_OAUTH_ACCESS_TOKEN",
        NOT_COMPARED,
        "APIs: compute, iam, logging, monitoring, storage, iap, oslogin are enabled",
        "permissions: all 14 granted",
        "region: the machine and the bucket are both in us-central1",
        "quota CPUS_ALL_REGIONS (all regions): 8 needed, 32 free",
        "quota GPUS_ALL_REGIONS (all regions): 1 needed, 1 free",
        "quota SSD_TOTAL_GB in us-central1: 450 needed, 500 free",
        "quota NVIDIA_L4_GPUS in us-central1: 1 needed, 1 free",
        "machine type: g2-standard-8 is offered in us-central1-a",
        f"image: {IMAGE}",
    ]
    assert {method for method, _, _ in cloud.seen if method != "GET"} == {"POST"}  # testIamPermissions: nothing is changed


def test_a_machine_that_runs_is_not_asked_for_twice(cloud):
    with cloud.world.edit() as state:
        put_machine(state)

    assert "quota GPUS_ALL_REGIONS (all regions): 1 needed, 1 free" in preflight(_machine(), "l4")
    assert [obstacle.split()[2] for obstacle in _obstacles(_machine(), "other")] == [
        "GPUS_ALL_REGIONS",
        "SSD_TOTAL_GB",
        "NVIDIA_L4_GPUS",
    ]


def test_every_obstacle_comes_at_once_with_its_next_step(cloud, monkeypatch):
    monkeypatch.delenv("GOOGLE_OAUTH_ACCESS_TOKEN")
    with cloud.world.edit() as state:
        state["quotas"]["project"]["GPUS_ALL_REGIONS"]["limit"] = 0
        state["services"] = [
            "compute.googleapis.com",
            "serviceusage.googleapis.com",
            "storage.googleapis.com",
            "iam.googleapis.com",
        ]
        state["images"] = {}
        state["machine_types_missing"] = {"us-central1-a": ["g2-standard-8"]}
    adc = cloud.config / "application_default_credentials.json"
    quotas = "https://console.cloud.google.com/iam-admin/quotas?project=demo-project"

    assert _obstacles(_machine()) == [
        f"1. Pulumi has no credentials: {adc} is not there (the login of gcloud itself is another) "
        "next: gcloud auth application-default login",
        "2. APIs: not enabled: logging (where its log goes); monitoring (where its metrics go); "
        "iap (SSH without an external address); oslogin (SSH with a Google account) next: gcloud services enable "
        "logging.googleapis.com monitoring.googleapis.com iap.googleapis.com oslogin.googleapis.com --project demo-project "
        "(pulumi up --stack storage does it too)",
        "3. quota GPUS_ALL_REGIONS (all regions): 1 needed for 1 L4 of g2-standard-8, limit 0, 0 in use otherwise next: ask for "
        f"GPUS_ALL_REGIONS (all regions) = 1: {quotas} (new projects often have GPUS_ALL_REGIONS = 0; trial accounts get no GPU "
        "until they are upgraded)",
        "4. incubator:machineType: g2-standard-8: not offered in us-central1-a (Google has it in us-central1-b, us-central1-c, "
        f"asia-east1-a, asia-east1-b, asia-east1-c, asia-east2-a and {len(ZONES) - 7} more) "
        "next: pulumi config set incubator:zone us-central1-b --stack l4",
        f"5. incubator:image: {IMAGE} of {IMAGE_PROJECT}: not there, and so is its family next: choose one of: gcloud compute "
        f"images list --project {IMAGE_PROJECT} --no-standard-images --format='value(family)'",
    ]


def test_a_zone_and_a_machine_type_newer_than_our_tables_are_googles_to_know(cloud):
    newer = {"guestCpus": 48, "accelerators": [{"guestAcceleratorType": "nvidia-rtx-pro-6000", "guestAcceleratorCount": 1}]}
    with cloud.world.edit() as state:
        state["newer_zones"], state["newer_machine_types"] = ["us-central1-ai1b"], {"g4-standard-48": newer}
        state["quotas"]["project"]["CPUS_ALL_REGIONS"]["limit"] = 64
    stack = {"machineType": "g4-standard-48", "zone": "us-central1-ai1b"}

    lines = preflight(_machine(**stack), "l4")

    assert "machine type: g4-standard-48 is offered in us-central1-ai1b" in lines
    assert f"zone: us-central1-ai1b is one of Google's {len(ZONES) + 1}" in lines
    assert "quota CPUS_ALL_REGIONS (all regions): 48 needed, 64 free" in lines
    assert "quota NVIDIA_RTX_PRO_6000_GPUS in us-central1: Google does not report it, not checked" in lines
    assert (
        "warning: price: not known here for g4-standard-48 in us-central1-ai1b; to set it: "
        "pulumi config set incubator:usdPerHour DOLLARS --stack l4"
    ) in lines
    assert not [line for line in preflight(_machine(**stack, usdPerHour=2.5), "l4") if "price" in line]


def test_a_zone_and_a_machine_type_that_google_lacks_are_refused_with_the_nearest(cloud):
    assert _obstacles(_machine(zone="us-central1-x")) == [
        "1. incubator:zone: us-central1-x: Google has no such zone (nearest: us-central1-a, us-central1-b, us-central1-c) "
        "next: pulumi config set incubator:zone us-central1-a --stack l4"
    ]
    (refused,) = _obstacles(_machine(machineType="g2-standard-9"))
    assert refused.startswith(
        "1. incubator:machineType: g2-standard-9: not offered in us-central1-a, nor elsewhere (nearest there: g2-"
    )
    (far,) = _obstacles(_machine(machineType="z9-quantum-1q"))
    assert far == (
        "1. incubator:machineType: z9-quantum-1q: not offered in us-central1-a, nor elsewhere next: choose one of: "
        "gcloud compute machine-types list --zones=us-central1-a --project=demo-project"
    )


def test_without_the_compute_api_only_the_apis_are_told(cloud):
    with cloud.world.edit() as state:
        state["services"].remove("compute.googleapis.com")

    assert _obstacles(_machine()) == [
        "1. APIs: not enabled: compute (the VM, its disks and network) next: gcloud services enable compute.googleapis.com "
        "--project demo-project (pulumi up --stack storage does it too)"
    ]


def test_a_storage_stack_needs_only_what_it_cannot_enable_itself(cloud):
    with cloud.world.edit() as state:
        state["services"] = ["serviceusage.googleapis.com", "cloudresourcemanager.googleapis.com"]

    assert preflight(STORAGE, "storage") == [
        "Pulumi's credentials: GOOGLE_OAUTH_ACCESS_TOKEN",
        NOT_COMPARED,
        "APIs: serviceusage, cloudresourcemanager are enabled",
        "permissions: all 4 granted",
    ]


def test_a_project_without_the_api_that_lists_apis_is_told_to_enable_it(cloud):
    with cloud.world.edit() as state:
        state["services"] = []

    assert _obstacles(STORAGE, "storage") == [
        "1. APIs: not enabled: serviceusage (with it the stack enables the others) "
        "next: gcloud services enable serviceusage.googleapis.com --project demo-project"
    ]


def test_missing_permissions_are_obstacles(cloud):
    with cloud.world.edit() as state:
        state["missing_permissions"] = ["storage.buckets.create", "resourcemanager.projects.setIamPolicy"]

    assert [obstacle.rpartition("--role=")[2] for obstacle in _obstacles(STORAGE, "storage")] == [
        "roles/storage.admin",
        "roles/resourcemanager.projectIamAdmin",
    ]


def test_what_may_not_be_looked_at_is_an_obstacle_and_not_passed_over(cloud):
    with cloud.world.edit() as state:
        state["missing_permissions"] = ["compute.regions.get", "compute.disks.list"]

    (obstacle,) = _obstacles(_machine())
    assert obstacle.startswith("1. not known: region, disks: gcloud compute regions describe us-central1 --project=demo-project: ")
    assert obstacle.endswith("--role=roles/compute.viewer")


@pytest.mark.parametrize("settings", [_machine(project="other-project"), STORAGE.model_copy(update={"project": "other-project"})])
def test_a_project_that_is_not_there_is_one_obstacle(cloud, settings):
    (obstacle,) = _obstacles(settings)

    assert "other-project" in obstacle
    assert "next: gcloud projects list shows your projects" in obstacle


def test_without_a_login_nothing_else_is_told(cloud, monkeypatch):
    monkeypatch.delenv("CLOUDSDK_AUTH_DISABLE_CREDENTIALS")

    assert _obstacles(_machine()) == [
        "1. gcloud is not logged in, or its login has expired; run: gcloud auth login (and, for Pulumi: gcloud auth "
        "application-default login)"
    ]


def test_without_a_network_it_fails_instead_of_refusing(cloud, monkeypatch):
    monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", "http://127.0.0.1:9/compute/v1/")

    with pytest.raises(RunError, match="Google cannot be reached"):
        preflight(_machine(), "l4")


def test_a_family_is_a_name_without_its_date():
    assert image_family(IMAGE) == IMAGE_FAMILY
    assert image_family(f"family/{IMAGE_FAMILY}") == IMAGE_FAMILY
    assert image_family("my-image") == "my-image"


def _image(asked: dict[str, Any], exists: bool = False, **told: Any) -> Findings:
    findings = Findings("demo-project", "l4")
    _judge_image(findings, _machine(**told), asked, exists)
    return findings


def test_an_image_that_is_gone_names_the_newest_of_its_family():
    findings = _image({"image": NotFound("gone"), "newest image": NEWER})

    assert findings.obstacles == [
        f"incubator:image: {IMAGE} of {IMAGE_PROJECT}: not there; the newest of its family is\n"
        f"   next: pulumi config set incubator:image {NEWER['name']} --stack l4"
    ]


def test_an_obsolete_image_makes_no_new_machine_but_keeps_an_old_one():
    asked = {"image": {"name": IMAGE, "deprecated": {"state": "OBSOLETE"}}, "newest image": NEWER}

    assert f"{IMAGE_PROJECT}: obsolete; the newest of its family is" in _image(asked).obstacles[0]
    assert _image(asked, exists=True).obstacles == []
    assert _image(asked, exists=True).lines == [
        f"image: {IMAGE}: obsolete; the machine that stands does not need it, the next one will"
    ]


def test_a_deprecated_image_still_serves_and_a_newer_one_is_named():
    asked = {"image": {"name": IMAGE, "deprecated": {"state": "DEPRECATED"}}, "newest image": NEWER}

    assert _image(asked).obstacles == []
    assert _image(asked).lines == [
        f"image: {IMAGE} (deprecated: it will go)",
        f"image: a newer one is there, for the next machine: pulumi config set incubator:image {NEWER['name']} --stack l4",
    ]


def test_a_family_is_taken_as_it_is():
    assert _image({"newest image": NEWER}, image=f"family/{IMAGE_FAMILY}").lines == [f"image: {NEWER['name']}"]


def test_a_boot_disk_smaller_than_its_image_is_an_obstacle():
    asked = {"image": {"name": IMAGE, "diskSizeGb": "50"}, "newest image": {"name": IMAGE}}

    assert _image(asked, bootDiskGib=49).obstacles == [
        "incubator:bootDiskGib: 49: the image has 50 GiB\n   next: pulumi config set incubator:bootDiskGib 50 --stack l4"
    ]
    assert _image(asked, bootDiskGib=50).obstacles == []


def test_a_machine_far_from_its_bucket_is_an_obstacle_unless_the_traffic_is_meant(monkeypatch):
    monkeypatch.setattr("infra.preflight.told_by", lambda _: {"incubator:location": "europe-west4"})
    far, meant = Findings("demo-project", "l4"), Findings("demo-project", "l4")

    _judge_region(far, _machine())
    _judge_region(meant, _machine(otherRegions=True))

    assert far.obstacles == [
        "incubator:zone: us-central1-a: the bucket of stack storage is in europe-west4\n"
        "   next: pulumi config set incubator:zone europe-west4-a --stack l4\n"
        "   or, and pay for the traffic: pulumi config set incubator:otherRegions true --stack l4"
    ]
    assert meant.obstacles == []
    assert meant.lines == ["region: the machine in us-central1, the bucket in europe-west4: the traffic between them is billed"]


def test_what_google_answers_is_escaped():
    findings = Findings("demo-project", "l4")

    findings.fine("image: a\x1b[2Jb")

    assert findings.lines == [r"image: a\x1b[2Jb"]
