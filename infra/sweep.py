"""What of ours still costs money in a project, asked of GCP itself: whatever became of Pulumi's state."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from infra.gcloud import ApiDisabled, NotFound, all_at_once, gcloud
from infra.prices import (
    ADDRESS_IN_USE_USD_PER_HOUR,
    ADDRESS_UNUSED_USD_PER_HOUR,
    BUCKET_USD_PER_GIB_MONTH,
    HOURS_PER_MONTH,
    SNAPSHOT_USD_PER_GIB_MONTH,
    disk_usd_per_month,
    nat_usd_per_hour,
    vm_usd_per_hour,
)
from infra.refusal import Failed
from infra.stack_config import CHECKPOINT_UNDO_DAYS, PROJECT, UNDO_DAYS

KINDS = ("VM", "disk", "address", "snapshot", "NAT")
"""In the order in which they can be deleted."""

NOT_LISTED = (
    f"Not listed: the bucket, which is the result and stays (about {BUCKET_USD_PER_GIB_MONTH:.3f} dollars per GiB and month, and "
    f"as much for what was deleted or overwritten in it: kept for {UNDO_DAYS} days, checkpoints for {CHECKPOINT_UNDO_DAYS}), "
    "and networks, rules and accounts, which cost nothing."
)
DELETE_SECONDS = 600  # a VM shuts down before it goes
RUNNING = frozenset({"PROVISIONING", "STAGING", "RUNNING", "STOPPING", "REPAIRING"})
_COLLECTIONS = ("instances", "disks", "addresses", "snapshots", "routers")
_COMMANDS = {"VM": "instances", "disk": "disks", "address": "addresses", "snapshot": "snapshots", "NAT": "routers"}

Resource = Mapping[str, Any]


@dataclass(frozen=True)
class Billed:
    """A thing of ours that costs money, or, a stopped VM, holds on to things that do.

    `place` is a zone, a region, or global. `name` is what is deleted: for a NAT, its router.

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


def billed(project: str, stack: str | None = None) -> list[Billed]:
    """Every VM, disk, address, snapshot and NAT of ours in a project, or of one stack.

    Raises: Refused or Failed if gcloud cannot say for sure: a list that misses a part is no answer.
    """
    return [item for item, _ in found(project, stack)]


def found(project: str, stack: str | None = None) -> list[tuple[Billed, Resource]]:
    """The same, each with what the Compute API says of it.

    Raises: Refused or Failed.
    """
    questions = {name: partial(gcloud, "compute", name, "list", f"--project={project}") for name in _COLLECTIONS}
    answers: dict[str, list[Resource]] = {}
    for name, answer in all_at_once(questions).items():
        if isinstance(answer, ApiDisabled):
            return []  # no VM, disk, address, snapshot or NAT can be in a project without the Compute API
        if isinstance(answer, Failed):
            raise answer
        answers[name] = answer
    vms = [vm for vm in answers["instances"] if _ours(vm, stack)]
    links = {vm["selfLink"] for vm in vms}
    disks = [disk for disk in answers["disks"] if _ours(disk, stack) or links & set(disk.get("users", []))]
    addresses = [address for address in answers["addresses"] if _ours(address, stack) and address["addressType"] == "EXTERNAL"]
    snapshots = [snapshot for snapshot in answers["snapshots"] if _ours(snapshot, stack)]
    routers = [router for router in answers["routers"] if _our_router(router, stack) and router.get("nats")]
    return [
        *((_vm(project, vm), vm) for vm in vms),
        *((_disk(project, disk), disk) for disk in disks),
        *((_address(project, address), address) for address in addresses),
        *((_snapshot(project, snapshot), snapshot) for snapshot in snapshots),
        *((_nat(project, router), router) for router in routers),
    ]


def delete(items: Iterable[Billed]) -> None:
    """Deletes them for good: VMs, then what they used.

    Raises: Refused or Failed, which says what is left and why; everything else is gone by then.
    """
    items, left = [*items], []
    for kind in KINDS:
        questions = {item: partial(_delete, item) for item in items if item.kind == kind}
        for item, answer in all_at_once(questions).items():
            if isinstance(answer, Failed) and not isinstance(answer, NotFound):  # a boot disk goes with its VM
                left.append(f"{item.kind} {item.name} ({item.place}): {answer}")
    if left:
        raise Failed("this could not be deleted, and goes on costing money:\n" + "\n".join(left))


