"""What the stand-in cloud does: create, read, update, delete, look up; with the faults that a test put into it."""

import hashlib
import time
import uuid
from collections.abc import Mapping
from typing import Any

from tests.tools.stand_in_cloud import operations, rules
from tests.tools.stand_in_cloud.differences import COMPUTE
from tests.tools.stand_in_cloud.operations import OperationFailed, Refused
from tests.tools.stand_in_cloud.refusals import boot_disk_of, not_found, refuse_create, refuse_delete, refuse_update
from tests.tools.stand_in_cloud.world import DISK, INSTANCE, State, World, now

Values = dict[str, Any]
NO_CREDENTIALS = (
    "failed to load application credentials:\nTo use your default gcloud credentials, run:\n"
    "\t`gcloud auth application-default login`\n"
    "See https://www.pulumi.com/registry/packages/gcp/installation-configuration/ for details."
)
ADDITIVE = (rules.SERVICE, rules.BUCKET_GRANT, rules.PROJECT_GRANT, rules.SECRET_GRANT)  # made twice, they are there once


class Cloud:
    """One provider's view of a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._settings: Values = {}

    def configure(self, settings: Values) -> None:
        """Take the provider's settings (project, region, zone); refuse where nobody is logged in."""
        self._settings = rules.provider_settings(settings)
        if not self._world.read()["credentials"]:
            raise Refused(NO_CREDENTIALS)

    def create(self, token: str, inputs: Values) -> Values:
        """A new resource's record."""
        return self._faulty("create", token, inputs, lambda state: self._create(state, token, inputs))

    def update(self, token: str, key: str, inputs: Values) -> Values:
        """The record of a resource that changed."""
        return self._faulty("update", token, inputs, lambda state: self._update(state, token, key, inputs))

    def delete(self, token: str, key: str, old: Values) -> None:
        """Delete a resource; one that is gone is no error."""
        self._faulty("delete", token, old, lambda state: _delete(state, token, key))

    def read(self, token: str, key: str) -> Values | None:
        """A resource's record as it is now; None where it is gone."""
        state = self._world.read()
        record = state["resources"].get(key)
        name = record["inputs"] if record else {}
        if fault := operations.due_fault(self._world, "read", token, name):
            operations.fail(fault, token, name)
        if record is None or record["type"] != token:
            return None
        if token == INSTANCE:
            record["outputs"]["currentStatus"] = record["status"]
            if "desiredStatus" in record["inputs"]:
                record["inputs"]["desiredStatus"] = record["outputs"]["desiredStatus"] = record["status"]
        return record

    def invoke(self, token: str, asked: Values) -> Values:
        """What a function finds."""
        state = self._world.read()
        if token == "gcp:organizations/getProject:getProject":
            project = asked.get("projectId") or self._project(state)
            return {"id": f"projects/{project}", "projectId": project, "number": state["project_number"], "name": project}
        if token == "gcp:organizations/getClientConfig:getClientConfig":
            return {"id": "-", "project": self._project(state), "region": "", "zone": "", "accessToken": "", "defaultLabels": {}}
        if token == "gcp:compute/getImage:getImage":
            return _image(state, asked.get("project") or self._project(state), asked)
        raise Refused(f"the stand-in cloud knows no function {token}")

    def _faulty(self, verb: str, token: str, inputs: Values, act: Any) -> Any:
        fault = operations.due_fault(self._world, verb, token, inputs)
        try:
            if fault:
                operations.fail(fault, token, self._complete(self._world.read(), token, inputs))
            with self._world.edit() as state:
                done = act(state)
        except OperationFailed as failure:
            operations.keep(self._world, failure, inputs)
            raise
        if fault and fault["kind"] == "slow":  # what takes long is the waiting: the resource is there from the first moment
            time.sleep(fault["seconds"])
        if fault and fault["kind"] == "timeout":
            raise Refused(
                f"{operations.waiting(verb, token)}: timeout while waiting for state to become 'DONE' (last state: 'RUNNING')"
            )
        return done

    def _project(self, state: State) -> str:
        return str(self._settings.get("project") or state["project"])

    def _complete(self, state: State, token: str, inputs: Values) -> Values:
        """Inputs with what the provider's own settings say where the program is silent."""
        project = self._project(state)
        filled = {"project": project} | {key: self._settings[key] for key in ("region", "zone") if self._settings.get(key)} | inputs
        if token == rules.ACCOUNT:
            email = f"{inputs['accountId']}@{filled['project']}.iam.gserviceaccount.com"
            filled |= {
                "email": email,
                "member": f"serviceAccount:{email}",
                "name": f"projects/{filled['project']}/serviceAccounts/{email}",
            }
        if token == rules.BUDGET:
            filled["uuid"] = str(uuid.uuid4())
        return filled

    def _create(self, state: State, token: str, inputs: Values) -> Values:
        filled = self._complete(state, token, inputs)
        key = rules.id_of(token, filled)
        if token in ADDITIVE and key in state["resources"]:
            return state["resources"][key]
        refuse_create(state, token, key, filled)
        record = {"type": token, "id": key, "inputs": inputs, "outputs": {}, "created": now()}
        if token == INSTANCE:
            record["status"] = inputs.get("desiredStatus", "RUNNING")
            _make_boot_disk(state, key, filled)
        if token == rules.SERVICE and inputs["service"] not in state["services"]:
            state["services"].append(inputs["service"])
        record["outputs"] = _outputs(state, record, filled)
        state["resources"][key] = record
        return record

    def _update(self, state: State, token: str, key: str, inputs: Values) -> Values:
        record = state["resources"].get(key)
        if record is None:
            raise Refused(not_found(key))
        refuse_update(state, record, inputs)
        old, record["inputs"] = record["outputs"], inputs
        if token == INSTANCE and (boot := boot_disk_of(state, record)):
            boot["inputs"] |= inputs["bootDisk"].get("initializeParams", {})
            boot["outputs"] = _outputs(state, boot, boot["inputs"])
        if token == INSTANCE and "desiredStatus" in inputs:
            record["status"] = inputs["desiredStatus"]
        computed = {name: old[name] for name in rules.KINDS[token].computed if name in old}
        record["outputs"] = _outputs(state, record, self._complete(state, token, inputs)) | computed
        return record


