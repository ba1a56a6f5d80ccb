"""The resources of a World as the Compute API writes them: Pulumi's camelCase inputs become instances, disks, addresses, ..."""

import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from tests.tools.stand_in_cloud.world import State, World

Record = dict[str, Any]
TOKENS = {
    "instances": "gcp:compute/instance:Instance",
    "disks": "gcp:compute/disk:Disk",
    "addresses": "gcp:compute/address:Address",
    "snapshots": "gcp:compute/snapshot:Snapshot",
    "routers": "gcp:compute/router:Router",
    "images": "gcp:compute/image:Image",
    "networks": "gcp:compute/network:Network",
    "subnetworks": "gcp:compute/subnetwork:Subnetwork",
    "firewalls": "gcp:compute/firewall:Firewall",
}
NAT = "gcp:compute/routerNat:RouterNat"


def link(path: str) -> str:
    """The URL of a resource; without one it is the path of its project that counts."""
    return f"https://www.googleapis.com/compute/v1/{path}"


def all_of(state: State, collection: str) -> Iterator[tuple[str, Record]]:
    """Each resource of a collection with its scope: zones/Z, regions/R or global."""
    for record in state["resources"].values():
        if record["type"] == TOKENS[collection]:
            scope = _scope(record)
            yield scope, _FACES[collection](state, record, scope) | _common(state, record, scope, collection)


def lister(world: World) -> Callable[..., list[Record]]:
    """What `gcloud compute COLLECTION list` answers, without the second that the real one takes."""
    return lambda _, collection, *words: [item for _, item in all_of(world.read(), collection)]


def remove(state: State, collection: str, path: str) -> None:
    """Takes a resource away, and what goes with it: a VM's boot disk, a router's NAT."""
    scope, name = path.split("/", 2)[2].rsplit("/", 2)[0], path.rpartition("/")[2]
    for key, record in [*state["resources"].items()]:
        if record["type"] == TOKENS[collection] and (_scope(record), _name(record)) == (scope, name):
            gone = state["resources"].pop(key)
            for other, part in [*state["resources"].items()]:
                boot = part.get("boot_of") == gone["id"] and gone["inputs"].get("bootDisk", {}).get("autoDelete", True)
                nat = part["type"] == NAT and collection == "routers" and _last(part["inputs"]["router"]) == name
                if boot or nat:
                    del state["resources"][other]


def _name(record: Record) -> str:
    return str(record["inputs"].get("name") or _last(record["id"]))


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _scope(record: Record) -> str:
    found = re.search(r"(?:zones|regions)/[\w-]+", record["id"])
    return found[0] if found else "global"


def _common(state: State, record: Record, scope: str, collection: str) -> Record:
    place, _, where = scope.partition("/")
    path = f"projects/{state['project']}/{scope}"
    common = {
        "id": record["outputs"].get("instanceId") or str(zlib.crc32(record["id"].encode())),
        "name": _name(record),
        "creationTimestamp": record["created"],
        "selfLink": link(f"{path}/{collection}/{_name(record)}"),
    }
    if where:
        common[place.removesuffix("s")] = link(path)
    if record["inputs"].get("labels"):
        common["labels"] = record["inputs"]["labels"]
    return common


def _instance(state: State, record: Record, scope: str) -> Record:
    inputs = record["inputs"]
    instance = {
        "machineType": link(f"projects/{state['project']}/{scope}/machineTypes/{_last(inputs['machineType'])}"),
        "status": record.get("status", "RUNNING"),
        "lastStartTimestamp": record.get("lastStartTimestamp", record["created"]),
        "scheduling": _scheduling(inputs.get("scheduling") or {}),
        "disks": _attached(state, record, scope),
        "networkInterfaces": [
            _interface(given) for given in record["outputs"].get("networkInterfaces") or inputs.get("networkInterfaces") or []
        ],
    }
    if account := inputs.get("serviceAccount"):
        instance["serviceAccounts"] = [{"email": account["email"], "scopes": account.get("scopes", [])}]
    if metadata := inputs.get("metadata"):
        instance["metadata"] = {"items": [{"key": key, "value": value} for key, value in metadata.items()]}
    for key in ("lastStopTimestamp", "resourceStatus"):
        if key in record:
            instance[key] = record[key]
    return instance


def _scheduling(given: Record) -> Record:
    scheduling = {key: value for key, value in given.items() if key != "maxRunDuration"}
    if limit := given.get("maxRunDuration"):
        scheduling["maxRunDuration"] = {"seconds": str(int(limit["seconds"]))}  # 64-bit numbers are text in Google's JSON
    return scheduling


