"""The rules of the types that the programs use: what they are called, what replaces them, what their values may be.

What makes a new resource, what needs a stopped VM and what stays when it is no longer named: provider_rules.toml, with sources.
"""

import ipaddress
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tools.stand_in_cloud import signatures
from tests.tools.stand_in_cloud.differences import GONE, UNKNOWN, contains_unknown, differences
from tests.tools.stand_in_cloud.world import DISK, INSTANCE

Values = dict[str, Any]
PROVIDER = "pulumi:providers:gcp"
BUCKET = "gcp:storage/bucket:Bucket"
NETWORK, SUBNETWORK = "gcp:compute/network:Network", "gcp:compute/subnetwork:Subnetwork"
FIREWALL, ROUTER, NAT = "gcp:compute/firewall:Firewall", "gcp:compute/router:Router", "gcp:compute/routerNat:RouterNat"
SERVICE, ACCOUNT = "gcp:projects/service:Service", "gcp:serviceaccount/account:Account"
BUCKET_GRANT, PROJECT_GRANT = "gcp:storage/bucketIAMMember:BucketIAMMember", "gcp:projects/iAMMember:IAMMember"
SECRET_GRANT, BUDGET = "gcp:secretmanager/secretIamMember:SecretIamMember", "gcp:billing/budget:Budget"
COMPUTE_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
DISK_TYPES = (
    "pd-standard",
    "pd-balanced",
    "pd-ssd",
    "pd-extreme",
    "hyperdisk-balanced",
    "hyperdisk-extreme",
    "hyperdisk-throughput",
)
RECORDED = tomllib.loads(Path(__file__).with_name("provider_rules.toml").read_text())


@dataclass(frozen=True)
class Kind:
    """One type of resource."""

    called: str
    """What the real provider's errors call it."""
    api: str
    id: str
    """How its id is made from its inputs and what is computed (project, uuid)."""
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    name: re.Pattern[str] | None = None
    computed: tuple[str, ...] = ()
    """Outputs that a preview does not know."""

    @property
    def collection(self) -> str:
        """What the API calls many of them, as in projects/P/zones/Z/instances."""
        return self.id.rpartition("/")[0].rpartition("/")[2]


def _paths(text: str) -> tuple[str, ...]:
    return tuple(text.split())


