"""What the cloud's API refuses when it is asked to make, change or delete something, in its own words."""

from collections.abc import Iterator
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
STOP_FIRST = (
    "Changing the machine_type, min_cpu_platform, service_account, enable_display, shielded_instance_config, "
    "scheduling.node_affinities, scheduling.max_run_duration or network_interface.[#d].(network/subnetwork/subnetwork_project) "
    "or advanced_machine_features on a started instance requires stopping it. To acknowledge this, please set "
    'allow_stopping_for_update = true in your config. You can also stop it by setting desired_status = "TERMINATED", '
    "but the instance will not be restarted after the update."
)


def not_found(key: str) -> str:
    """What the API says of something that is not there."""
    return f"googleapi: Error 404: The resource '{key}' was not found, notFound"


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
        raise Refused(f"{creating}: googleapi: Error 403: Required '{permission}' permission for '{key}', forbidden")
    if token == rules.BUCKET and (key in state["taken_buckets"] or key in state["resources"]):
        ours = "Your previous request to create the named bucket succeeded and you already own it."
        theirs = (
            "The requested bucket name is not available. The bucket namespace is shared by all users of the system. "
            "Please select a different name and try again."
        )
        raise Refused(f"googleapi: Error 409: {ours if key in state['resources'] else theirs}, conflict")
    if key in state["resources"]:
        raise Refused(f"{creating}: googleapi: Error 409: The resource '{key}' already exists, alreadyExists")
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
    return (
        f"googleapi: Error 403: {TITLES[api]} has not been used in project {project} before or it is disabled. Enable it by "
        f"visiting {page} then retry. If you enabled this API recently, wait a few minutes for the action to propagate to our "
        "systems and retry., accessNotConfigured"
    )


def _refuse_disk_quota(state: State, verb: str, disk: Values, more: float, token: str = DISK) -> None:
    if disk.get("type") in ("pd-ssd", "pd-balanced"):
        refuse_quota(state, verb, token, {("SSD_TOTAL_GB", disk["zone"].rpartition("-")[0]): more})


def _invalid(field: str, value: Any, why: str) -> str:
    return f"googleapi: Error 400: Invalid value for field '{field}': '{value}'. {why}, invalid"


def _place(state: State, filled: Values) -> Iterator[str]:
    zone = filled.get("zone") or ""
    if zone.rpartition("-")[0] not in state["quotas"]["regions"] or len(zone.rpartition("-")[2]) != 1:
        yield _invalid("zone", zone, "Unknown zone.")


def _instance(state: State, filled: Values) -> Iterator[str]:
    yield from _place(state, filled)
    region = filled["zone"].rpartition("-")[0]
    for at, interface in enumerate(filled["networkInterfaces"]):
        subnetwork = state["resources"].get(key_of(interface.get("subnetwork") or ""))
        field = f"resource.networkInterfaces[{at}].subnetwork"
        if interface.get("subnetwork") and subnetwork is None:
            yield _invalid(field, interface["subnetwork"], "The referenced subnetwork resource cannot be found.")
        if subnetwork and f"/regions/{region}/" not in subnetwork["id"]:
            yield _invalid(field, interface["subnetwork"], f"Subnetwork must be in the region of the instance, {region}.")
    yield from _instance_disks(state, filled)
    yield from _scheduling(filled)
    email = (filled.get("serviceAccount") or {}).get("email")
    if (
        email
        and not email.endswith("developer.gserviceaccount.com")
        and f"projects/{filled['project']}/serviceAccounts/{email}" not in state["resources"]
    ):
        yield (
            f"googleapi: Error 400: The user does not have access to service account '{email}'.  User: 'you@example.com'.  "
            "Ask a project owner to grant you the iam.serviceAccountUser role on the service account, badRequest"
        )


def _instance_disks(state: State, filled: Values) -> Iterator[str]:
    boot = filled["bootDisk"].get("initializeParams", {})
    if l4_count(filled["machineType"]):
        if boot.get("type", "pd-standard") == "pd-standard":
            yield "googleapi: Error 400: [pd-standard] features are not compatible for creating instance., badRequest"
    if image := boot.get("image"):
        yield from _boot_image(state, key_of(image), boot)
    for attached in filled.get("attachedDisks", []):
        key = key_of(attached["source"])
        disk = state["resources"].get(key)
        if disk is None:
            yield not_found(key)
        elif disk["inputs"]["zone"] != filled["zone"]:
            yield _invalid(
                "resource.disks[1].source", attached["source"], f"Disk must be in the zone of the instance, {filled['zone']}."
            )
        elif users := [vm for vm in _users_of_disk(state, key) if not vm.endswith(f"/{filled['name']}")]:
            yield f"googleapi: Error 400: {_in_use('disk', key, users[0])}, resourceInUseByAnotherResource"


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
        least = found[-1]["diskSizeGb"]
        yield _invalid(
            "resource.disks[0].initializeParams.diskSizeGb",
            boot["size"],
            f"Requested disk size cannot be smaller than the image size ({least} GB)",
        )


