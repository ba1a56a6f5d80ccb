"""The verbs of `fab`. What each one does stands in infra/tasks.py and bootstrap/tasks.py; `down` alone needs both rooms."""

from invoke.context import Context
from invoke.tasks import task

from bootstrap.last_sync import last_sync
from bootstrap.tasks import check, demo
from infra.engine import Engine, project_of
from infra.refusal import Refused
from infra.rent import give_back, vm_status
from infra.tasks import STACK, cost, machine_of, plain_refusals, preflight, sweep, sweep_up, up

__all__ = ["check", "cost", "demo", "down", "preflight", "sweep", "up"]


@task(help={**STACK, "without-sync": "do not ask the machine for its last results", "seconds": "how long to wait for them"})
@plain_refusals
def down(c: Context, stack: str | None = None, without_sync: bool = False, seconds: int = 600) -> None:
    """Give a machine back: last results to the bucket, pulumi destroy, then a sweep that proves that nothing costs."""
    engine = Engine(stack)
    machine = machine_of(engine)
    status = machine and vm_status(machine)
    if machine and status and not without_sync:
        start = f"gcloud compute instances start {machine.name} --zone={machine.zone} --project={machine.project}"
        wrong = last_sync(machine, seconds) if status == "RUNNING" else f"the VM is {status}; to start it: {start}"
        if wrong:
            raise Refused(
                f"{machine.name} was not asked for its last results ({wrong}). Nothing was destroyed; what is not in "
                f"{machine.bucket} would be lost. To destroy all the same: ./fab down --stack {engine.stack} --without-sync"
            )
    give_back(engine)
    sweep_up(machine.project if machine else project_of(engine.stack), engine.stack, and_delete=False)
