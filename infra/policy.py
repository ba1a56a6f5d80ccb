"""What no plan of ours may hold, as plain predicates over planned resources. `fab up` asks them before anything is created."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

BUCKET = "gcp:storage/bucket:Bucket"
DISK = "gcp:compute/disk:Disk"
FIREWALL = "gcp:compute/firewall:Firewall"
INSTANCE = "gcp:compute/instance:Instance"
SERVICE = "gcp:projects/service:Service"
LABELLED = frozenset({BUCKET, DISK, INSTANCE})
LABELS = frozenset({"project", "stack", "owner", "run"})
ROLES = frozenset({
    "roles/storage.objectUser", "roles/logging.logWriter", "roles/monitoring.metricWriter", "roles/secretmanager.secretAccessor",
})  # fmt: skip
DISK_TYPES = frozenset({"pd-ssd", "pd-balanced"})


@dataclass(frozen=True)
class Planned:
    """A resource as the engine is about to have it; `inputs` have the provider's camelCase names."""

    type: str
    name: str
    inputs: Mapping[str, Any]
    protect: bool = False


def violations(kind: str, ssh: str, planned: Iterable[Planned]) -> list[str]:
    """What is wrong with a plan, a sentence each; empty if nothing is.

    `kind` is that of the stack (storage or machine), `ssh` a machine's way in (iap or public).
    """
    found = []
    for resource in planned:
        for rule in RULES.get(resource.type, ()):
            found += [f"{resource.name}: {wrong}" for wrong in rule(resource)]
        if resource.type in LABELLED and (missing := LABELS - set(resource.inputs.get("labels") or {})):
            found.append(f"{resource.name}: no label {', '.join(sorted(missing))}")
        if (role := resource.inputs.get("role")) and role not in ROLES:
            found.append(f"{resource.name}: role {role} is broader than training needs")
        if kind == "machine" and (resource.protect or resource.type.startswith("gcp:storage/")):
            found.append(f"{resource.name}: a machine stack holds nothing protected, and nothing of the bucket")
        if kind == "machine" and ssh == "iap" and _has_external_address(resource):
            found.append(f"{resource.name}: an external address, with ssh: iap")
    return found


def _has_external_address(resource: Planned) -> bool:
    return any(interface.get("accessConfigs") for interface in resource.inputs.get("networkInterfaces") or [])


def _bucket(bucket: Planned) -> Iterator[str]:
    if bucket.inputs.get("uniformBucketLevelAccess") is not True or bucket.inputs.get("publicAccessPrevention") != "enforced":
        yield "could be made public"
    if bucket.inputs.get("forceDestroy") is not False or not bucket.protect:
        yield "could be deleted with what is in it"
    if (bucket.inputs.get("softDeletePolicy") or {}).get("retentionDurationSeconds") != 0:
        yield "deleted checkpoints would be paid for a week (soft delete)"
    actions = [rule["action"]["type"] for rule in bucket.inputs.get("lifecycleRules") or []]
    if "AbortIncompleteMultipartUpload" not in actions:
        yield "parts of broken uploads would stay"


def _disk(disk: Planned) -> Iterator[str]:
    if disk.inputs.get("type") not in DISK_TYPES:
        yield f"disk type {disk.inputs.get('type')}: the default is a slow one that g2 machines refuse"


def _firewall(rule: Planned) -> Iterator[str]:
    if any(int(source.rpartition("/")[2]) < 8 for source in rule.inputs.get("sourceRanges") or ["0.0.0.0/0"]):
        yield "lets the whole internet in"
    if [allow.get("ports") for allow in rule.inputs.get("allows") or []] != [["22"]]:
        yield "opens more than port 22"
    if not rule.inputs.get("targetTags"):
        yield "applies to every machine of the network"


def _instance(vm: Planned) -> Iterator[str]:
    scheduling = vm.inputs.get("scheduling") or {}
    if not (scheduling.get("maxRunDuration") or {}).get("seconds"):
        yield "nothing ends it (maxRunDuration)"
    if scheduling.get("instanceTerminationAction") not in ("STOP", "DELETE"):
        yield "what happens at its end is not said (instanceTerminationAction)"
    if scheduling.get("onHostMaintenance") != "TERMINATE":
        yield "a GPU cannot move to another host (onHostMaintenance)"
    if (vm.inputs.get("serviceAccount") or {}).get("email", "") in ("", "default"):
        yield "runs as the project's default account"
    boot = (vm.inputs.get("bootDisk") or {}).get("initializeParams") or {}
    if boot.get("type") not in DISK_TYPES:
        yield f"disk type {boot.get('type')} of the boot disk"
    if LABELS - set(boot.get("labels") or {}):
        yield "the boot disk has no labels: a sweep would not see it"
    for key in ("guestAccelerators", "metadataStartupScript"):
        if vm.inputs.get(key):
            yield f"{key} would replace the VM at the wrong moment"
    if any(disk.get("deviceName") is None for disk in vm.inputs.get("attachedDisks") or []):
        yield "a disk without a device name cannot be found on the machine"


def _service(service: Planned) -> Iterator[str]:
    if service.inputs.get("disableOnDestroy") is not False:
        yield "would take an API from everyone in the project on destroy"


RULES: dict[str, tuple[Callable[[Planned], Iterator[str]], ...]] = {
    BUCKET: (_bucket,),
    DISK: (_disk,),
    FIREWALL: (_firewall,),
    INSTANCE: (_instance,),
    SERVICE: (_service,),
}
