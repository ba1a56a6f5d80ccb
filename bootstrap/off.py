"""A stack's machine that is off or gone: that it is, how it comes back, and what the bucket has of its runs."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from pathlib import Path

from bootstrap.machine import Machine, NoState, NotUp, machine_of, rented
from bootstrap.streams import capture, show
from bootstrap.table import runs_table
from infra.outputs import MachineOutputs
from infra.vm import Known, Vm, vm_of, without_state, without_vm
from training.errors import RunError, UserError
from training.runner.report import Status, from_json


@dataclass(frozen=True)
class Off:
    """What there is in place of a machine that answers; `lines` say why, and what can be done."""

    label: str
    bucket: str
    lines: tuple[str, ...]


def find(stack: str | None, host: str | None, folder: str | None, for_new_run: bool = False) -> Machine | Off:
    """The machine that a verb means. Of a stack's machine Google is asked first: one that is off is not waited for.

    Where Pulumi does not know the machine, Google is asked alone, but not `for_new_run`: it would have no secrets.

    Raises: UserError or RunError as `machine_of`; as gcloud, where only gcloud leads to the machine.
    """
    try:
        machine = machine_of(stack, host, folder)
    except NotUp as refusal:
        found = None if for_new_run else _without_state(refusal.stack or without_vm(None).name)
        if not isinstance(found, Machine):
            return _not_up(refusal, found)
        machine = found
    except NoState as refusal:
        found = _without_state(refusal.stack) if refusal.stack and not for_new_run else refusal
        if not isinstance(found, Machine):
            return _not_known(refusal, found)
        machine = found
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


def on(stack: str | None, host: str | None, folder: str | None, for_new_run: bool = False) -> Machine:
    """`find`, for a verb that needs a machine that answers.

    Raises: UserError also if it is off, with the way back.
    """
    found = find(stack, host, folder, for_new_run)
    if isinstance(found, Off):
        raise UserError("\n".join([*found.lines, f"What its runs have left in {found.bucket}: ./fab status, ./fab pull"]))
    return found


def _without_state(stack: str) -> Machine | Known | UserError | RunError:
    """The machine of a stack of which Pulumi knows none, by Google alone; else what is known, or why Google does not tell."""
    try:
        known = without_state(stack)
    except (UserError, RunError) as failure:
        return failure
    if known.machine is None:
        return known
    print(f"Pulumi here does not know the machine of stack {stack}; Google does: {known.machine.name}", flush=True)
    return rented(known.machine)


def _not_up(refusal: NotUp, found: Known | UserError | RunError | None) -> Off:
    """After `fab down` the stack says nothing of a bucket: the storage stack does."""
    stack = without_vm(refusal.stack)
    if stack.bucket is None:
        raise refusal
    way_back = f"; to rent one: ./fab up --stack {stack.name}" if stack.is_machine else ""
    lines = [f"stack {stack.name} rents no machine now{way_back}"]
    if isinstance(found, Exception):
        lines.append(f"(that is what Pulumi knows; whether a VM is there all the same, Google does not tell: {found})")
    return Off(f"stack {stack.name}", f"gs://{stack.bucket}", tuple(lines))


def _not_known(refusal: NoState, found: Known | UserError | RunError) -> Off:
    """Neither Pulumi nor Google knows a machine; the files may know the bucket.

    Raises: `refusal` or `found` where they do not.
    """
    if isinstance(found, Known) and found.bucket:
        lines = (f"stack {refusal.stack}: Google has no VM of it, and Pulumi here does not know the stack", str(refusal))
        return Off(f"stack {refusal.stack}", f"gs://{found.bucket}", lines)
    if isinstance(found, Exception) and found is not refusal:
        raise UserError(f"{refusal}; and without Pulumi: {found}") from None
    raise refusal


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
