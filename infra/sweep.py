"""What of ours still costs money in a project, asked of GCP itself: whatever became of Pulumi's state."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from infra.gcloud import ApiDisabled, NotFound, all_at_once, gcloud
from infra.ours import Resource, is_of_stack, is_our_network, is_ours, looks_like_ours, stack_of_network
from infra.prices import (
    ADDRESS_IN_USE_USD_PER_HOUR,
    ADDRESS_UNUSED_USD_PER_HOUR,
    HOURS_PER_MONTH,
    IMAGE_USD_PER_GIB_MONTH,
    SNAPSHOT_USD_PER_GIB_MONTH,
    disk_usd_per_month,
    nat_usd_per_hour,
    vm_usd_per_hour,
)
from infra.stack_config import BUCKET_LABEL, PROJECT, STACK_LABEL
from infra.stack_files import our_buckets
from training.errors import RunError

KINDS = ("VM", "disk", "address", "snapshot", "image", "NAT", "network")
"""In the order in which they can be deleted."""

DELETE_SECONDS = 600  # a VM shuts down before it goes
RUNNING = frozenset({"PROVISIONING", "STAGING", "RUNNING", "STOPPING", "REPAIRING"})
_LISTS = {name: (name,) for name in ("instances", "disks", "addresses", "snapshots", "routers", "networks")} | {
    "images": ("images", "--no-standard-images")
}
COMMANDS = {
    "VM": "instances",
    "disk": "disks",
    "address": "addresses",
    "snapshot": "snapshots",
    "image": "images",
    "NAT": "routers",
    "network": "networks",
}


@dataclass(frozen=True)
class Billed:
    """A thing that costs money, or holds on to things that do (a stopped VM), or would be in the way of the next `up` (a network).

    `place` is a zone, a region, or global. `name` is what is deleted: for a NAT, its router. `ours` is False for what only looks
    like a thing of this installation: it is shown, and never deleted here.

    Units: `usd_per_month` US dollars for 730 hours, an estimate; None where the price is not known.
    """

    project: str
    kind: str
    name: str
    place: str
    stack: str
    status: str
    usd_per_month: float | None
    note: str
    ours: bool = True

    @property
    def costs(self) -> bool:
        """Whether it stands in the way of "nothing costs money": a network alone costs nothing."""
        return self.kind != "network"

    @property
    def may_hold_results(self) -> bool:
        """Whether it is a data disk: every disk but the one that a VM boots from, which has the VM's name."""
        return self.kind == "disk" and self.name != f"{PROJECT}-{self.stack}"

    @property
    def delete_words(self) -> tuple[str, ...]:
        """The words of gcloud that delete it."""
        scope = {2: f"--zone={self.place}", 1: f"--region={self.place}"}.get(self.place.count("-"), "--global")
        where = () if self.kind in ("snapshot", "image", "network") else (scope,)
        return ("compute", COMMANDS[self.kind], "delete", self.name, *where, f"--project={self.project}")


def billed(project: str, stack: str | None = None) -> list[Billed]:
    """Every VM, disk, address, snapshot, image, NAT and network of ours in a project, or of one stack; and what looks like ours.

    Raises: UserError or RunError if gcloud cannot say for sure: a list that misses a part is no answer.
    """
    return [item for item, _ in found(project, stack)]


def found(project: str, stack: str | None = None) -> list[tuple[Billed, Resource]]:
    """The same, each with what the Compute API says of it.

    Raises: UserError or RunError.
    """
    questions = {
        name: partial(gcloud, "compute", *words[:1], "list", *words[1:], f"--project={project}") for name, words in _LISTS.items()
    }
    answers: dict[str, list[Resource]] = {}
    for name, answer in all_at_once(questions).items():
        if isinstance(answer, ApiDisabled):
            return []  # nothing of all this can be in a project without the Compute API
        if isinstance(answer, RunError):
            raise answer
        answers[name] = answer
    everything = [*_Finder(project, our_buckets(project), answers)]
    return everything if stack is None else [(item, resource) for item, resource in everything if is_of(stack, item, resource)]


def is_of(stack: str, item: Billed, resource: Resource) -> bool:
    """Whether it is of a stack, by its label, its name, or the disk that it was made of."""
    if item.kind in ("NAT", "network"):
        return item.stack == stack
    return is_of_stack(resource, stack, _related(resource))


