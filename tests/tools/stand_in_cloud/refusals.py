"""What the cloud's API refuses when it is asked to make, change or delete something, in its own words: refusals.toml."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.tools.stand_in_cloud import rules
from tests.tools.stand_in_cloud.differences import COMPUTE, differences
from tests.tools.stand_in_cloud.operations import OperationFailed, Refused, instance_needs, refuse_quota
from tests.tools.stand_in_cloud.world import DISK, INSTANCE, State, l4_count, of_type

Values = dict[str, Any]
TITLES = {
    "billingbudgets": "Cloud Billing Budget API",
    "cloudresourcemanager": "Cloud Resource Manager API",
    "compute": "Compute Engine API",
    "iam": "Identity and Access Management (IAM) API",
    "secretmanager": "Secret Manager API",
}
PERMISSIONS = {
    rules.ACCOUNT: "iam.serviceAccounts.create",
    rules.BUCKET: "storage.buckets.create",
    rules.BUCKET_GRANT: "storage.buckets.setIamPolicy",
    rules.BUDGET: "billing.budgets.create",
    rules.PROJECT_GRANT: "resourcemanager.projects.setIamPolicy",
    rules.SECRET_GRANT: "secretmanager.secrets.setIamPolicy",
    rules.SERVICE: "serviceusage.services.enable",
}
WORDS = {name: entry["words"] for name, entry in tomllib.loads(Path(__file__).with_name("refusals.toml").read_text()).items()}


def words(refusal: str, **values: Any) -> str:
    """What the cloud says, as refusals.toml has it."""
    return str(WORDS[refusal]).format_map(values)


def not_found(key: str) -> str:
    """What the API says of something that is not there."""
    return words("not-found", key=key)


def key_of(link: str) -> str:
    """The id that a link or an id names."""
    return link.removeprefix(COMPUTE)


def refuse_create(state: State, token: str, key: str, filled: Values) -> None:
    """Refuse what cannot be made: the API off, no permission, the name taken, something wrong in it, no quota."""
    kind = rules.KINDS[token]
    creating = f"Error creating {kind.called}"
    project = filled["project"]
    if kind.api in TITLES and f"{kind.api}.googleapis.com" not in state["services"]:
        raise Refused(f"{creating}: {_not_enabled(kind.api, project)}")
    permission = PERMISSIONS.get(token, f"compute.{kind.collection}.create")
    if permission in state["missing_permissions"]:
        raise Refused(f"{creating}: {words('permission', permission=permission, key=key)}")
    if token == rules.BUCKET and (key in state["taken_buckets"] or key in state["resources"]):
        raise Refused(words("bucket-ours" if key in state["resources"] else "bucket-taken"))
    if key in state["resources"]:
        raise Refused(f"{creating}: {words('exists', key=key)}")
    for problem in PROBLEMS.get(token, lambda *_: [])(state, filled):
        raise Refused(f"{creating}: {problem}")
    if token == DISK:
        _refuse_disk_quota(state, "create", filled, filled.get("size") or 10)
    if token == INSTANCE and filled.get("desiredStatus", "RUNNING") == "RUNNING":
        boot = filled["bootDisk"].get("initializeParams", {})
        _refuse_disk_quota(state, "create", boot | {"zone": filled["zone"]}, boot.get("size") or 50, INSTANCE)
        refuse_quota(state, "create", token, instance_needs(state, filled))


def _not_enabled(api: str, project: str) -> str:
    page = f"https://console.developers.google.com/apis/api/{api}.googleapis.com/overview?project={project}"
    return words("api-disabled", title=TITLES[api], project=project, page=page)


def _refuse_disk_quota(state: State, verb: str, disk: Values, more: float, token: str = DISK) -> None:
    if disk.get("type") in ("pd-ssd", "pd-balanced"):
        refuse_quota(state, verb, token, {("SSD_TOTAL_GB", disk["zone"].rpartition("-")[0]): more})


def _place(state: State, filled: Values) -> Iterator[str]:
    zone = filled.get("zone") or ""
    if zone.rpartition("-")[0] not in state["quotas"]["regions"] or len(zone.rpartition("-")[2]) != 1:
        yield words("zone", zone=zone)


def _instance(state: State, filled: Values) -> Iterator[str]:
    yield from _place(state, filled)
    region = filled["zone"].rpartition("-")[0]
    for at, interface in enumerate(filled["networkInterfaces"]):
        subnetwork = state["resources"].get(key_of(interface.get("subnetwork") or ""))
        field = f"resource.networkInterfaces[{at}].subnetwork"
        if interface.get("subnetwork") and subnetwork is None:
            yield words("subnetwork", field=field, subnetwork=interface["subnetwork"])
        if subnetwork and f"/regions/{region}/" not in subnetwork["id"]:
            yield words("subnetwork-region", field=field, subnetwork=interface["subnetwork"], region=region)
    yield from _instance_disks(state, filled)
    yield from scheduling_problems(filled)
    email = (filled.get("serviceAccount") or {}).get("email")
    if (
        email
        and not email.endswith("developer.gserviceaccount.com")
        and f"projects/{filled['project']}/serviceAccounts/{email}" not in state["resources"]
    ):
        yield words("act-as", email=email)


def _instance_disks(state: State, filled: Values) -> Iterator[str]:
    boot = filled["bootDisk"].get("initializeParams", {})
    if l4_count(filled["machineType"]):
        if boot.get("type", "pd-standard") == "pd-standard":
            yield words("disk-type", type="pd-standard")
    if image := boot.get("image"):
        yield from _boot_image(state, key_of(image), boot)
    for attached in filled.get("attachedDisks", []):
        key = key_of(attached["source"])
        disk = state["resources"].get(key)
        if disk is None:
            yield not_found(key)
        elif disk["inputs"]["zone"] != filled["zone"]:
            yield words("disk-zone", source=attached["source"], zone=filled["zone"])
        elif users := [vm for vm in _users_of_disk(state, key) if not vm.endswith(f"/{filled['name']}")]:
            yield words("disk-attached", in_use=words("in-use", called="disk", key=key, user=users[0]))


def _boot_image(state: State, key: str, boot: Values) -> Iterator[str]:
    """An image as projects/P/global/images/[family/]NAME; shorter names are the debian-cloud's, which has everything here."""
    if not key.startswith("projects/"):
        return
    project, _, name = key.removeprefix("projects/").partition("/global/images/")
    family = name.removeprefix("family/") if name.startswith("family/") else None
    found = [
        image for image in state["images"].get(project, []) if (image["family"] == family if family else image["name"] == name)
    ]
    if not found:
        yield not_found(key)
    elif boot.get("size") and boot["size"] < found[-1]["diskSizeGb"]:
        yield words("image-size", size=boot["size"], least=found[-1]["diskSizeGb"])