def imported(token: str, told: str) -> str:
    """The id of what a person tells the provider to import; a grant is RESOURCE ROLE MEMBER, and the title of a condition."""
    if token not in (rules.BUCKET_GRANT, rules.PROJECT_GRANT, rules.SECRET_GRANT):
        return told
    words = told.split()
    if len(words) < 3:
        raise Refused(f"Wrong number of parts to Member id {words}; expected 'resource_name role member [condition_title]'.")
    return "/".join((*words[:3], *filter(None, [" ".join(words[3:])])))


def _outputs(state: State, record: Values, filled: Values) -> Values:
    token, key = record["type"], record["id"]
    number = str(int(hashlib.sha256(f"{key} {record['created']}".encode()).hexdigest()[:15], 16))
    link = f"{COMPUTE}{key}" if rules.KINDS[token].api == "compute" else f"https://www.googleapis.com/storage/v1/b/{key}"
    words = {
        "selfLink": link,
        "creationTimestamp": record["created"],
        "timeCreated": record["created"],
        "updated": record["created"],
    }
    words |= {
        "url": f"gs://{key}",
        "etag": number[:8],
        "cpuPlatform": "Intel Cascade Lake",
        "currentStatus": record.get("status", ""),
    }
    words |= {"projectNumber": int(state["project_number"]), "name": key, "gatewayAddress": "10.10.0.1"}
    outputs = {**filled, **{name: words.get(name, number) for name in rules.KINDS[token].computed}}
    if "labels" in filled:
        outputs["effectiveLabels"] = outputs["pulumiLabels"] = filled["labels"] | {"goog-pulumi-provisioned": "true"}
    if token == INSTANCE:
        outputs["networkInterfaces"] = [
            _interface(interface, at, int(number)) for at, interface in enumerate(filled["networkInterfaces"])
        ]
        outputs["bootDisk"] = filled["bootDisk"] | {"source": f"{COMPUTE}{_disk_key(key, filled['name'])}"}
    return outputs


def _interface(inputs: Mapping[str, Any], at: int, number: int) -> Values:
    public = f"203.0.113.{number % 250 + 1}"
    filled = {"name": f"nic{at}", "networkIp": f"10.10.0.{number % 250 + 2}", **inputs}
    return filled | {
        "accessConfigs": [{"natIp": public, "networkTier": "PREMIUM", **config} for config in inputs.get("accessConfigs", [])]
    }


def _disk_key(instance: str, name: str) -> str:
    return f"{instance.rpartition('/instances/')[0]}/disks/{name}"


def _make_boot_disk(state: State, instance: str, filled: Values) -> None:
    boot = filled["bootDisk"]
    if boot.get("source"):
        return
    asked = boot.get("initializeParams", {})
    key = _disk_key(instance, filled["name"])
    inputs = {
        "name": filled["name"],
        "project": filled["project"],
        "zone": filled["zone"],
        "type": "pd-standard",
        "size": 50,
        **asked,
    }
    record = {"type": DISK, "id": key, "inputs": inputs, "outputs": {}, "created": now(), "boot_of": instance}
    record["outputs"] = _outputs(state, record, inputs)
    state["resources"][key] = record


def _delete(state: State, token: str, key: str) -> None:
    record = state["resources"].get(key)
    if record is None:
        return
    refuse_delete(state, record)
    del state["resources"][key]
    if token == INSTANCE:
        kept = record["inputs"]["bootDisk"].get("autoDelete") is False
        for disk in [disk for disk in state["resources"].values() if disk.get("boot_of") == key]:
            if kept:
                del disk["boot_of"]
            else:
                del state["resources"][disk["id"]]
    if token == rules.SERVICE and record["inputs"].get("disableOnDestroy"):
        state["services"].remove(record["inputs"]["service"])
    if token == rules.BUCKET:
        state["bucket_objects"].pop(key, None)


def _image(state: State, project: str, asked: Values) -> Values:
    images = state["images"].get(project, [])
    name, family = asked.get("name"), asked.get("family")
    alive = [image for image in images if not image.get("deprecated") or name]
    found = [image for image in alive if image["name"] == name or (family is not None and image.get("family") == family)]
    if not found:
        raise Refused(not_found(f"projects/{project}/global/images/{name or f'family/{family}'}"))
    newest = max(found, key=lambda image: image["creationTimestamp"])
    key = f"projects/{project}/global/images/{newest['name']}"
    return {"project": project, "id": key, "selfLink": f"{COMPUTE}{key}", "status": "READY", **newest}