class _Finder:
    """Judges what the lists of a project hold."""

    def __init__(self, project: str, buckets: Collection[str], answers: dict[str, list[Resource]]) -> None:
        self._project, self._buckets, self._answers = project, buckets, answers
        self._links = {vm["selfLink"] for vm in answers["instances"] if is_ours(vm, buckets)}

    def __iter__(self) -> Iterator[tuple[Billed, Resource]]:
        external = [address for address in self._answers["addresses"] if address["addressType"] == "EXTERNAL"]
        yield from self._of(self._answers["instances"], _vm)
        yield from self._of(self._answers["disks"], _disk)
        yield from self._of(external, _address)
        yield from self._of(self._answers["snapshots"], _snapshot)
        yield from self._of(self._answers["images"], _image)
        networks = {network["name"]: is_our_network(network, self._buckets) for network in self._answers["networks"]}
        for router in self._answers["routers"]:
            if (named := re.fullmatch(rf"{PROJECT}-(.+)-router", router["name"])) and router.get("nats"):
                ours = networks.get(last(router["network"]), False) and last(router["network"]) == f"{PROJECT}-{named[1]}"
                yield _nat(self._project, router, named[1], ours), router
        for network in self._answers["networks"]:
            if network["name"].startswith(f"{PROJECT}-"):
                yield _network(self._project, network, networks[network["name"]]), network

    def _of(
        self, resources: Iterable[Resource], make: Callable[[str, Resource, bool], Billed]
    ) -> Iterator[tuple[Billed, Resource]]:
        """Those that are ours, or look like it."""
        for resource in resources:
            ours = is_ours(resource, self._buckets) or self._is_our_disk(resource)
            if ours or looks_like_ours(resource, _related(resource)):
                yield make(self._project, resource, ours), resource

    def _is_our_disk(self, resource: Resource) -> bool:
        """Without labels it is ours if it is called and used as a disk of our VM is."""
        users = [last(user) for user in set(resource.get("users", [])) & self._links if "sizeGb" in resource]
        return not resource.get("labels") and any(resource["name"] in (user, f"{user}-data") for user in users)


def delete(items: Iterable[Billed]) -> None:
    """Deletes what is ours of them for good: VMs, then what they used.

    Raises: UserError or RunError, which says what is left and why; everything else is gone by then.
    """
    items, left = [item for item in items if item.ours], []
    for kind in KINDS:
        questions = {item: partial(_delete, item) for item in items if item.kind == kind}
        for item, answer in all_at_once(questions).items():
            if isinstance(answer, RunError) and not isinstance(answer, NotFound):  # a boot disk goes with its VM
                costs = "" if item.costs else " (it costs nothing itself)"
                left.append(f"{item.kind} {item.name} ({item.place}){costs}: {answer}")
    if left:
        raise RunError("this could not be deleted, and goes on costing money:\n" + "\n".join(left))


def _delete(item: Billed) -> None:
    if item.kind == "network":
        _empty(item)
    gcloud(*item.delete_words, seconds=DELETE_SECONDS)


def _empty(network: Billed) -> None:
    """Deletes the rules and subnets of a network, which costs nothing but would be in the way of the next `up`."""
    where = f"--project={network.project}"
    told = gcloud("compute", "networks", "describe", network.name, where)
    for rule in gcloud("compute", "firewall-rules", "list", where):
        if last(rule["network"]) == network.name:
            gcloud("compute", "firewall-rules", "delete", rule["name"], where)
    for router in gcloud("compute", "routers", "list", where):  # one whose NAT is gone already
        if last(router["network"]) == network.name:
            gcloud("compute", "routers", "delete", router["name"], f"--region={last(router['region'])}", where)
    for subnet in told.get("subnetworks", []):
        region = subnet.split("/")[-3]
        gcloud("compute", "networks", "subnets", "delete", last(subnet), f"--region={region}", where)


def is_spot(vm: Resource) -> bool:
    """Whether a VM may be taken away at any time."""
    return bool(vm.get("scheduling", {}).get("provisioningModel") == "SPOT")


def has_external_address(vm: Resource) -> bool:
    """Whether a VM has an IPv4 address of its own on the internet."""
    return any(interface.get("accessConfigs") for interface in vm.get("networkInterfaces", []))


def usd_per_hour_running(vm: Resource) -> float | None:
    """What a VM costs while it runs, with its external address if it has one, without disks.

    Units: US dollars an hour.
    """
    price = vm_usd_per_hour(last(vm["machineType"]), last(vm["zone"]), is_spot(vm))
    return None if price is None else price + ADDRESS_IN_USE_USD_PER_HOUR * has_external_address(vm)


