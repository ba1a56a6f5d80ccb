"""Faults that a test asked for, and the failed operations that the cloud keeps: the API says more there than the provider tells."""

import uuid
from typing import Any

from tests.tools.stand_in_cloud import rules
from tests.tools.stand_in_cloud.differences import COMPUTE
from tests.tools.stand_in_cloud.world import INSTANCE, State, World, is_spot, l4_count, now, usage

Values = dict[str, Any]
GERUND = {"create": "Creating", "update": "Updating", "delete": "Deleting", "read": "Reading"}
HELP = {"description": "Troubleshooting documentation", "url": "https://cloud.google.com/compute/docs/resource-error"}


class Refused(Exception):
    """What the cloud says no to, in the words of the real provider."""


class OperationFailed(Refused):
    """An operation that the cloud began and could not finish: `error` is what the API keeps of it."""

    def __init__(self, verb: str, token: str, error: Values, more: str = "") -> None:
        super().__init__(f"{waiting(verb, token)}: {error['message']}{more}")
        self.verb, self.token, self.error = verb, token, error


def waiting(verb: str, token: str) -> str:
    """How the real provider begins when an operation fails; its instance is of an older make than the rest."""
    if token == INSTANCE:
        return f"Error waiting for instance to {verb}"
    called = rules.KINDS[token].called
    begin = f"Error waiting to create {called}: " if verb == "create" else ""
    return f"{begin}Error waiting for {GERUND[verb]} {called}"


def due_fault(world: World, verb: str, token: str, inputs: Values) -> Values | None:
    """Count a call, log it if it changes something, and take the fault that is due for it."""
    with world.edit() as state:
        state["calls"][verb] = state["calls"].get(verb, 0) + 1
        if verb != "read":
            name = inputs.get("name") or inputs.get("accountId") or inputs.get("service") or inputs.get("role", "")
            state["log"].append({"call": verb, "type": token, "name": name})
        for fault in state["faults"]:
            if _is_due(fault, verb, token, inputs, state["calls"][verb]):
                fault["times"] = fault.get("times", 1) - 1
                return dict(fault)
    return None


def _is_due(fault: Values, verb: str, token: str, inputs: Values, count: int) -> bool:
    return (
        fault["on"] == verb
        and fault.get("type", "*") in ("*", token)
        and fault.get("times", 1) != 0
        and fault.get("nth") in (None, count)
        and all(fault.get(key) in (None, inputs.get(key)) for key in ("zone", "name"))
    )


def fail(fault: Values, token: str, inputs: Values) -> None:
    """Refuse as a fault says, if it says so."""
    verb, kind = fault["on"], fault["kind"]
    if kind == "error":
        unavailable = "googleapi: Error 503: The service is currently unavailable., backendError"
        raise Refused(fault.get("message", f"Error {GERUND[verb].lower()} {rules.KINDS[token].called}: {unavailable}"))
    if kind == "quota":
        raise quota_failure(verb, token, fault.get("metric", "GPUS_ALL_REGIONS"), 0, fault.get("region"))
    if kind == "stock-out":
        raise _stock_out(fault, token, inputs)


def _stock_out(fault: Values, token: str, inputs: Values) -> OperationFailed:
    code, zone = fault.get("code", "ZONE_RESOURCE_POOL_EXHAUSTED"), inputs.get("zone", "")
    detailed = code.endswith("WITH_DETAILS")
    place = f"The zone 'projects/{inputs['project']}/zones/{zone}' does not have enough resources available to fulfill the request."
    message = f"{place}  '(resource type:compute)'." if detailed else f"{place}  Try a different zone, or try again later."
    machine = inputs.get("machineType", "")
    count = l4_count(machine)
    unavailable = (
        f"A {machine} VM instance{f' with {count} nvidia-l4 accelerator(s)' if count else ''} is currently unavailable in the "
        f"{zone} zone. Alternatively, you can try your request again with a different VM hardware configuration or at a later "
        "time. For more information, see the troubleshooting documentation."
    )
    metadatas = {"vmType": machine, "attachment": f"nvidia-l4={count}" if count else "", "zone": zone}
    metadatas["zonesAvailable"] = fault.get("zones_available", "")
    info = {"reason": "resource_availability", "domain": "compute.googleapis.com", "metadatas": metadatas}
    details = [{"errorInfo": info}, {"localizedMessage": {"locale": "en-US", "message": unavailable}}, {"help": {"links": [HELP]}}]
    error = {"code": code, "message": message, "errorDetails": details if detailed else [{"errorInfo": info}]}
    return OperationFailed("create", token, error, f"\n{unavailable}\n\n{HELP['description']}\n{HELP['url']}" if detailed else "\n")