def scheduling_problems(filled: Values) -> Iterator[str]:
    """What is wrong with how an instance is to be moved, taken away and ended."""
    scheduling, machine_type = filled.get("scheduling") or {}, filled["machineType"]
    spot, preemptible = scheduling.get("provisioningModel") == "SPOT", scheduling.get("preemptible")
    stays = scheduling.get("onHostMaintenance", "TERMINATE" if preemptible else "MIGRATE") == "TERMINATE"
    if l4_count(machine_type) and not stays:
        yield words("gpu-migrate")
    if machine_type.startswith("e2-") and stays and not preemptible:
        yield words("e2-terminate")
    if preemptible and not stays:
        yield words("preemptible-migrate")
    if spot and not preemptible:
        yield words("spot-preemptible", scheduling=scheduling)
    if preemptible and scheduling.get("automaticRestart", True):
        yield words("preemptible-restart", scheduling=scheduling)
    if seconds := (scheduling.get("maxRunDuration") or {}).get("seconds"):
        if not 30 <= seconds <= 120 * 24 * 3600:
            yield words("max-run-range", seconds=seconds)
        if not scheduling.get("instanceTerminationAction"):
            yield words("max-run-action", scheduling=scheduling)
    if spot and (filled.get("reservationAffinity") or {}).get("type") == "SPECIFIC_RESERVATION":
        yield words("spot-reservation", affinity=filled["reservationAffinity"])


def _in_network(state: State, filled: Values) -> Iterator[str]:
    network = key_of(filled["network"])
    key = network if "/" in network else f"projects/{filled['project']}/global/networks/{network}"
    if key not in state["resources"]:
        yield not_found(key)


def _nat(state: State, filled: Values) -> Iterator[str]:
    key = f"projects/{filled['project']}/regions/{filled['region']}/routers/{filled['router']}"
    if key not in state["resources"]:
        yield not_found(key)


def _grant(state: State, filled: Values) -> Iterator[str]:
    kind, _, email = filled["member"].partition(":")
    if "bucket" in filled and filled["bucket"] not in state["resources"]:
        yield words("no-bucket")
    if "secretId" in filled and filled["secretId"] not in state["secrets"]:
        yield words("no-secret", secret=f"projects/{state['project_number']}/secrets/{filled['secretId']}")
    if kind == "serviceAccount" and email not in [account["outputs"]["email"] for account in of_type(state, rules.ACCOUNT)]:
        yield words("no-account", email=email)