def last(path: str) -> str:
    """The name at the end of a URL."""
    return path.rpartition("/")[2]


def _related(resource: Resource) -> list[str]:
    """The names of what uses it, and of the disk that it was made of."""
    return [last(link) for link in (*resource.get("users", []), *filter(None, [resource.get("sourceDisk")]))]


def _vm(project: str, vm: Resource, ours: bool) -> Billed:
    machine, runs = last(vm["machineType"]), vm["status"] in RUNNING
    hourly = usd_per_hour_running(vm) if runs else 0.0
    note = machine + (", Spot" if is_spot(vm) else "")
    note += ", with an external address" if runs and has_external_address(vm) else ""
    note += "" if runs else "; stopped: its disks cost all the same"
    note += _whose(vm, ours)
    note += "; price not known" if hourly is None else ""
    monthly = None if hourly is None else hourly * HOURS_PER_MONTH
    return Billed(project, "VM", vm["name"], last(vm["zone"]), _stack(vm), vm["status"], monthly, note, ours)


def _disk(project: str, disk: Resource, ours: bool) -> Billed:
    kind, gib = last(disk["type"]), int(disk["sizeGb"])
    users = [last(user) for user in disk.get("users", [])]
    price = disk_usd_per_month(kind, gib)
    since = f" since {disk['lastDetachTimestamp'][:10]}" if disk.get("lastDetachTimestamp") else ""
    note = f"{gib} GiB {kind}, " + (f"used by {', '.join(users)}" if users else f"used by no VM{since}")
    note += ("; price not known" if price is None else "") + _whose(disk, ours)
    place = last(disk.get("zone") or disk["region"])
    stack = _stack(disk) or (users[0].removeprefix(f"{PROJECT}-") if ours else "")
    return Billed(project, "disk", disk["name"], place, stack, disk["status"], price, note, ours)


def _address(project: str, address: Resource, ours: bool) -> Billed:
    used = address["status"] == "IN_USE"
    price = (ADDRESS_IN_USE_USD_PER_HOUR if used else ADDRESS_UNUSED_USD_PER_HOUR) * HOURS_PER_MONTH
    place = last(address.get("region", "global"))
    return Billed(project, "address", address["name"], place, _stack(address), address["status"], price, address["address"], ours)


def _snapshot(project: str, snapshot: Resource, ours: bool) -> Billed:
    gib = int(snapshot.get("storageBytes", 0)) / 2**30
    price = gib * SNAPSHOT_USD_PER_GIB_MONTH
    note = f"{gib:.0f} GiB stored{_made_of(snapshot)}"
    return Billed(project, "snapshot", snapshot["name"], "global", _stack(snapshot), snapshot["status"], price, note, ours)


def _image(project: str, image: Resource, ours: bool) -> Billed:
    gib = int(image.get("archiveSizeBytes", 0)) / 2**30
    note = f"{gib:.0f} GiB stored{_made_of(image)}"
    price = gib * IMAGE_USD_PER_GIB_MONTH
    return Billed(project, "image", image["name"], "global", _stack(image), image.get("status", ""), price, note, ours)


def _made_of(resource: Resource) -> str:
    return f", of disk {last(resource['sourceDisk'])}" if resource.get("sourceDisk") else ""


def _nat(project: str, router: Resource, stack: str, ours: bool) -> Billed:
    monthly = nat_usd_per_hour(vms=1) * HOURS_PER_MONTH
    note = f"{', '.join(nat['name'] for nat in router['nats'])}, with one address; traffic comes on top"
    return Billed(project, "NAT", router["name"], last(router["region"]), stack, "", monthly, note, ours)


def _network(project: str, network: Resource, ours: bool) -> Billed:
    stack = stack_of_network(network)
    return Billed(project, "network", network["name"], "global", stack, "", 0.0, "costs nothing, with its rules and subnets", ours)


def _whose(resource: Resource, ours: bool) -> str:
    """Two people may have a stack of one name in a project: whose it is, and since when."""
    labels = resource.get("labels") or {}
    bucket = f" (bucket {labels[BUCKET_LABEL]})" if labels.get(BUCKET_LABEL) and not ours else ""
    return f"; of {labels.get('owner', 'nobody')}{bucket}, since {resource['creationTimestamp'][:10]}"


def _stack(resource: Resource) -> str:
    return str((resource.get("labels") or {}).get(STACK_LABEL, ""))