def table(items: Iterable[Billed], stack: str | None = None) -> str:
    """The items with their prices and the sum, as text for a terminal; only `stack`, if there is one, was looked at."""
    items = [*items]
    if not items:
        what = f"stack {stack}" if stack else PROJECT
        rest = "\nOther stacks were not looked at: ./fab sweep." if stack else ""
        return f"Nothing of {what} costs money here: no VM, disk, address, snapshot or NAT.\n{NOT_LISTED}{rest}"
    rows = [("", "name", "place", "stack", "status", "$/month", "")]
    rows += [(item.kind, item.name, item.place, item.stack, item.status, _price(item), item.note) for item in items]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = ["  ".join([*map(str.ljust, row, widths[:5]), row[5].rjust(widths[5]), row[6]]).rstrip() for row in rows]
    total = sum(item.usd_per_month or 0 for item in items)
    least = "at least " if any(item.usd_per_month is None for item in items) else ""
    return "\n".join(
        [*lines, f"Together {least}about {total:.2f} dollars a month if all stays as it is (an estimate).", NOT_LISTED]
    )


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


def _ours(resource: Resource, stack: str | None) -> bool:
    labels = resource.get("labels", {})
    return labels.get("project") == PROJECT and stack in (None, labels.get("stack"))


def _our_router(router: Resource, stack: str | None) -> bool:
    """Routers have no labels: the stack stands in the name."""
    if stack is not None:
        return bool(router["name"] == f"{PROJECT}-{stack}-router")
    return bool(re.fullmatch(f"{PROJECT}-.+-router", router["name"]))


def _vm(project: str, vm: Resource) -> Billed:
    machine, runs = last(vm["machineType"]), vm["status"] in RUNNING
    hourly = usd_per_hour_running(vm) if runs else 0.0
    note = machine + (", Spot" if is_spot(vm) else "")
    note += ", with an external address" if runs and has_external_address(vm) else ""
    note += "" if runs else "; stopped: its disks cost all the same"
    note += _whose(vm)
    note += "; price not known" if hourly is None else ""
    monthly = None if hourly is None else hourly * HOURS_PER_MONTH
    return Billed(project, "VM", vm["name"], last(vm["zone"]), _stack(vm), vm["status"], monthly, note)


def _disk(project: str, disk: Resource) -> Billed:
    kind, gib, users = last(disk["type"]), int(disk["sizeGb"]), [last(user) for user in disk.get("users", [])]
    price = disk_usd_per_month(kind, gib)
    note = f"{gib} GiB {kind}, " + (f"used by {', '.join(users)}" if users else "used by no VM")
    note += ("; price not known" if price is None else "") + _whose(disk)
    place = last(disk.get("zone") or disk["region"])
    return Billed(project, "disk", disk["name"], place, _stack(disk), disk["status"], price, note)


def _address(project: str, address: Resource) -> Billed:
    used = address["status"] == "IN_USE"
    price = (ADDRESS_IN_USE_USD_PER_HOUR if used else ADDRESS_UNUSED_USD_PER_HOUR) * HOURS_PER_MONTH
    place = last(address.get("region", "global"))
    return Billed(project, "address", address["name"], place, _stack(address), address["status"], price, address["address"])


def _snapshot(project: str, snapshot: Resource) -> Billed:
    gib = int(snapshot.get("storageBytes", 0)) / 2**30
    price = gib * SNAPSHOT_USD_PER_GIB_MONTH
    return Billed(
        project, "snapshot", snapshot["name"], "global", _stack(snapshot), snapshot["status"], price, f"{gib:.0f} GiB stored"
    )


def _nat(project: str, router: Resource) -> Billed:
    monthly = nat_usd_per_hour(vms=1) * HOURS_PER_MONTH
    note = f"{', '.join(nat['name'] for nat in router['nats'])}, with one address; traffic comes on top"
    stack = router["name"].removeprefix(f"{PROJECT}-").removesuffix("-router")
    return Billed(project, "NAT", router["name"], last(router["region"]), stack, "", monthly, note)


def _whose(resource: Resource) -> str:
    """Two people may have a stack of one name in a project: whose it is, and since when."""
    return f"; of {resource.get('labels', {}).get('owner', 'nobody')}, since {resource['creationTimestamp'][:10]}"


def _stack(resource: Resource) -> str:
    return str(resource.get("labels", {}).get("stack", ""))


def _price(item: Billed) -> str:
    return "?" if item.usd_per_month is None else f"{item.usd_per_month:.2f}"


def _delete(item: Billed) -> None:
    scope = {2: f"--zone={item.place}", 1: f"--region={item.place}"}.get(item.place.count("-"), "--global")
    where = [] if item.kind == "snapshot" else [scope]
    gcloud("compute", _COMMANDS[item.kind], "delete", item.name, *where, f"--project={item.project}", seconds=DELETE_SECONDS)
