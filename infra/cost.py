"""What a stack costs: per hour now, since its creation, and if it is left until a date. Estimates from list prices, no bill."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from infra.prices import ADDRESS_IN_USE_USD_PER_HOUR, HOURS_PER_MONTH, NAT_USD_PER_GB, SOURCE
from infra.sweep import RUNNING, Billed, found, has_external_address, is_of, usd_per_hour_running
from infra.sweep_table import beside
from training.errors import UserError
from training.text import aligned, escaped

FIRST_START = timedelta(minutes=10)  # a start later than this after creation is another one

Resource = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One thing and what it costs.

    `at_most` says that `so_far` is an upper bound.

    Units: US dollars, an hour and in all; None where the price is not known, `by_then` also where no date is asked for.
    """

    what: str
    usd_per_hour: float | None
    so_far: float | None
    by_then: float | None
    at_most: bool = False


def cost(project: str, stack: str, now: datetime, until: datetime | None = None, usd_per_hour: float | None = None) -> str:
    """What everything of a stack costs, as text for a terminal; the times have a zone.

    Units: `usd_per_hour` US dollars, the user's own price of the running VM in place of the table's.
    Raises: UserError if `until` has passed, and whatever `infra.sweep.found` raises.
    """
    if until is not None and until <= now:
        raise UserError(f"--until: {_moment(until)} has passed; it is {_moment(now)}")
    everything = found(project)
    items = [(item, resource) for item, resource in everything if item.costs and is_of(stack, item, resource)]
    others = beside(item for item, resource in everything if not is_of(stack, item, resource))
    if not items:
        nothing = f"Nothing of stack {stack} costs money now: no VM, disk, address, snapshot, image or NAT in project {project}."
        return "\n".join([nothing, *others])
    vms = {resource["selfLink"]: resource for item, resource in items if item.kind == "VM"}
    rows = [
        _vm_row(item, resource, now, until, usd_per_hour) if item.kind == "VM" else _row(item, resource, vms, now, until)
        for item, resource in items
    ]
    head = f"Stack {stack} in project {project} at {_moment(now)}: about, in dollars (estimates, no bill)"
    notes = [note for vm in vms.values() for note in _notes(vm, now)]
    notes += (
        ["at most: stopped in between; of several stops Google tells the last one only"] if any(row.at_most for row in rows) else []
    )
    notes.append(f"not in it: the bucket, traffic (through a NAT about {NAT_USD_PER_GB} dollars a GB), and what is deleted already")
    notes.append(f"prices: {SOURCE}" + ("; the VM: as told by usdPerHour" if usd_per_hour else ""))
    return "\n".join([head, *_table(rows, until), *(f"- {escaped(note)}" for note in (*notes, *others))])


def _vm_row(item: Billed, vm: Resource, now: datetime, until: datetime | None, told: float | None) -> Row:
    """A stopped VM costs nothing itself; a running one ends at its limit."""
    price = usd_per_hour_running(vm) if told is None else told + ADDRESS_IN_USE_USD_PER_HOUR * has_external_address(vm)
    hours, at_most = _hours_run(vm, now)
    end = _end(vm, until) if until else now
    runs, what = vm["status"] in RUNNING, escaped(f"VM {item.name} ({item.status.lower()})")
    if price is None:
        return Row(what, None, None, None, at_most)
    ahead = _hours(now, end) if runs else 0
    return Row(what, price * runs, price * hours, price * (hours + ahead) if until else None, at_most)