def _bucket(state: State, filled: Values) -> Iterator[str]:
    """A rule needs a condition; a number that is 0 is not sent unless send...IfZero says so (TF google 6 and 7)."""
    for rule in filled.get("lifecycleRules", []):
        condition = rule["condition"]
        sent = [key for key, value in condition.items() if not key.startswith("send") and value not in (None, 0, "", [], "ANY")]
        sent += [key for key, value in condition.items() if key.startswith("send") and value]
        if not sent:
            yield words("no-condition")


PROBLEMS = {
    rules.BUCKET: _bucket,
    INSTANCE: _instance,
    DISK: _place,
    rules.SUBNETWORK: _in_network,
    rules.FIREWALL: _in_network,
    rules.ROUTER: _in_network,
    rules.NAT: _nat,
    rules.BUCKET_GRANT: _grant,
    rules.PROJECT_GRANT: _grant,
    rules.SECRET_GRANT: _grant,
}


def _users_of_disk(state: State, key: str) -> list[str]:
    return [
        vm["id"]
        for vm in of_type(state, INSTANCE)
        if state["resources"].get(key, {}).get("boot_of") == vm["id"]
        or any(key_of(disk["source"]) == key for disk in vm["inputs"].get("attachedDisks", []))
    ]


def refuse_update(state: State, record: Values, inputs: Values) -> None:
    """Refuse a change that needs a stopped instance, is wrong in itself, or for which there is no quota."""
    token, old = record["type"], record["inputs"]
    stopping = [path for path in differences(old, inputs) if rules.touches(path, rules.recorded(token, "stops"))]
    if token == DISK:
        _refuse_resize(state, DISK, inputs | {"zone": record["outputs"]["zone"]}, old.get("size") or 10)
    if token != INSTANCE:
        return
    running = record["status"] == "RUNNING"
    if stopping and running and not inputs.get("allowStoppingForUpdate"):
        raise Refused(words("stop-first"))
    for problem in _instance(state, record["outputs"] | inputs):
        raise Refused(f"Error updating instance: {problem}")
    if boot := boot_disk_of(state, record):
        wanted_disk = boot["inputs"] | inputs["bootDisk"].get("initializeParams", {})
        _refuse_resize(state, INSTANCE, wanted_disk | {"zone": boot["inputs"]["zone"]}, boot["inputs"]["size"])
    before = instance_needs(state, record["outputs"] | old) if running else {}
    wanted = instance_needs(state, record["outputs"] | inputs) if inputs.get("desiredStatus", "RUNNING") == "RUNNING" else {}
    refuse_quota(state, "update", token, {metric: amount - before.get(metric, 0) for metric, amount in wanted.items()})


def _refuse_resize(state: State, token: str, disk: Values, existing: float) -> None:
    """A disk grows, and never shrinks: the provider asks for a smaller boot disk, the API refuses it."""
    size = disk.get("size") or existing
    if size < existing:
        raise Refused(words("disk-smaller", size=size, existing=existing))
    _refuse_disk_quota(state, "update", disk, size - existing, token)


def boot_disk_of(state: State, record: Values) -> Values | None:
    """The record of the boot disk that came with an instance, if one did."""
    return next((disk for disk in of_type(state, DISK) if disk.get("boot_of") == record["id"]), None)


def refuse_delete(state: State, record: Values) -> None:
    """Refuse to delete what is protected, in use, or not empty."""
    token, key, called = record["type"], record["id"], rules.KINDS[record["type"]].called
    if token == INSTANCE and record["inputs"].get("deletionProtection"):
        raise Refused(words("deletion-protection", name=record["inputs"]["name"]))
    if token == rules.BUCKET and state["bucket_objects"].get(key) and not record["inputs"].get("forceDestroy"):
        raise Refused(words("bucket-not-empty", bucket=key))
    users = _users_of_disk(state, key) if token == DISK else list(users_of_network(state, key))
    if users:
        message = words("in-use", called=called.lower(), key=key, user=users[0])
        raise OperationFailed(
            "delete", token, {"code": "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE", "message": message}, ", resourceInUseByAnotherResource"
        )


def users_of_network(state: State, key: str) -> Iterator[str]:
    """What stands in a network, a subnetwork or a router's name."""
    for other in state["resources"].values():
        inputs = other["inputs"]
        links = [
            inputs.get("network"),
            *(link for face in inputs.get("networkInterfaces", []) for link in (face.get("network"), face.get("subnetwork"))),
        ]
        if key in [key_of(link) for link in links if link]:
            yield other["id"]
