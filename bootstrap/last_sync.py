"""Before a machine is given back, over SSH: bring what is only on its disk to the bucket."""

from bootstrap.connection import connect, in_a_line
from bootstrap.machine import rented
from bootstrap.off import ask_bucket
from infra.outputs import DATA, LAST_SYNC_HOOK, RUNS, MachineOutputs
from infra.vm import Vm
from training.errors import RunError, UserError

CONNECT_SECONDS = 60
# Nothing to bring is said only where it is sure: the disk is mounted, no bootstrap has left its hook on it, and no run its folder.
COMMAND = f"""
if ! mountpoint -q {DATA}; then echo 'the data disk is not mounted at {DATA}' >&2; exit 1; fi
if [ -d {RUNS} ] && ! [ -x {RUNS} ]; then echo '{RUNS} is not yours to read' >&2; exit 1; fi
if [ -e {LAST_SYNC_HOOK} ]; then exec {LAST_SYNC_HOOK}; fi
for each in {RUNS}/jobs/* {RUNS}/runs/*; do
    if [ -e "$each" ]; then echo "$each is there, but not {LAST_SYNC_HOOK}, which brings it; run: ./fab bootstrap" >&2; exit 1; fi
done
"""


def not_proven(machine: MachineOutputs, vm: Vm) -> str | None:
    """Whether the bucket has everything of a machine that is off; what was compared is printed.

    Returns: what is not proven, or None if all is.
    """
    print(f"-> {machine.name} is off: its shutdown report is compared with what gs://{machine.bucket} has", flush=True)
    if vm.started is None or vm.stopped is None:
        return "Google does not tell when its VM was started and stopped"
    try:
        print(
            ask_bucket("prove", f"gs://{machine.bucket}", machine.name, vm.started.isoformat(), vm.stopped.isoformat()),
            end="",
            flush=True,
        )
    except (UserError, RunError) as error:
        return str(error)
    return None


def last_sync(machine: MachineOutputs, seconds: float) -> str | None:
    """Ask the machine to end its runs and to bring their results to the bucket, and wait for it.

    Units: `seconds` to wait at most.
    Returns: what went wrong, or None if all is safe (or no run was ever started there).
    """
    print(f"-> {machine.name}: its runs end with a checkpoint; last results go to gs://{machine.bucket}", flush=True)
    try:
        done = connect(rented(machine), min(seconds, CONNECT_SECONDS)).ask(COMMAND, seconds=seconds)
    except (UserError, RunError) as error:
        return str(error)
    if done.code == 0:
        return None
    return in_a_line((done.err or done.out).rpartition("ERROR: ")[2]) or f"exit code {done.code}"
