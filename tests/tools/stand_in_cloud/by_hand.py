"""Puts into a World what `pulumi up` of a machine stack leaves there, without the engine: enough for what REST shows of it."""

from typing import Any

from tests.tools.stand_in_cloud.world import DISK, INSTANCE, State

ADDRESS, ROUTER, SNAPSHOT = "gcp:compute/address:Address", "gcp:compute/router:Router", "gcp:compute/snapshot:Snapshot"
NAT, NETWORK = "gcp:compute/routerNat:RouterNat", "gcp:compute/network:Network"
IMAGE = "gcp:compute/image:Image"


def put(state: State, token: str, path: str, created: str, inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One resource, by its path within the project."""
    key = f"projects/{state['project']}/{path}"
    record = {"type": token, "id": key, "inputs": {"name": path.rpartition("/")[2], **inputs}, "outputs": {}, "created": created}
    state["resources"][key] = record | more
    return state["resources"][key]


def put_machine(
    state: State,
    stack: str = "l4",
    zone: str = "us-central1-a",
    machine_type: str = "g2-standard-8",
    created: str = "2026-11-20T04:00:00.000-08:00",
    spot: bool = False,
    public: bool = False,
    bucket: str = "demo-project-incubator",
    **more: Any,
) -> dict[str, Any]:
    """VM (24 hours at most), boot disk of 250 GiB, data disk of 200 GiB, its network, and a NAT if there is no external address."""
    name, region = f"incubator-{stack}", zone[:-2]
    labels = {"incubator-bucket": bucket, "incubator-stack": stack, "owner": "unnamed", "run": "none"}
    mark = {"description": f"incubator-stack={stack} incubator-bucket={bucket}"}
    network = put(state, NETWORK, f"global/networks/{name}", created, mark)
    data = put(
        state,
        DISK,
        f"zones/{zone}/disks/{name}-data",
        created,
        {"size": 200, "type": "pd-balanced", "zone": zone, "labels": labels},
    )
    inputs = {
        "machineType": machine_type,
        "zone": zone,
        "labels": labels,
        "bootDisk": {"autoDelete": True, "initializeParams": {"size": 250, "type": "pd-balanced", "labels": labels}},
        "attachedDisks": [{"source": data["id"], "deviceName": "data"}],
        "networkInterfaces": [{"accessConfigs": [{"networkTier": "PREMIUM"}] if public else []}],
        "serviceAccount": {"email": f"incubator-training@{state['project']}.iam.gserviceaccount.com"},
        "metadata": {"enable-oslogin": "TRUE"},
        "scheduling": {
            "provisioningModel": "SPOT" if spot else "STANDARD",
            "preemptible": spot,
            "instanceTerminationAction": "STOP",
            "maxRunDuration": {"seconds": 86400},
        },
    }
    vm = put(state, INSTANCE, f"zones/{zone}/instances/{name}", created, inputs, **{"status": "RUNNING", **more})
    boot = {"size": 250, "type": "pd-balanced", "zone": zone, "labels": labels}
    put(state, DISK, f"zones/{zone}/disks/{name}", created, boot, boot_of=vm["id"])
    if not public:
        put(state, ROUTER, f"regions/{region}/routers/{name}-router", created, {"region": region, "network": network["id"]})
        nat = {"router": f"{name}-router", "region": region}
        put(state, NAT, f"regions/{region}/routers/{name}-router/{name}-nat", created, nat)
    return vm
