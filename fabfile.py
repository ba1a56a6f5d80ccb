"""The verbs of `fab`. What each one does stands in infra/tasks.py and bootstrap/tasks.py; `down` alone needs both rooms."""

from invoke.context import Context
from invoke.tasks import task

from bootstrap.last_sync import last_sync, not_proven
from bootstrap.tasks import bench, bootstrap, check, demo, lock, logs, pull, status, stop, train
from infra.engine import Engine
from infra.outputs import MachineOutputs
from infra.policy import INSTANCE
from infra.refusal import plain_refusals
from infra.rent import give_back
from infra.stack_config import check_stack_name
from infra.stack_files import project_of, stack_names
from infra.tasks import STACK, adopt, cost, init, machine_of, preflight, sweep, sweep_up, up
from infra.vm import vm_of
from training.errors import RunError, UserError

__all__ = [
    "adopt", "bench", "bootstrap", "check", "cost", "demo", "down", "init", "lock", "logs", "preflight", "pull", "status", "stop",
    "sweep", "train", "up",
]  # fmt: skip


@task(
    help={
        **STACK,
        "without-sync": "destroy it without copying its last results to the bucket (default: they are copied first)",
        "seconds": "how long to wait for the last results, in seconds (default: 600)",
    }
)
@plain_refusals
def down(c: Context, stack: str | None = None, without_sync: bool = False, seconds: str = "600") -> None:
    """Destroy what a stack declares: last results to the bucket, `pulumi destroy`, then a list of what still costs money.

    The bucket of the stack `storage` and its results stay.
    Example: ./fab down --stack l4
    """
    engine = Engine(stack)
    check_stack_name(engine.stack)
    machine, wait = machine_of(engine), _seconds(seconds)
    known = {*stack_names(), *engine.names()}
    if not machine and engine.stack not in known:
        raise UserError(
            f"stack {engine.stack}: there is no such file in configs/stacks, state or VM "
            f"(accepted: {', '.join(sorted(known)) or 'none'}); what costs money: ./fab sweep"
        )
    if machine and not without_sync:
        _bring_last_results(machine, engine.stack, wait)
    elif not machine and not without_sync and engine.exists() and engine.holds(INSTANCE):
        raise UserError(
            f"stack {engine.stack} has a VM, but was cut off before it could say how to reach it. Finish it: ./fab up --stack "
            f"{engine.stack}; or destroy it with what is on its disk: ./fab down --stack {engine.stack} --without-sync"
        )
    project = machine.project if machine else project_of(engine.stack)
    try:
        give_back(engine, machine)
    except RunError as failure:  # what costs is told all the same
        try:
            sweep_up(project, engine.stack, and_delete=False)
        except RunError as left:
            raise RunError(f"{failure}; {left}") from None
        raise
    sweep_up(project, engine.stack, and_delete=False)


def _seconds(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise UserError(f"--seconds: {text} (accepted: a whole number of seconds)")
    return int(text)


def _bring_last_results(machine: MachineOutputs, stack: str, seconds: int) -> None:
    """Refused unless all is in the bucket, as the machine says, or, if it is off, as its shutdown report and the bucket prove."""
    vm = vm_of(machine)
    if vm is not None and vm.is_on:
        wrong = last_sync(machine, seconds)
        way = "A run that was under way has ended with a checkpoint: ./fab train goes on with it. More time: --seconds 3600"
    elif vm is None:
        wrong = "the VM is gone, its data disk may not be"
        way = f"For a VM to it: ./fab up --stack {stack}, then ./fab down --stack {stack}"
    else:
        wrong = not_proven(machine, vm)
        way = f"The VM is {vm.status}. To start it, so that it brings the rest: {machine.start}; then ./fab down --stack {stack}"
    if wrong:
        raise UserError(
            f"{machine.name} has not brought all its results ({wrong}). Nothing was destroyed; what is not in {machine.bucket} "
            f"would be lost. {way}. To destroy all the same: ./fab down --stack {stack} --without-sync"
        )
