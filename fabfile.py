"""The verbs of `fab`. What each one does stands in infra/tasks.py and bootstrap/tasks.py; `down` alone needs both rooms."""

import sys
from pathlib import Path

from invoke.context import Context
from invoke.tasks import task

from bootstrap.last_sync import last_sync
from bootstrap.tasks import bench, bootstrap, check, demo, lock, logs, pull, status, stop, train
from infra.engine import Engine
from infra.outputs import MachineOutputs
from infra.policy import INSTANCE
from infra.refusal import Failed, Refused, plain_refusals
from infra.rent import give_back, vm_status
from infra.stack_files import project_of
from infra.tasks import STACK, cost, init, machine_of, preflight, sweep, sweep_up, up
from training.closed_pipe import end_at_closed_pipe, outlive_closed_pipe

__all__ = [
    "bench", "bootstrap", "check", "cost", "demo", "down", "init", "lock", "logs", "preflight", "pull", "status", "stop", "sweep",
    "train", "up",
]  # fmt: skip

WORK = {"bootstrap", "check", "demo", "down", "pull", "stop", "sweep", "train", "up"}
"""Verbs that go on though nobody reads what they print; the others, and --list, end then."""

if Path(sys.argv[0]).name == "fab":
    end_at_closed_pipe()
    if WORK.intersection(sys.argv[1:]):
        outlive_closed_pipe()


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
    machine, wait = machine_of(engine), _seconds(seconds)
    if machine and not without_sync:
        _bring_last_results(machine, engine.stack, wait)
    elif not machine and not without_sync and engine.exists() and engine.holds(INSTANCE):
        raise Refused(
            f"stack {engine.stack} has a VM, but was cut off before it could say how to reach it. Finish it: ./fab up --stack "
            f"{engine.stack}; or destroy it with what is on its disk: ./fab down --stack {engine.stack} --without-sync"
        )
    project = machine.project if machine else project_of(engine.stack)
    try:
        give_back(engine, machine)
    except Failed as failure:  # what costs is told all the same
        try:
            sweep_up(project, engine.stack, and_delete=False)
        except Failed as left:
            raise Failed(f"{failure}; {left}") from None
        raise
    sweep_up(project, engine.stack, and_delete=False)


def _seconds(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise Refused(f"--seconds: {text} (accepted: a whole number of seconds)")
    return int(text)


def _bring_last_results(machine: MachineOutputs, stack: str, seconds: int) -> None:
    """Refused unless the machine says that all is in the bucket: its disk may hold what is nowhere else."""
    status = vm_status(machine)
    if status == "RUNNING":
        wrong = last_sync(machine, seconds)
    elif status is None:
        wrong = f"the VM is gone, its data disk may not be; for a VM to it: ./fab up --stack {stack}"
    else:
        wrong = f"the VM is {status}; to start it: gcloud compute instances start {machine.name} {machine.place}"
    if wrong:
        raise Refused(
            f"{machine.name} has not brought all its results ({wrong}). Nothing was destroyed; what is not in {machine.bucket} "
            "would be lost. A run that was under way has ended with a checkpoint: ./fab train goes on with it. More time: "
            f"--seconds 3600. To destroy all the same: ./fab down --stack {stack} --without-sync"
        )
