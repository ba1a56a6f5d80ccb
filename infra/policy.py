"""What no stack may declare, as plain rules over one resource; `infra/guard.py` applies them inside the program."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

from infra.machine_types import has_gpu
from infra.ssh_ranges import ACCEPTED, MOST_ADDRESSES, address_count
from infra.stack_config import BUCKET_LABEL, STACK_LABEL

ACCOUNT = "gcp:serviceaccount/account:Account"
BUCKET = "gcp:storage/bucket:Bucket"
BUCKET_GRANT = "gcp:storage/bucketIAMMember:BucketIAMMember"
BUDGET = "gcp:billing/budget:Budget"
DISK = "gcp:compute/disk:Disk"
FIREWALL = "gcp:compute/firewall:Firewall"
INSTANCE = "gcp:compute/instance:Instance"
PROJECT_GRANT = "gcp:projects/iAMMember:IAMMember"
SECRET_GRANT = "gcp:secretmanager/secretIamMember:SecretIamMember"
SERVICE = "gcp:projects/service:Service"
LABELLED = frozenset({BUCKET, DISK, INSTANCE})
LABELS = frozenset({BUCKET_LABEL, STACK_LABEL, "owner", "run"})
# What each kind of stack is made of. Another type (a key of the account, metadata of the whole project, a policy in place of a
# grant) has no rule, so it is refused until one is written.
STORAGE_TYPES = frozenset({
    ACCOUNT, BUCKET, BUCKET_GRANT, BUDGET, PROJECT_GRANT, SECRET_GRANT, SERVICE,
})  # fmt: skip
MACHINE_TYPES = frozenset({
    DISK, FIREWALL, INSTANCE, "gcp:compute/network:Network", "gcp:compute/router:Router", "gcp:compute/routerNat:RouterNat",
    "gcp:compute/subnetwork:Subnetwork",
})  # fmt: skip
# What training may do, and on what: the same role on the project would reach every bucket and every secret of it.
ROLES = {
    BUCKET_GRANT: frozenset({"roles/storage.objectViewer", "roles/storage.objectUser"}),
    PROJECT_GRANT: frozenset({"roles/logging.logWriter", "roles/monitoring.metricWriter"}),
    SECRET_GRANT: frozenset({"roles/secretmanager.secretAccessor"}),
}
DISK_TYPES = frozenset({"pd-ssd", "pd-balanced"})
NOT_KNOWN = "known only when it exists"
MAPS = frozenset({"labels", "metadata"})
"""Inputs whose keys are the user's own words."""


@dataclass(frozen=True)
class Planned:
    """A resource as the engine is about to have it; `inputs` have the provider's camelCase names."""

    type: str
    name: str
    inputs: Mapping[str, Any]
    protect: bool = False


def violations(kind: str, ssh: str, resource: Planned) -> list[str]:
    """What is wrong with a resource, a sentence each; empty if nothing is.

    `kind` is that of the stack (storage or machine), `ssh` how a machine is reached (iap or public).
    """
    found = [f"{resource.name}: {wrong}" for wrong in RULES.get(resource.type, _nothing)(resource)]
    if kind == "machine" and (resource.protect or resource.type in STORAGE_TYPES):
        found.append(f"{resource.name}: a machine stack holds nothing protected, and nothing of storage")
    elif resource.type.startswith("gcp:") and resource.type not in STORAGE_TYPES | MACHINE_TYPES:
        accepted = ", ".join(sorted(type_.rpartition(":")[2] for type_ in (STORAGE_TYPES if kind == "storage" else MACHINE_TYPES)))
        found.append(f"{resource.name}: no rule judges a {resource.type} (accepted: {accepted}; or write its rule)")
    if resource.type in LABELLED and (missing := LABELS - _keys(resource.inputs, "labels")):
        found.append(f"{resource.name}: no label {', '.join(sorted(missing))}: neither a bill nor a sweep would know whose it is")
    if ssh == "iap" and any(interface.get("accessConfigs") for interface in _blocks(resource.inputs, "networkInterfaces")):
        found.append(f"{resource.name}: an external address with ssh: iap (accepted: no accessConfigs, or ssh: public)")
    return found