def _attached(state: State, record: Record, scope: str) -> list[Record]:
    boot = record["inputs"].get("bootDisk") or {}
    size = (boot.get("initializeParams") or {}).get("size") or 10
    path = f"projects/{state['project']}/{scope}/disks/"
    boot_name = next((_name(disk) for disk in state["resources"].values() if disk.get("boot_of") == record["id"]), _name(record))
    disks = [
        {"boot": True, "autoDelete": boot.get("autoDelete", True), "diskSizeGb": str(int(size)), "source": link(path + boot_name)}
    ]
    for disk in record["inputs"].get("attachedDisks") or []:
        disks.append({"boot": False, "autoDelete": False, "source": link(path + _last(disk["source"]))})
    return [{**disk, "type": "PERSISTENT", "index": index} for index, disk in enumerate(disks)]


def _interface(given: Record) -> Record:
    interface = {"name": "nic0", "networkIP": given.get("networkIp", "10.10.0.2"), "subnetwork": given.get("subnetwork", "")}
    if configs := given.get("accessConfigs"):
        address = configs[0].get("natIp", "203.0.113.20")
        interface["accessConfigs"] = [{"name": "external-nat", "type": "ONE_TO_ONE_NAT", "natIP": address}]
    return interface


def _disk(state: State, record: Record, scope: str) -> Record:
    inputs = record["inputs"]
    users = [
        link(f"projects/{state['project']}/{scope}/instances/{_name(vm)}")
        for vm in state["resources"].values()
        if vm["type"] == TOKENS["instances"]
        and (
            record.get("boot_of") == vm["id"]
            or record["id"] in [disk["source"] for disk in vm["inputs"].get("attachedDisks") or []]
        )
    ]
    disk = {
        "sizeGb": str(int(inputs.get("size") or 10)),
        "type": link(f"projects/{state['project']}/{scope}/diskTypes/{_last(inputs.get('type') or 'pd-standard')}"),
        "status": "READY",
    }
    if not users:
        return disk | {key: record[key] for key in ("lastDetachTimestamp",) if key in record}
    return {**disk, "users": users, "lastAttachTimestamp": record["created"]}


def _address(state: State, record: Record, scope: str) -> Record:
    inputs = record["inputs"]
    users = [*record.get("users", [])]
    return {
        "address": "203.0.113.21",
        "addressType": inputs.get("addressType", "EXTERNAL"),
        "status": "IN_USE" if users else "RESERVED",
        **({"users": users} if users else {}),
    }


def _snapshot(state: State, record: Record, scope: str) -> Record:
    size = int(record["inputs"].get("diskSizeGb") or 10)
    stored = str(record.get("storageBytes", size * 2**30))
    return {"diskSizeGb": str(size), "storageBytes": stored, "status": "READY"} | _source(record)


def _image(state: State, record: Record, scope: str) -> Record:
    size = int(record["inputs"].get("diskSizeGb") or 10)
    return {"diskSizeGb": str(size), "archiveSizeBytes": str(size * 2**30), "status": "READY"} | _source(record)


def _source(record: Record) -> Record:
    source = record["inputs"].get("sourceDisk")
    return {"sourceDisk": link(source)} if source else {}


def _network(state: State, record: Record, scope: str) -> Record:
    subnets = [
        link(f"projects/{state['project']}/{_scope(subnet)}/subnetworks/{_name(subnet)}")
        for subnet in state["resources"].values()
        if subnet["type"] == TOKENS["subnetworks"] and _last(subnet["inputs"]["network"]) == _name(record)
    ]
    description = record["inputs"].get("description")
    return {"subnetworks": subnets} | ({"description": description} if description else {})


def _in_network(state: State, record: Record, scope: str) -> Record:
    return {"network": link(f"projects/{state['project']}/global/networks/{_last(record['inputs']['network'])}")}


def _router(state: State, record: Record, scope: str) -> Record:
    nats = [
        {"name": _name(nat), "natIpAllocateOption": nat["inputs"].get("natIpAllocateOption", "AUTO_ONLY")}
        for nat in state["resources"].values()
        if nat["type"] == NAT and _last(nat["inputs"]["router"]) == _name(record)
    ]
    return _in_network(state, record, scope) | ({"nats": nats} if nats else {})


_FACES = {
    "instances": _instance,
    "disks": _disk,
    "addresses": _address,
    "snapshots": _snapshot,
    "routers": _router,
    "images": _image,
    "networks": _network,
    "subnetworks": _in_network,
    "firewalls": _in_network,
}
