"""A stack's machine that is off or gone: that it is, how it comes back, and what the bucket has of its runs."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from pathlib import Path

from bootstrap.machine import Machine, NotUp, machine_of
from bootstrap.streams import capture, show
from bootstrap.table import runs_table
from infra.outputs import MachineOutputs
from infra.vm import Vm, vm_of, without_vm
from training.errors import RunError, UserError
from training.runner.report import Status, from_json


@dataclass(frozen=True)
class Off:
    """What there is in place of a machine that answers; `lines` say why, and what can be done."""

    label: str
    bucket: str
    lines: tuple[str, ...]


def find(stack: str | None, host: str | None, folder: str | None) -> Machine | Off:
    """The machine that a verb means. Of a stack's machine Google is asked first: one that is off is not waited for.

    Raises: UserError or RunError as `machine_of`; as gcloud, where only gcloud leads to the machine.
    """
    try:
        machine = machine_of(stack, host, folder)
    except NotUp as refusal:
        return _not_up(refusal)
    if machine.outputs is None:
        return machine
    try:
        vm = vm_of(machine.outputs)
    except (UserError, RunError):
        if machine.proxy is not None:
            raise
        return machine  # SSH needs no gcloud here
    if vm is not None and vm.is_on:
        return replace(machine, ends=vm.ends)
    return Off(machine.label, f"gs://{machine.outputs.bucket}", _words(machine.outputs, vm))


def on(stack: str | None, host: str | None, folder: str | None) -> Machine:
    """`find`, for a verb that needs a machine that answers.

    Raises: UserError also if it is off, with the way back.
    """
    found = find(stack, host, folder)
    if isinstance(found, Off):
        raise UserError("\n".join([*found.lines, f"What its runs have left in {found.bucket}: ./fab status, ./fab pull"]))
    return found


def _not_up(refusal: NotUp) -> Off:
    """After `fab down` the stack says nothing of a bucket: the storage stack does."""
    stack = without_vm(refusal.stack)
    if stack.bucket is None:
        raise refusal
    way_back = f"; to rent one: ./fab up --stack {stack.name}" if stack.is_machine else ""
    return Off(f"stack {stack.name}", f"gs://{stack.bucket}", (f"stack {stack.name} rents no machine now{way_back}",))


def _words(machine: MachineOutputs, vm: Vm | None) -> tuple[str, ...]:
    stack = machine.name.partition("-")[2]
    end = f"to end the cost: ./fab down --stack {stack}"
    if vm is None:
        gone = f"{machine.name}: the VM is gone; its data disk may not be, and costs"
        return gone, f"for a VM to the disk: ./fab up --stack {stack}", end
    since = f" since {vm.stopped.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if vm.stopped else ""
    taken = "; a Spot VM that Google has taken away stays so until you start it" if machine.provisioning == "spot" else ""
    start = f"to start it: {machine.start}"
    return f"{machine.name}: the VM is {vm.status}{since}; its disks cost all the same{taken}", f"{start} (its runs go on)", end


def status_of_bucket(bucket: str) -> Status:
    """How the runs of a bucket stand, by what it has.

    Raises: UserError or RunError in the words of the bucket.
    """
    return from_json(ask_bucket("bucket-status", bucket), bucket)


def table_of_bucket(bucket: str, lines: Sequence[str] = ()) -> str:
    """The same as people read it, and `lines`."""
    jobs = status_of_bucket(bucket).jobs
    rows = runs_table(jobs) if jobs else [f"{bucket}: no run yet"]
    return "\n".join([*rows, *([f"(as the runs of {bucket} were last pushed)"] if jobs else []), *lines])


def logs_of_bucket(bucket: str, name: str | None, lines: int) -> None:
    """The end of a run's log, as it was last pushed.

    Raises: UserError or RunError, as said by the bucket before it.
    """
    words = [*([name] if name else []), "--lines", str(lines)]
    code = show(on_this_laptop("bucket-log", bucket, *words)).code
    if code:
        raise (UserError if code == 2 else RunError)(f"no log came from {bucket} (see above)")


def ask_bucket(*words: str) -> str:
    """What a verb about a bucket prints.

    Raises: UserError or RunError in its words.
    """
    answer = capture(on_this_laptop(*words))
    if answer.code:
        said = answer.err.strip().splitlines()
        message = (said[-1] if said else f"exit code {answer.code}").removeprefix("refused: ").removeprefix("failed: ")
        raise (UserError if answer.code == 2 else RunError)(message)
    return answer.out


def on_this_laptop(*words: str, root: Path = Path()) -> list[str]:
    """The words that run a verb of `training.runner` here. -P: what was pulled into the working directory is not imported."""
    return [sys.executable, "-P", "-m", "training.runner", "--root", str(root), *words]