def _nothing(resource: Planned) -> Iterator[str]:
    yield from ()


def _block(inputs: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = inputs.get(key)
    return found if isinstance(found, Mapping) else {}


def _blocks(inputs: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The blocks of a list; one that is not known yet says nothing, so a rule that wants something of it fails."""
    found = inputs.get(key)
    return [block if isinstance(block, Mapping) else {} for block in found] if isinstance(found, list) else []


def _keys(inputs: Mapping[str, Any], key: str) -> set[str]:
    return set(_block(inputs, key))


def _bucket(bucket: Planned) -> Iterator[str]:
    inputs = bucket.inputs
    if inputs.get("uniformBucketLevelAccess") is not True or inputs.get("publicAccessPrevention") != "enforced":
        yield "could be made public (accepted: uniformBucketLevelAccess: true, publicAccessPrevention: enforced)"
    if inputs.get("forceDestroy") is not False or not bucket.protect:
        yield "could be deleted with what is in it (accepted: forceDestroy: false, protected)"
    if _block(inputs, "softDeletePolicy").get("retentionDurationSeconds") != 0:
        yield "deleted checkpoints would be paid for a week (accepted: softDeletePolicy.retentionDurationSeconds: 0)"
    if _block(inputs, "versioning").get("enabled") is not True:
        yield "what is deleted or overwritten could not be restored (accepted: versioning.enabled: true)"
    rules = [(_block(rule, "action").get("type"), _block(rule, "condition")) for rule in _blocks(inputs, "lifecycleRules")]
    yield from _lifecycle([action for action, _ in rules], [condition for action, condition in rules if action == "Delete"])


def _lifecycle(actions: list[Any], deletes: list[Mapping[str, Any]]) -> Iterator[str]:
    """What is live is deleted by age only where both ends of its name are given: `runs/`, and a checkpoint's file."""
    earlier = [condition for condition in deletes if condition.get("withState") == "ARCHIVED"]
    if "AbortIncompleteMultipartUpload" not in actions:
        yield "parts of broken uploads would stay (accepted: a lifecycle rule AbortIncompleteMultipartUpload)"
    if not all(
        condition.get("age") and condition.get("matchesPrefixes") and condition.get("matchesSuffixes")
        for condition in deletes
        if condition not in earlier
    ):
        yield "a lifecycle rule would delete results (accepted: withState: ARCHIVED; or age, matchesPrefixes and matchesSuffixes)"
    if not all(condition.get("daysSinceNoncurrentTime") for condition in earlier):
        yield "earlier versions would go before they are missed (accepted: daysSinceNoncurrentTime of at least 1)"
    if not any(not condition.get("matchesPrefixes") and not condition.get("matchesSuffixes") for condition in earlier):
        yield "earlier versions would be paid for ever (accepted: a lifecycle rule Delete, withState: ARCHIVED, for all names)"


def _disk(disk: Planned) -> Iterator[str]:
    if disk.inputs.get("type") not in DISK_TYPES:
        yield f"disk type {disk.inputs.get('type')}: g2 machines refuse the slow default (accepted: {_list(DISK_TYPES)})"


def _firewall(rule: Planned) -> Iterator[str]:
    ranges = rule.inputs.get("sourceRanges") or ["0.0.0.0/0"]
    try:
        count = address_count([IPv4Network(source) for source in ranges])
    except ValueError:  # IPv6, which the network has not, or not known yet
        count = 2**32
    if count > MOST_ADDRESSES:
        yield f"lets in {', '.join(ranges) if isinstance(ranges, list) else ranges} (accepted: {ACCEPTED})"
    if [(allow.get("protocol"), allow.get("ports")) for allow in _blocks(rule.inputs, "allows")] != [("tcp", ["22"])]:
        yield "opens more than port 22 (accepted: one block allows, tcp 22)"
    if not rule.inputs.get("targetTags"):
        yield "applies to every machine of the network (accepted: targetTags)"


def _instance(vm: Planned) -> Iterator[str]:
    yield from _scheduling(_block(vm.inputs, "scheduling"), str(vm.inputs.get("machineType")))
    if _block(vm.inputs, "serviceAccount").get("email", "") in ("", "default"):
        yield "runs as the project's default account, which may edit the whole project (accepted: the account of the storage stack)"
    boot = _block(_block(vm.inputs, "bootDisk"), "initializeParams")
    if boot.get("type") not in DISK_TYPES:
        yield f"disk type {boot.get('type')} of the boot disk (accepted: {_list(DISK_TYPES)})"
    if LABELS - _keys(boot, "labels"):
        yield "the boot disk has no labels: a sweep would not see it"
    for key in ("guestAccelerators", "metadataStartupScript"):
        if vm.inputs.get(key):
            yield f"{key} would replace the VM at the wrong moment (accepted: the GPU of the machine type, metadata.startup-script)"
    if any(disk.get("deviceName") is None for disk in _blocks(vm.inputs, "attachedDisks")):
        yield "a disk without a device name cannot be found on the machine"
    metadata = _block(vm.inputs, "metadata")
    if str(metadata.get("block-project-ssh-keys")).upper() != "TRUE":
        yield "SSH keys of the whole project would open it (accepted: metadata block-project-ssh-keys: TRUE)"
    if str(metadata.get("serial-port-enable", "FALSE")).upper() not in ("FALSE", "0"):
        yield "its serial port would be a console that no firewall rule guards (accepted: no metadata serial-port-enable)"


def _scheduling(scheduling: Mapping[str, Any], machine_type: str) -> Iterator[str]:
    if not _block(scheduling, "maxRunDuration").get("seconds"):
        yield "nothing ends it (accepted: scheduling.maxRunDuration)"
    if scheduling.get("instanceTerminationAction") not in ("STOP", "DELETE"):
        yield "what happens at its end is not set (accepted: scheduling.instanceTerminationAction STOP or DELETE)"
    maintenance, spot = scheduling.get("onHostMaintenance"), scheduling.get("provisioningModel") == "SPOT"
    if has_gpu(machine_type) and maintenance != "TERMINATE":
        yield "a GPU cannot move to another host (accepted: scheduling.onHostMaintenance TERMINATE)"
    elif spot and maintenance != "TERMINATE":
        yield "a Spot VM does not move to another host (accepted: scheduling.onHostMaintenance TERMINATE)"
    elif not spot and not has_gpu(machine_type) and maintenance != "MIGRATE":
        yield "without a GPU it would stop for maintenance, which e2 cannot (accepted: scheduling.onHostMaintenance MIGRATE)"


def _service(service: Planned) -> Iterator[str]:
    if service.inputs.get("disableOnDestroy") is not False:
        yield "would take an API from everyone in the project on destroy (accepted: disableOnDestroy: false)"


def _grant(grant: Planned) -> Iterator[str]:
    role, member = grant.inputs.get("role"), grant.inputs.get("member")
    if role not in ROLES[grant.type]:
        yield f"role {role} is broader than training needs (accepted on it: {_list(ROLES[grant.type])})"
    if role == "roles/storage.objectUser" and not _block(grant.inputs, "condition").get("expression"):
        yield "every machine could delete data/ (accepted: a condition on resource.name, below runs/)"
    if member != NOT_KNOWN and not str(member).startswith("serviceAccount:"):
        yield f"{member} is not the account of training (accepted: serviceAccount:EMAIL)"


def _list(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


RULES: dict[str, Callable[[Planned], Iterator[str]]] = {
    BUCKET: _bucket,
    DISK: _disk,
    FIREWALL: _firewall,
    INSTANCE: _instance,
    SERVICE: _service,
    BUCKET_GRANT: _grant,
    PROJECT_GRANT: _grant,
    SECRET_GRANT: _grant,
}
