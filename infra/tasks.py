"""The user's verbs for what exists in the cloud, one function a verb of `fab` (`fab down`, which needs SSH too: fabfile.py)."""

from datetime import UTC, datetime

from invoke.context import Context
from invoke.tasks import task

from infra.adopt import adopt as bring_back
from infra.begin import begin
from infra.cost import cost as cost_of
from infra.engine import Engine
from infra.lost_state import machine_without_state
from infra.outputs import MachineOutputs
from infra.policy import BUCKET
from infra.preflight import preflight as check_beforehand
from infra.prices import BUCKET_USD_PER_GIB_MONTH
from infra.refusal import plain_refusals
from infra.rent import rent
from infra.stack_config import PROJECT, UNDO_DAYS, MachineSettings, check_stack_name
from infra.stack_files import project_of
from infra.sweep import RUNNING, Billed, delete, found, is_of
from infra.sweep_table import table
from training.errors import RunError, UserError
from training.text import escaped

STACK = {"stack": "name of the stack, such as l4 (default: $PULUMI_STACK, or the one of `pulumi stack select`)"}


@task(
    help={
        "project": "project of Google Cloud, such as my-cells (no default)",
        "region": "where the bucket lies and machines are: us-central1, or europe-west4 for data that stays in the EU (no default)",
    }
)
@plain_refusals
def init(c: Context, project: str, region: str) -> None:
    """Write the settings of each stack to configs/stacks/Pulumi.STACK.yaml, which git ignores, and a passphrase for Pulumi.

    Example: ./fab init --project my-cells --region us-central1
    """
    for line in begin(project, region):
        print(line)


@task(help=STACK)
@plain_refusals
def preflight(c: Context, stack: str | None = None) -> None:
    """Ask Google Cloud whether a stack can be created: login, APIs, quota, permissions, image. Creates nothing, costs nothing.

    Example: ./fab preflight --stack l4
    """
    engine = Engine(stack)
    for line in check_beforehand(engine.settings(), engine.stack):
        print(line)


@task(help={**STACK, "replace": "allow a change that deletes the VM or the data disk and makes a new one (default: refused)"})
@plain_refusals
def up(c: Context, stack: str | None = None, replace: bool = False) -> None:
    """Create or change what a stack declares, a machine for example. From then on it costs money, until `./fab down`.

    Preflight comes first, then `pulumi up`. If a zone has no machine of this type left, the next zone is tried.
    Example: ./fab up --stack l4
    """
    rent(Engine(stack), allow_replace=replace)


@task(help={"stack": "name of the stack that holds the bucket (default: storage)"})
@plain_refusals
def adopt(c: Context, stack: str = "storage") -> None:
    """Bring bucket, account and grants back into Pulumi's state, after that was lost. In the cloud nothing is changed.

    Example: ./fab adopt
    """
    bring_back(Engine(stack))


@task(help={**STACK, "until": "a date such as 2026-12-01: also what it will have cost by then (default: no such line)"})
@plain_refusals
def cost(c: Context, stack: str | None = None, until: str | None = None) -> None:
    """Show what a machine costs in dollars: per hour now, since its creation, and until a date. An estimate.

    Example: ./fab cost --stack l4 --until 2027-01-31
    """
    engine = Engine(stack)
    settings = engine.settings()
    if not isinstance(settings, MachineSettings):
        raise UserError(
            f"stack {engine.stack} is no machine: its bucket costs about {BUCKET_USD_PER_GIB_MONTH:.2f} dollars a GiB and month, "
            f"and what was deleted or overwritten in the last {UNDO_DAYS} days as much (accepted: a stack of a machine, such as l4)"
        )
    called = str(engine.outputs().get("name", "")).removeprefix(f"{PROJECT}-") or engine.stack  # after `pulumi stack rename`
    print(cost_of(settings.project, called, datetime.now(UTC), _day(until), settings.usd_per_hour))