KINDS = {
    INSTANCE: Kind(
        "instance",
        "compute",
        "projects/{project}/zones/{zone}/instances/{name}",
        values={
            "bootDisk.initializeParams.type": DISK_TYPES,
            "bootDisk.mode": ("READ_WRITE", "READ_ONLY"),
            "attachedDisks.mode": ("READ_WRITE", "READ_ONLY"),
            "networkInterfaces.accessConfigs.networkTier": ("PREMIUM", "STANDARD", "FIXED_STANDARD"),
            "scheduling.provisioningModel": ("STANDARD", "SPOT", "FLEX_START", "RESERVATION_BOUND"),
            "scheduling.onHostMaintenance": ("MIGRATE", "TERMINATE"),
            "scheduling.instanceTerminationAction": ("STOP", "DELETE"),
            "desiredStatus": ("RUNNING", "SUSPENDED", "TERMINATED"),
            "reservationAffinity.type": ("ANY_RESERVATION", "SPECIFIC_RESERVATION", "NO_RESERVATION"),
        },
        name=COMPUTE_NAME,
        computed=_paths("""
            instanceId selfLink cpuPlatform currentStatus creationTimestamp metadataFingerprint tagsFingerprint
        """),
    ),
    DISK: Kind(
        "Disk",
        "compute",
        "projects/{project}/zones/{zone}/disks/{name}",
        values={"type": DISK_TYPES},
        name=COMPUTE_NAME,
        computed=("diskId", "selfLink", "creationTimestamp", "labelFingerprint"),
    ),
    NETWORK: Kind(
        "Network",
        "compute",
        "projects/{project}/global/networks/{name}",
        values={"routingMode": ("REGIONAL", "GLOBAL")},
        name=COMPUTE_NAME,
        computed=("selfLink", "gatewayIpv4", "networkId", "numericId"),
    ),
    SUBNETWORK: Kind(
        "Subnetwork",
        "compute",
        "projects/{project}/regions/{region}/subnetworks/{name}",
        name=COMPUTE_NAME,
        computed=("selfLink", "gatewayAddress", "creationTimestamp", "fingerprint", "subnetworkId"),
    ),
    FIREWALL: Kind(
        "Firewall",
        "compute",
        "projects/{project}/global/firewalls/{name}",
        values={"direction": ("INGRESS", "EGRESS")},
        name=COMPUTE_NAME,
        computed=("selfLink", "creationTimestamp"),
    ),
    ROUTER: Kind(
        "Router",
        "compute",
        "projects/{project}/regions/{region}/routers/{name}",
        name=COMPUTE_NAME,
        computed=("selfLink", "creationTimestamp"),
    ),
    NAT: Kind(
        "RouterNat",
        "compute",
        "{project}/{region}/{router}/{name}",
        values={
            "natIpAllocateOption": ("AUTO_ONLY", "MANUAL_ONLY"),
            "sourceSubnetworkIpRangesToNat": (
                "ALL_SUBNETWORKS_ALL_IP_RANGES",
                "ALL_SUBNETWORKS_ALL_PRIMARY_IP_RANGES",
                "LIST_OF_SUBNETWORKS",
            ),
        },
        name=COMPUTE_NAME,
    ),
    BUCKET: Kind(
        "Bucket",
        "storage",
        "{name}",
        values={
            "publicAccessPrevention": ("enforced", "inherited"),
            "lifecycleRules.condition.withState": ("LIVE", "ARCHIVED", "ANY", ""),
        },
        name=re.compile(r"[a-z0-9][-_.a-z0-9]{1,61}[a-z0-9]"),
        computed=("selfLink", "url", "projectNumber", "timeCreated", "updated"),
    ),
    SERVICE: Kind("Service", "serviceusage", "{project}/{service}"),
    ACCOUNT: Kind(
        "service account",
        "iam",
        "projects/{project}/serviceAccounts/{email}",
        name=re.compile(r"[a-z]([-a-z0-9]{4,28}[a-z0-9])"),
        computed=("uniqueId",),
    ),
    BUCKET_GRANT: Kind("bucket IAM member", "storage", "b/{bucket}/{role}/{member}", computed=("etag",)),
    PROJECT_GRANT: Kind("project IAM member", "cloudresourcemanager", "{project}/{role}/{member}", computed=("etag",)),
    SECRET_GRANT: Kind(
        "secret IAM member",
        "secretmanager",
        "projects/{project}/secrets/{secretId}/{role}/{member}",
        computed=("etag",),
    ),
    BUDGET: Kind(
        "Budget",
        "billingbudgets",
        "billingAccounts/{billingAccount}/budgets/{uuid}",
        computed=("name",),
    ),
}


def recorded(token: str, what: str) -> tuple[str, ...]:
    """The paths (without list positions) that are recorded for a type: what `replaces`, `stops` or `keeps`.

    What stands under such a path is meant too.
    """
    return tuple(RECORDED[token].get(what, {}))


def id_of(token: str, filled: Mapping[str, Any]) -> str:
    """The id of a resource; that of a grant with a condition ends with its title."""
    return "/".join((KINDS[token].id.format_map(filled), *filter(None, [(filled.get("condition") or {}).get("title")])))


def bare(path: str) -> str:
    """A path without list positions."""
    return re.sub(r"\[\d+\]", "", path)


def touches(path: str, watched: tuple[str, ...]) -> bool:
    """Whether a change at a path is a change of something that is watched: there, below, or (a whole block) above."""
    return _within(path, watched) or any(name.startswith(f"{bare(path)}.") for name in watched)


def _within(path: str, blocks: tuple[str, ...]) -> bool:
    at = bare(path)
    return any(not name or at == name or at.startswith(f"{name}.") for name in blocks)


def changes(token: str, old: Values, new: Values) -> dict[str, str]:
    """Path to what happened there, as `differences`; what keeps its value when it is no longer named is no change."""
    kept = recorded(token, "keeps")
    return {
        path: change
        for path, change in differences(old, new).items()
        if change != GONE or not _within(path, kept) or _is_named(path, new)
    }


