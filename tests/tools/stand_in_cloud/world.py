"""The cloud of the tests: one JSON file that the stand-in provider writes, and that the tests and the REST face read and edit.

The file is named by the environment variable STAND_IN_CLOUD. Every edit happens under a lock and replaces the file whole.

`resources` maps the id, as GCP writes it (projects/P/zones/Z/instances/N), to a record of
`type` (Pulumi's token), `id`, `inputs` (camelCase, as the program sent them), `outputs`, `created`, and for instances
`status` (RUNNING or TERMINATED). A boot disk that came with an instance is a record of its own, with `boot_of`.

`bucket_objects` maps the name of a bucket to its objects and their earlier versions, NAME#GENERATION, as
`gcloud storage ls --all-versions` prints them; a bucket with any of them cannot be deleted.

A fault is a dict: `on` (create, update, delete, read), `type` (a token, or "*"), `kind` (stock-out, quota, error, timeout, slow),
`times` (how often; default 1, a negative number is always), and optionally `zone`, `name`, `nth` (only the n-th call of that
sort, counted over all types from 1), `code` and `zones_available` (stock-out), `message` (error), `seconds` (slow).
"""

import contextlib
import copy
import datetime
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

VARIABLE = "STAND_IN_CLOUD"
INSTANCE, DISK = "gcp:compute/instance:Instance", "gcp:compute/disk:Disk"
IMAGE_PROJECT, IMAGE_FAMILY = "deeplearning-platform-release", "common-cu129-ubuntu-2204-nvidia-580"
SERVICES = (
    "billingbudgets",
    "cloudresourcemanager",
    "compute",
    "iam",
    "iap",
    "logging",
    "monitoring",
    "oslogin",
    "secretmanager",
    "serviceusage",
    "storage",
)
REGIONS = (
    *("us-central1", "us-east1", "us-east4", "us-east5", "us-south1", "us-west1", "us-west2", "us-west3", "us-west4"),
    *("northamerica-northeast1", "northamerica-northeast2", "southamerica-east1", "me-central2", "me-west1"),
    *("europe-west1", "europe-west2", "europe-west3", "europe-west4", "europe-west6", "europe-west9", "europe-north1"),
    *("asia-east1", "asia-east2", "asia-northeast1", "asia-northeast3", "asia-south1", "asia-southeast1"),
)
REGION_LIMITS = {
    "NVIDIA_L4_GPUS": 1,
    "PREEMPTIBLE_NVIDIA_L4_GPUS": 1,
    "COMMITTED_NVIDIA_L4_GPUS": 0,
    "CPUS": 72,
    "G2_CPUS": 0,
    "DISKS_TOTAL_GB": 4096,
    "SSD_TOTAL_GB": 500,
    "IN_USE_ADDRESSES": 8,
    "STATIC_ADDRESSES": 8,
    "INSTANCES": 24,
}
PROJECT_LIMITS = {"GPUS_ALL_REGIONS": 1, "NETWORKS": 5, "FIREWALLS": 100, "SNAPSHOTS": 1000, "IMAGES": 100, "CPUS_ALL_REGIONS": 32}

State = dict[str, Any]


class World:
    """One stand-in cloud."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: Path | str, project: str = "demo-project") -> Self:
        """A fresh cloud: one project with its APIs enabled, quota for one L4, and the deep-learning images."""
        world = cls(path)
        world._write(_fresh(project))
        return world

    @classmethod
    def of_environment(cls) -> Self:
        """The cloud that STAND_IN_CLOUD names."""
        return cls(os.environ[VARIABLE])

    def read(self) -> State:
        """What the cloud holds now; a copy. Needs no lock, as the file is always whole."""
        return json.loads(self.path.read_text())

    @contextlib.contextmanager
    def edit(self) -> Iterator[State]:
        """The state, to change; it is saved at the end, unless an exception comes first."""
        with self.path.with_name(f"{self.path.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.read()
            yield state
            self._write(state)

    def _write(self, state: State) -> None:
        temporary = self.path.with_name(f"{self.path.name}.new")
        temporary.write_text(json.dumps(state, indent=1))
        temporary.replace(self.path)


def now() -> str:
    """The time, as GCE writes it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def of_type(state: Mapping[str, Any], token: str) -> list[dict[str, Any]]:
    """The resources of one type."""
    return [resource for resource in state["resources"].values() if resource["type"] == token]


def l4_count(machine_type: str) -> int:
    """L4s that come with a machine type."""
    family, _, size = machine_type.rpartition("/")[2].rpartition("-")
    return {"24": 2, "48": 4, "96": 8}.get(size, 1) if family == "g2-standard" else 0


def is_spot(inputs: Mapping[str, Any]) -> bool:
    """Whether an instance may be taken away."""
    return (inputs.get("scheduling") or {}).get("provisioningModel") == "SPOT"


def usage(state: Mapping[str, Any], metric: str, region: str | None = None) -> float:
    """How much of a quota is used: the stored `usage` (others in the project) and what the resources here use."""
    scope = state["quotas"]["project"] if region is None else state["quotas"]["regions"].get(region, {})
    used = float(scope.get(metric, {}).get("usage", 0))
    running = [vm["inputs"] for vm in of_type(state, INSTANCE) if vm.get("status") == "RUNNING"]
    here = [vm for vm in running if region is None or vm["zone"].startswith(f"{region}-")]
    disks = [disk["inputs"] for disk in of_type(state, DISK) if region is None or disk["inputs"]["zone"].startswith(f"{region}-")]
    if metric == "GPUS_ALL_REGIONS":
        return used + sum(l4_count(vm["machineType"]) for vm in here)
    if metric in ("NVIDIA_L4_GPUS", "PREEMPTIBLE_NVIDIA_L4_GPUS"):
        wanted = metric.startswith("PREEMPTIBLE")
        return used + sum(l4_count(vm["machineType"]) for vm in here if is_spot(vm) == wanted)
    if metric == "SSD_TOTAL_GB":
        return used + sum(float(disk.get("size") or 10) for disk in disks if disk.get("type") in ("pd-ssd", "pd-balanced"))
    if metric == "IN_USE_ADDRESSES":
        return used + sum(bool(interface.get("accessConfigs")) for vm in here for interface in vm["networkInterfaces"])
    return used + (len(here) if metric == "INSTANCES" else 0)


def _fresh(project: str) -> State:
    limits = {metric: {"limit": limit, "usage": 0} for metric, limit in REGION_LIMITS.items()}
    images = [
        {"name": f"{IMAGE_FAMILY}-{version}", "family": IMAGE_FAMILY, "creationTimestamp": created, "diskSizeGb": 50}
        for version, created in (("v20260814", "2026-08-14T09:12:31.000-07:00"), ("v20260909", "2026-09-09T10:02:07.000-07:00"))
    ]
    return {
        "project": project,
        "project_number": "123456789012",
        "resources": {},
        "operations": [],
        "faults": [],
        "quotas": {
            "project": {metric: {"limit": limit, "usage": 0} for metric, limit in PROJECT_LIMITS.items()},
            "regions": {region: copy.deepcopy(limits) for region in REGIONS},
        },
        "services": [f"{name}.googleapis.com" for name in SERVICES],
        "images": {IMAGE_PROJECT: images},
        "credentials": True,
        "missing_permissions": [],
        "secrets": [],
        "taken_buckets": [],
        "bucket_objects": {},
        "calls": {},
        "log": [],
    }