def quota_failure(verb: str, token: str, metric: str, limit: float, region: str | None) -> OperationFailed:
    """A quota that is exceeded, of a region or of the whole project."""
    where = f"in region {region}" if region else "globally"
    dimension, scope = ("region", region) if region else ("global", "global")
    name = f"{metric.replace('_', '-')}-per-project{'-region' if region else ''}"
    error = {"code": "QUOTA_EXCEEDED", "message": f"Quota '{metric}' exceeded.  Limit: {float(limit)} {where}."}
    info = {
        "metricName": f"compute.googleapis.com/{metric.lower()}",
        "limitName": name,
        "limit": limit,
        "dimensions": {dimension: scope},
    }
    error_with_details = error | {"errorDetails": [{"quotaInfo": info}]}
    more = "\n".join(
        (
            "",
            f"\tmetric name = {info['metricName']}",
            f"\tlimit name = {name}",
            f"\tlimit = {limit:g}",
            f"\tdimensions = map[{dimension}:{scope}]",
        )
    )
    return OperationFailed(verb, token, error_with_details, more)


def refuse_quota(state: State, verb: str, token: str, needs: dict[tuple[str, str | None], float]) -> None:
    """Refuse what does not fit: `needs` says how much more of each metric, in a region or (None) in the project, is wanted."""
    for (metric, region), amount in needs.items():
        scope = state["quotas"]["project"] if region is None else state["quotas"]["regions"].get(region, {})
        limit = scope.get(metric, {}).get("limit")
        if limit is not None and amount > 0 and usage(state, metric, region) + amount > limit:
            raise quota_failure(verb, token, metric, limit, region)


def instance_needs(state: State, inputs: Values) -> dict[tuple[str, str | None], float]:
    """What a running instance counts against."""
    region, count = inputs["zone"].rpartition("-")[0], l4_count(inputs["machineType"])
    limits = state["quotas"]["regions"].get(region, {})
    spot = is_spot(inputs) and limits.get("PREEMPTIBLE_NVIDIA_L4_GPUS", {}).get("limit", 0) > 0
    addresses = sum(bool(interface.get("accessConfigs")) for interface in inputs["networkInterfaces"])
    l4s = "PREEMPTIBLE_NVIDIA_L4_GPUS" if spot else "NVIDIA_L4_GPUS"
    return {
        ("GPUS_ALL_REGIONS", None): count,
        (l4s, region): count,
        ("INSTANCES", region): 1,
        ("IN_USE_ADDRESSES", region): addresses,
    }


def keep(world: World, failure: OperationFailed, inputs: Values) -> None:
    """Keep a failed operation, as `gcloud compute operations list` shows it."""
    with world.edit() as state:
        project, zone = inputs.get("project") or state["project"], inputs.get("zone")
        place = f"{COMPUTE}projects/{project}/{f'zones/{zone}' if zone else 'global'}"
        collection = rules.KINDS[failure.token].collection
        name, time = f"operation-{uuid.uuid4().hex}", now()
        verb = {"create": "insert", "update": "update", "delete": "delete"}[failure.verb]
        operation = {
            "kind": "compute#operation",
            "id": str(uuid.uuid4().int % 10**19),
            "name": name,
            "operationType": verb,
            "targetLink": f"{place}/{collection}/{inputs.get('name', '')}",
            "selfLink": f"{place}/operations/{name}",
            "status": "DONE",
            "progress": 100,
            "insertTime": time,
            "startTime": time,
            "endTime": time,
            "httpErrorStatusCode": 403 if failure.error["code"] == "QUOTA_EXCEEDED" else 503,
            "httpErrorMessage": "FORBIDDEN" if failure.error["code"] == "QUOTA_EXCEEDED" else "SERVICE UNAVAILABLE",
            "error": {"errors": [failure.error]},
        }
        state["operations"].append(operation | ({"zone": f"{COMPUTE}projects/{project}/zones/{zone}"} if zone else {}))