def _is_named(path: str, inputs: Values) -> bool:
    """Whether a program says something at a path, be it only False."""
    return any(where == path and value is not None for where, value in _at(inputs, bare(path).split("."), ""))


def replaces(token: str, path: str, old: Values, new: Values) -> bool:
    """Whether a change at a path needs a new resource."""
    if touches(path, recorded(token, "replaces")):
        return True
    if token == DISK and path == "size":
        return contains_unknown(new["size"]) or new["size"] < old["size"] if "size" in new and "size" in old else False
    if token == SUBNETWORK and path == "ipCidrRange":
        return not _contains(new.get("ipCidrRange"), old.get("ipCidrRange"))
    # An address may change only together with the network.
    moved = (path.replace("networkIp", "subnetwork"), path.replace("networkIp", "network"))
    return path.endswith(".networkIp") and not any(there in differences(old, new) for there in moved)


def _contains(wider: Any, narrower: Any) -> bool:
    try:
        return ipaddress.IPv4Network(narrower).subnet_of(ipaddress.IPv4Network(wider))
    except ValueError:
        return False


def problems(token: str, inputs: Values) -> Iterator[tuple[str, str]]:
    """Path and reason of what can be told without asking the cloud."""
    if token == PROVIDER:
        yield from signatures.problems(token, provider_settings(inputs))
        return
    if token not in KINDS:
        yield "", f"the stand-in cloud knows no {token}; add it to tests/tools/stand_in_cloud/rules.py"
        return
    kind = KINDS[token]
    yield from signatures.problems(token, inputs)
    name = inputs.get("accountId" if token == ACCOUNT else "name")
    if kind.name is not None and isinstance(name, str) and name != UNKNOWN and not kind.name.fullmatch(name):
        yield "name", f'"name" ({name!r}) doesn\'t match regexp "^(?:{kind.name.pattern})$"'
    for path, accepted in kind.values.items():
        for where, value in _at(inputs, path.split("."), ""):
            if value not in (None, UNKNOWN, *accepted):
                yield where, f"expected {where} to be one of {list(accepted)}, got {value}"


def provider_settings(inputs: Values) -> Values:
    """The settings of a provider, of which the SDK sends all but texts as JSON, and the engine adds its own."""
    told = {key: value for key, value in inputs.items() if key not in ("version", "pluginDownloadURL")}
    coded = [
        key for key, value in told.items() if isinstance(value, str) and (value in ("true", "false") or value[:1] in ("{", "["))
    ]
    return told | {key: json.loads(told[key]) for key in coded}


def _at(value: Any, steps: list[str], path: str) -> Iterator[tuple[str, Any]]:
    """Every value at a path, in each element of the lists on the way."""
    if isinstance(value, list):
        for at, item in enumerate(value):
            yield from _at(item, steps, f"{path}[{at}]")
    elif not steps:
        yield path, value
    elif isinstance(value, Mapping) and steps[0] in value:
        yield from _at(value[steps[0]], steps[1:], f"{path}.{steps[0]}" if path else steps[0])


def named(token: str, inputs: Values, name: str) -> Values:
    """Inputs with a name, where the program gave none."""
    needs_name = token in KINDS and KINDS[token].name is not None and token != ACCOUNT
    return inputs | {"name": name} if needs_name and not inputs.get("name") else inputs


def planned(token: str, inputs: Values) -> Values:
    """What a preview knows of a resource that does not exist."""
    outputs = inputs | dict.fromkeys(KINDS[token].computed, UNKNOWN)
    for interface in _blocks(outputs, "networkInterfaces"):
        interface.setdefault("networkIp", UNKNOWN)
        for config in _blocks(interface, "accessConfigs"):
            config.setdefault("natIp", UNKNOWN)
    if token == ACCOUNT:
        outputs |= {"email": UNKNOWN, "member": UNKNOWN, "name": UNKNOWN}
    return outputs


def _blocks(values: Values, name: str) -> list[Values]:
    found = values.get(name)
    return found if isinstance(found, list) else []