def _scheduling(filled: Values) -> Iterator[str]:
    scheduling = filled.get("scheduling") or {}
    field, spot = "resource.scheduling", scheduling.get("provisioningModel") == "SPOT"
    if l4_count(filled["machineType"]) and scheduling.get("onHostMaintenance") != "TERMINATE":
        yield "googleapi: Error 400: Instances with guest accelerators do not support live migration., badRequest"
    if spot and not scheduling.get("preemptible"):
        yield _invalid(field, scheduling, "Scheduling must have preemptible be true when provisioning model is SPOT.")
    if scheduling.get("preemptible") and scheduling.get("automaticRestart", True):
        yield _invalid(field, scheduling, "Scheduling must have automaticRestart be false when preemptible is true.")
    if seconds := (scheduling.get("maxRunDuration") or {}).get("seconds"):
        if not 30 <= seconds <= 120 * 24 * 3600:
            yield _invalid(f"{field}.maxRunDuration", seconds, "Max run duration must be from 30 seconds to 120 days.")
        if not scheduling.get("instanceTerminationAction"):
            yield _invalid(field, scheduling, "Instance termination action must be specified with max run duration.")
    if spot and (filled.get("reservationAffinity") or {}).get("type") == "SPECIFIC_RESERVATION":
        yield _invalid(
            "resource.reservationAffinity", filled["reservationAffinity"], "Preemptible instances cannot use reservations."
        )


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
        yield "googleapi: Error 404: The specified bucket does not exist., notFound"
    if "secretId" in filled and filled["secretId"] not in state["secrets"]:
        yield f"googleapi: Error 404: Secret [projects/{state['project_number']}/secrets/{filled['secretId']}] not found."
    if kind == "serviceAccount" and email not in [account["outputs"]["email"] for account in of_type(state, rules.ACCOUNT)]:
        yield f"googleapi: Error 400: Service account {email} does not exist., badRequest"


def _bucket(state: State, filled: Values) -> Iterator[str]:
    """A rule needs a condition; a number that is 0 is not sent unless send...IfZero says so (TF google 6 and 7)."""
    for rule in filled.get("lifecycleRules", []):
        condition = rule["condition"]
        sent = [key for key, value in condition.items() if not key.startswith("send") and value not in (None, 0, "", [], "ANY")]
        sent += [key for key, value in condition.items() if key.startswith("send") and value]
        if not sent:
            yield "googleapi: Error 400: A lifecycle rule must specify at least one condition., invalid"


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
    stopping = [path for path in differences(old, inputs) if rules.touches(path, rules.KINDS[token].stopping)]
    if token == DISK:
        _refuse_disk_quota(
            state, "update", inputs | {"zone": record["outputs"]["zone"]}, (inputs.get("size") or 10) - (old.get("size") or 10)
        )
    if token != INSTANCE:
        return
    running = record["status"] == "RUNNING"
    if stopping and running and not inputs.get("allowStoppingForUpdate"):
        raise Refused(STOP_FIRST)
    for problem in _instance(state, record["outputs"] | inputs):
        raise Refused(f"Error updating instance: {problem}")
    before = instance_needs(state, record["outputs"] | old) if running else {}
    wanted = instance_needs(state, record["outputs"] | inputs) if inputs.get("desiredStatus", "RUNNING") == "RUNNING" else {}
    refuse_quota(state, "update", token, {metric: amount - before.get(metric, 0) for metric, amount in wanted.items()})


def refuse_delete(state: State, record: Values) -> None:
    """Refuse to delete what is protected, in use, or not empty."""
    token, key, called = record["type"], record["id"], rules.KINDS[record["type"]].called
    if token == INSTANCE and record["inputs"].get("deletionProtection"):
        raise Refused(
            f"Cannot delete instance {record['inputs']['name']}: instance Deletion Protection is enabled. "
            'Set deletion_protection to false for this resource and run "pulumi up" before attempting to delete it.'
        )
    if token == rules.BUCKET and state["bucket_objects"].get(key) and not record["inputs"].get("forceDestroy"):
        raise Refused(f"Error trying to delete bucket {key} containing objects without `force_destroy` set to true")
    users = _users_of_disk(state, key) if token == DISK else list(users_of_network(state, key))
    if users:
        message = _in_use(called.lower(), key, users[0])
        raise OperationFailed(
            "delete", token, {"code": "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE", "message": message}, ", resourceInUseByAnotherResource"
        )


def _in_use(called: str, key: str, user: str) -> str:
    return f"The {called} resource '{key}' is already being used by '{user}'"


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