def _day(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        day = datetime.fromisoformat(text)
        return day if day.tzinfo else day.replace(tzinfo=UTC)
    except ValueError:
        raise UserError(f"--until: {text} (accepted: a date such as 2026-12-01)") from None


@task(
    help={
        "stack": "only what belongs to this stack, such as l4 (default: everything of the project)",
        "project": "project of Google Cloud, such as my-cells (default: the one of the stack)",
        "delete": "delete what was found, after a question (for a data disk without a VM: its name); never what is not of this "
        "installation (default: list it)",
        "without-sync": "with --delete: also machines, on or off, whatever is on their disks (default: these stay)",
    }
)
@plain_refusals
def sweep(
    c: Context, stack: str | None = None, project: str | None = None, delete: bool = False, without_sync: bool = False
) -> None:
    """List what still costs money in Google Cloud, by labels and names, not by Pulumi's state. Exit code 1 if anything does.

    Example: ./fab sweep --delete
    """
    if stack is not None:
        check_stack_name(stack)
    if without_sync and not delete:
        raise UserError("--without-sync has no effect without --delete")
    sweep_up(project or project_of(stack), stack, delete, without_sync)


def sweep_up(project: str, stack: str | None, and_delete: bool, without_sync: bool = False) -> None:
    """List, and on request delete, what costs money.

    Raises: RunError if anything is left.
    """
    items = _listed(project, stack)
    again = f" --stack {stack}" if stack else ""
    if and_delete and (doomed := [item for item in items if item.ours and (without_sync or not _is_held(item, items))]):
        delete(_agreed(doomed, [item for item in doomed if item.may_hold_results and not _is_held(item, items)], without_sync))
        items = _listed(project, stack)
    costly = [item for item in items if item.costs]
    if any(item.ours for item in costly):
        raise RunError(f"{len(costly)} still cost money; {_way_out(items, again)}")
    if costly:
        raise RunError(f"{len(costly)} still cost money, none of this installation: whose they are stands above")


def _listed(project: str, stack: str | None) -> list[Billed]:
    pairs = found(project)
    items = [item for item, resource in pairs if stack is None or is_of(stack, item, resource)]
    print(table(items, stack, [item for item, _ in pairs if item not in items]))
    return items


def _is_held(item: Billed, items: list[Billed]) -> bool:
    """Whether it is of a machine that exists, on or off: results may be on its disks that are nowhere else."""
    return item.stack in {other.stack for other in items if other.ours and other.kind == "VM"}


def _agreed(doomed: list[Billed], disks: list[Billed], without_sync: bool) -> list[Billed]:
    """What a person agrees to delete. Each of the `disks`, whose VM is gone, needs its name, unless --without-sync was said.

    Raises: UserError if that is nothing.
    """
    for disk in disks:
        where = f"--project={disk.project} --zone={disk.place} --disk=name={disk.name}"
        text = (
            f"{disk.name} in {disk.place} ({disk.note}) has no VM that could bring its results: what never came to the bucket is "
            f"on it alone, and would be lost. To look first: ./fab up --stack {disk.stack} makes a VM on it, and ./fab down "
            f"--stack {disk.stack} then brings what is left; without Pulumi's state: gcloud compute instances create look-at-it "
            f"{where}"
        )
        print(escaped(text))
    rest = [item for item in doomed if without_sync or item not in disks]
    which = "the other" if len(rest) < len(doomed) else "these"
    contents = ", with what is on the disks" if without_sync else ""
    if rest and _answer(f"Delete {which} {len(rest)} for good{contents}? Type yes: ") != "yes":
        raise UserError("nothing was deleted")
    named = [disk for disk in disks if disk not in rest and _answer(f"Type {disk.name} to delete it: ") == disk.name]
    if not rest and not named:
        raise UserError("nothing was deleted")
    return [*rest, *named]


def _way_out(items: list[Billed], again: str) -> str:
    machines = [item for item in items if item.ours and item.kind == "VM"]
    free = [item for item in items if item.ours and item.costs and not _is_held(item, items)]
    words = [f"./fab sweep{again} --delete removes them"] if free and not machines else []
    words += [f"./fab sweep{again} --delete removes what is of no machine"] if free and machines else []
    words += [
        f"{vm.name} {'runs, and a run may be on it' if vm.status in RUNNING else f'is {vm.status}, and results may be on it'}: "
        f"./fab down --stack {vm.stack} brings its results to the bucket and removes it "
        f"(with what is on its disk: ./fab sweep --stack {vm.stack} --delete --without-sync)"
        for vm in machines
    ]
    return "; ".join(words)


def _answer(question: str) -> str:
    try:
        return input(question).strip()
    except EOFError:  # nobody is there to answer
        print()
        return ""


def machine_of(engine: Engine) -> MachineOutputs | None:
    """What the stack rents, or None if there is no VM: from Pulumi's state, and where that knows nothing from gcloud."""
    if engine.exists():
        outputs = engine.outputs()
        if "instance_id" in outputs:
            return MachineOutputs.of(outputs, engine.stack)
        if engine.holds(BUCKET):
            return None
    return machine_without_state(project_of(engine.stack), engine.stack)
