"""The user's verbs for what exists in the cloud, one function a verb of `fab` (`fab down`, which needs SSH too: fabfile.py)."""

from datetime import UTC, datetime

from invoke.context import Context
from invoke.tasks import task

from infra.cost import cost as cost_of
from infra.engine import Engine, project_of
from infra.outputs import MachineOutputs
from infra.preflight import preflight as check_beforehand
from infra.prices import BUCKET_USD_PER_GIB_MONTH
from infra.refusal import Failed, Refused, plain_refusals
from infra.rent import rent
from infra.stack_config import UNDO_DAYS, MachineSettings, check_stack_name
from infra.sweep import billed, delete, table

STACK = {"stack": "name of the stack, such as l4 (default: $PULUMI_STACK, or the one of `pulumi stack select`)"}


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


@task(help={**STACK, "until": "a date such as 2026-12-01: also what it will have cost by then (default: no such line)"})
@plain_refusals
def cost(c: Context, stack: str | None = None, until: str | None = None) -> None:
    """Show what a machine costs in dollars: per hour now, since its creation, and until a date. An estimate.

    Example: ./fab cost --stack l4 --until 2027-01-31
    """
    engine = Engine(stack)
    settings = engine.settings()
    if not isinstance(settings, MachineSettings):
        raise Refused(
            f"stack {engine.stack} is no machine: its bucket costs about {BUCKET_USD_PER_GIB_MONTH:.2f} dollars a GiB and month, "
            f"and what was deleted or overwritten in the last {UNDO_DAYS} days as much (accepted: a stack of a machine, such as l4)"
        )
    print(cost_of(settings.project, engine.stack, datetime.now(UTC), _day(until), settings.usd_per_hour))


def _day(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        day = datetime.fromisoformat(text)
        return day if day.tzinfo else day.replace(tzinfo=UTC)
    except ValueError:
        raise Refused(f"--until: {text} (accepted: a date such as 2026-12-01)") from None


@task(
    help={
        "stack": "only what belongs to this stack, such as l4 (default: everything of the project)",
        "project": "project of Google Cloud, such as my-cells (default: the one of the stack)",
        "delete": "delete what was found, after a question (default: list it)",
    }
)
@plain_refusals
def sweep(c: Context, stack: str | None = None, project: str | None = None, delete: bool = False) -> None:
    """List what still costs money in Google Cloud, by its labels, not by Pulumi's state. Exit code 1 if anything does.

    Example: ./fab sweep --delete
    """
    if stack is not None:
        check_stack_name(stack)
    sweep_up(project or project_of(stack), stack, delete)


def sweep_up(project: str, stack: str | None, and_delete: bool) -> None:
    """List, and on request delete, what costs money.

    Raises: Failed if anything is left.
    """
    found = billed(project, stack)
    print(table(found, stack))
    if found and and_delete:
        if _answer(f"Delete these {len(found)} for good, with what is on the disks? Type yes: ") != "yes":
            raise Refused("nothing was deleted")
        delete(found)
        found = billed(project, stack)
        print(table(found, stack))
    if found:
        again = f" --stack {stack}" if stack else ""
        raise Failed(f"{len(found)} still cost money; ./fab sweep{again} --delete removes them")


def _answer(question: str) -> str:
    try:
        return input(question).strip()
    except EOFError:  # nobody is there to answer
        print()
        return ""


def machine_of(engine: Engine) -> MachineOutputs | None:
    """What the stack rents, or None if it is not up."""
    outputs = engine.outputs() if engine.exists() else {}
    return MachineOutputs.of(outputs, engine.stack) if "instance_id" in outputs else None
