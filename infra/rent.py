"""`fab up` and `fab down`: checks before anything costs money, the engine, the next zone if one is sold out, a last look."""

import shlex
from collections.abc import Iterable

from infra.advice import next_step
from infra.engine import Engine, Plan
from infra.gcloud import gcloud
from infra.machine_types import region_of
from infra.ours import Resource
from infra.outputs import MachineOutputs
from infra.policy import BUCKET, INSTANCE
from infra.preflight import preflight
from infra.prices import HOURS_PER_MONTH, disk_usd_per_month, nat_usd_per_hour
from infra.shortage import Shortage, next_zone, shortage
from infra.stack_config import PROJECT, UNUSED_MINUTES, MachineSettings
from infra.sweep import Billed, delete, found, is_of, last
from infra.sweep_table import beside
from training.errors import RunError, UserError


def rent(engine: Engine, allow_replace: bool) -> None:
    """Bring a stack up.

    Raises: UserError before anything is created; RunError where the cloud or the engine could not.
    """
    engine.make_sure_it_exists()
    settings = engine.settings()
    for line in preflight(settings, engine.stack):
        print(line)
    came_before = engine.holds(INSTANCE) or "instance_id" in engine.outputs()  # a disk that no VM ever had is empty
    plan = engine.plan()
    if came_before and not allow_replace:
        _refuse_a_loss(plan, engine.stack)
    _refuse_a_smaller_boot_disk(plan, engine.stack)
    if not isinstance(settings, MachineSettings):
        _up(engine)
        return
    _say_what_costs(settings, engine.stack, came_before)
    _up_somewhere(engine, settings, movable=not came_before)
    _look_at_what_came(engine)


def _say_what_costs(settings: MachineSettings, stack: str, came_before: bool) -> None:
    """What forgetting the machine would cost, and what else costs money in the project now.

    Raises: UserError if there is a VM of its name that Pulumi does not know of.
    """
    hours, price = settings.max_run_seconds / 3600, settings.price
    if price is None:
        each = f"its price is not known here (pulumi config set incubator:usdPerHour DOLLARS --stack {stack})"
        limit = f"after {hours:g} hours"
    else:
        each, limit = f"about ${price:.2f} an hour while it runs", f"after {hours:g} hours (${price * hours:.2f})"
    print(
        f"{each}. If you forget it: it powers itself off {UNUSED_MINUTES} minutes after its boot if nothing was bootstrapped, and "
        f"the cloud ends it {limit}; what is left then costs about ${left_usd_per_month(settings):.0f} a month until "
        f"./fab down --stack {stack}"
    )
    everything = found(settings.project)
    there = [item for item, _ in everything if item.kind == "VM" and item.name == f"{PROJECT}-{stack}"]
    if there and not came_before:
        raise UserError(
            f"{there[0].name} is there already ({there[0].place}, {there[0].status}), but not in this Pulumi state, which may be "
            f"lost, or on another laptop. To bring its results to the bucket and remove it: ./fab down --stack {stack}; or give "
            "your stack another name"
        )
    for line in beside(item for item, resource in everything if not is_of(stack, item, resource)):
        print(line)


def left_usd_per_month(settings: MachineSettings) -> float:
    """What a machine costs that has been ended by the cloud or by itself: its disks, and the NAT.

    Units: US dollars a month.
    """
    boot = disk_usd_per_month(settings.boot_disk_type, settings.boot_disk_gib) or 0.0
    data = disk_usd_per_month(settings.data_disk_type, settings.data_disk_gib) or 0.0
    return data + boot * (settings.termination_action == "STOP") + nat_usd_per_hour(1) * HOURS_PER_MONTH * (settings.ssh == "iap")


def _refuse_a_loss(plan: Plan, stack: str) -> None:
    lost = [name for name in (*plan.replaced, *plan.deleted) if name in ("vm", "data-disk")]
    if lost:
        raise UserError(
            f"stack {stack}: this would replace {' and '.join(lost)}, and what is on its disk and not in the bucket would be lost "
            f"(see: pulumi preview --stack {stack}); run it again with --replace if that is meant"
        )


def _refuse_a_smaller_boot_disk(plan: Plan, stack: str) -> None:
    """The provider plans it as a change in place, which Google then refuses."""
    now, wanted = plan.boot_disk_gib or (0, 0)
    if wanted < now:
        raise UserError(
            f"configs/stacks/Pulumi.{stack}.yaml: incubator:bootDiskGib: {wanted}: the boot disk has {now} GiB, and a disk cannot "
            f"shrink (accepted: {now} or more; or a new machine: ./fab down --stack {stack}, then ./fab up --stack {stack})"
        )


def _up(engine: Engine) -> None:
    ended = engine.show("up", "--yes", "--skip-preview", "--stack", engine.stack)
    if ended.code != 0:
        raise RunError(next_step(engine.stack, ended.errors))


def _up_somewhere(engine: Engine, settings: MachineSettings, movable: bool) -> None:
    """`pulumi up`, in the next zone as long as one is sold out."""
    name, tried = f"{PROJECT}-{engine.stack}", [settings.zone]
    while True:
        before = {operation["id"] for operation in _operations(settings.project, name)}
        ended = engine.show("up", "--yes", "--skip-preview", "--stack", engine.stack)
        if ended.code == 0:
            return
        new = [operation for operation in _operations(settings.project, name) if operation["id"] not in before]
        found = shortage(new, ended.errors)
        if found is None or (found.kind == "quota" and not _only_there(found, tried)):
            _put_back(engine, settings.zone, tried)
            raise RunError(next_step(engine.stack, ended.errors, found))
        zone = next_zone(tried, found, settings.other_regions)
        if not movable or zone is None:
            _put_back(engine, settings.zone, tried)
            raise RunError(_nowhere(engine.stack, tried, movable, settings.other_regions))
        why = "is sold out" if found.kind == "sold_out" else "is beyond the quota of its region"
        print(f"{tried[-1]} {why}; trying {zone} (incubator:zone in configs/stacks/Pulumi.{engine.stack}.yaml)", flush=True)
        engine.set("zone", zone)
        tried.append(zone)