def _row(item: Billed, resource: Resource, vms: Mapping[str, Resource], now: datetime, until: datetime | None) -> Row:
    """Everything else costs from its creation to its end, whether or not anything uses it."""
    what = escaped(f"{item.kind} {item.name}") + ("" if item.ours else " (not of this installation: ./fab sweep)")
    if item.usd_per_month is None:
        return Row(what, None, None, None)
    price, created = item.usd_per_month / HOURS_PER_MONTH, datetime.fromisoformat(resource["creationTimestamp"])
    end = until or now
    for vm in vms.values():
        goes_along = any(disk.get("source") == resource["selfLink"] and disk.get("autoDelete") for disk in vm.get("disks", []))
        if until and goes_along and vm["status"] in RUNNING and vm["scheduling"].get("instanceTerminationAction") == "DELETE":
            end = _end(vm, until)
    return Row(what, price, price * _hours(created, now), price * _hours(created, end) if until else None)


def _hours_run(vm: Resource, now: datetime) -> tuple[float, bool]:
    """How long a VM has run, and whether it is an upper bound: Google keeps the last start and the last stop."""
    created = datetime.fromisoformat(vm["creationTimestamp"])
    started, stopped = _time(vm, "lastStartTimestamp") or created, _time(vm, "lastStopTimestamp")
    again = started - created > FIRST_START
    if vm["status"] not in RUNNING:
        return _hours(created, stopped or now), again or stopped is None
    if not again:
        return _hours(created, now), False
    return _hours(created, min(stopped or started, started)) + _hours(started, now), True


def _end(vm: Resource, until: datetime) -> datetime:
    """When a running VM stops costing: at its limit, if that comes before `until`."""
    limit = limit_of(vm)
    return min(limit, until) if limit else until


def limit_of(vm: Resource) -> datetime | None:
    """When the cloud ends a running VM: what it says itself, otherwise counted from the last start."""
    told = vm.get("resourceStatus", {}).get("scheduling", {}).get("terminationTimestamp")
    if told:
        return datetime.fromisoformat(told)
    seconds = vm.get("scheduling", {}).get("maxRunDuration", {}).get("seconds")
    started = _time(vm, "lastStartTimestamp") or datetime.fromisoformat(vm["creationTimestamp"])
    return started + timedelta(seconds=int(seconds)) if seconds else None


def _notes(vm: Resource, now: datetime) -> list[str]:
    if vm["status"] not in RUNNING:
        return [f"{vm['name']} is stopped: its disks cost until they are deleted"]
    limit = limit_of(vm)
    if limit is None:
        return [f"{vm['name']} has no limit: it runs until someone ends it"]
    action = "deletes it" if vm["scheduling"].get("instanceTerminationAction") == "DELETE" else "stops it"
    left, rest = max(timedelta(), limit - now), "its data disk costs" if action == "deletes it" else "its disks cost"
    return [f"{vm['name']}: the cloud {action} at {_moment(limit)}, in {left / timedelta(hours=1):.1f} hours; {rest} on"]


def _table(rows: Iterable[Row], until: datetime | None) -> list[str]:
    rows = [*rows]
    prices = [[row.usd_per_hour for row in rows], [row.so_far for row in rows]] + ([[row.by_then for row in rows]] if until else [])
    heads = ["$/hour", "since creation"] + ([f"if left until {_moment(until)}"] if until else [])
    lines = [["", *heads]]
    for at, row in enumerate(rows):
        cells = [_dollars(column[at], digits) for column, digits in zip(prices, (4, 2, 2), strict=False)]
        if row.at_most:
            cells[1:] = [f"at most {cell}" for cell in cells[1:]]
        lines.append([row.what, *cells])
    sums = [_dollars(sum(price or 0 for price in column), digits) for column, digits in zip(prices, (4, 2, 2), strict=False)]
    least = any(row.so_far is None for row in rows)
    lines.append(["together", *(f"over {cell}" if least else cell for cell in sums)])
    return aligned(lines, right=range(1, len(lines[0])))


def _dollars(price: float | None, digits: int) -> str:
    return "?" if price is None else f"{price:.{digits}f}"


def _time(vm: Resource, key: str) -> datetime | None:
    return datetime.fromisoformat(vm[key]) if vm.get(key) else None


def _hours(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start) / timedelta(hours=1))


def _moment(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