def _only_there(found: Shortage, tried: list[str]) -> bool:
    """Whether a quota is missing in another region only, to which the search had moved on."""
    return f"in region {region_of(tried[-1])}" in found.words and region_of(tried[-1]) != region_of(tried[0])


def _put_back(engine: Engine, zone: str, tried: list[str]) -> None:
    if len(tried) > 1:
        engine.set("zone", zone)


def _operations(project: str, name: str) -> list[dict[str, str]]:
    """What the cloud has noted of attempts to create the VM, newest first."""
    found: list[dict[str, str]] = gcloud(
        "compute", "operations", "list", f"--project={project}", f"--filter=operationType=insert AND targetLink~/instances/{name}$"
    )
    return sorted(found, key=lambda operation: operation.get("insertTime", ""), reverse=True)


def _nowhere(stack: str, tried: list[str], movable: bool, other_regions: bool) -> str:
    if not movable:
        return (
            f"{tried[-1]} is sold out, and the data disk of stack {stack} stands there. Try again later; or, if all that counts is "
            f"in the bucket, move without the disk: ./fab down --stack {stack} --without-sync, then ./fab up --stack {stack}"
        )
    elsewhere = (
        "" if other_regions else f"; to look in other regions too: pulumi config set incubator:otherRegions true --stack {stack}"
    )
    return (
        f"sold out in {', '.join(tried)}: no machine was rented{elsewhere}. An empty disk and a NAT are left "
        f"(./fab cost --stack {stack}); ./fab down --stack {stack} removes them, ./fab up --stack {stack} tries again"
    )


def _look_at_what_came(engine: Engine) -> None:
    """Is it what was asked for? A Spot VM that came as a standard one costs more than twice as much.

    Raises: RunError with what differs.
    """
    asked = MachineOutputs.of(engine.outputs(), engine.stack)
    vm = gcloud("compute", "instances", "describe", asked.name, f"--project={asked.project}", f"--zone={asked.zone}")
    came = {
        "provisioning": str(vm.get("scheduling", {}).get("provisioningModel", "STANDARD")).lower(),
        "machine_type": str(vm.get("machineType", "")).split("/")[-1],
        "status": str(vm.get("status", "")),
    }
    wanted = {"provisioning": asked.provisioning, "machine_type": asked.machine_type, "status": "RUNNING"}
    wrong = [f"{key}: {came[key]} instead of {wanted[key]}" for key in wanted if came[key] != wanted[key]]
    if wrong:
        off = "" if came["status"] == "RUNNING" else f"To start it: {asked.start}. "
        raise RunError(
            f"{asked.name} is not what was asked for: {'; '.join(wrong)}. {off}To give it back: ./fab down --stack {engine.stack}"
        )
    print(f"{asked.name} runs in {asked.zone} ({asked.machine_type}, {asked.provisioning})")


def give_back(engine: Engine, machine: MachineOutputs | None = None) -> None:
    """`pulumi destroy`; and what that does not know of a machine goes by its labels and names.

    Raises: UserError for a stack that stays, or what is not of the machine; RunError where the engine or the cloud could not.
    """
    exists = engine.exists()
    if machine is not None and not (exists and engine.holds(INSTANCE)):  # first: a VM holds on to its disk and network
        stack = machine.name.removeprefix(f"{PROJECT}-")
        pairs = [(item, resource) for item, resource in found(machine.project, stack) if item.ours]
        _refuse_what_was_not_asked(machine.name, stack, pairs)
        made = [item for item, _ in pairs if item.kind not in ("address", "snapshot", "image")]
        print(f"not in this Pulumi state: {', '.join(f'{item.kind} {item.name}' for item in made)}: deleting them", flush=True)
        delete(made)
    if exists:
        _destroy(engine)


def _refuse_what_was_not_asked(name: str, stack: str, pairs: Iterable[tuple[Billed, Resource]]) -> None:
    """A VM or disk with the stack's label that is not of this machine: nobody has asked it for its results."""
    others = [
        item
        for item, resource in pairs
        if (item.kind == "VM" and item.name != name)
        or (item.kind == "disk" and item.name not in (name, f"{name}-data") and name not in map(last, resource.get("users", [])))
    ]
    if others:
        commands = "; ".join(f"gcloud {shlex.join(item.delete_words)}" for item in others)
        raise UserError(
            f"{', '.join(f'{item.kind} {item.name}' for item in others)}: with the label of stack {stack}, but not of {name}: its "
            f"results were not asked for, and nothing was deleted. If nothing on it is needed: {commands}; then again: "
            f"./fab down --stack {stack}"
        )


def _destroy(engine: Engine) -> None:
    if engine.holds(BUCKET):
        bucket = engine.outputs().get("bucket", "BUCKET")
        raise UserError(
            f"stack {engine.stack} holds the bucket with your results, and is protected. To give it up for good, delete the "
            f"objects with their earlier versions: gcloud storage rm --all-versions 'gs://{bucket}/**', "
            f"then: pulumi state unprotect --all --stack {engine.stack}; pulumi destroy --stack {engine.stack}"
        )
    ended = engine.show("destroy", "--yes", "--skip-preview", "--stack", engine.stack)
    if ended.code != 0:
        raise RunError(next_step(engine.stack, ended.errors, verb="destroy"))
