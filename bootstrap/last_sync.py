"""The last word over SSH before a machine is given back: bring what is only on its disk to the bucket."""

import subprocess
from textwrap import shorten

from infra.outputs import DATA, LAST_SYNC_HOOK, RUNS, MachineOutputs

# Nothing to bring is said only where it is sure: the disk is mounted, and no run has left its hook on it.
COMMAND = f"""
if ! mountpoint -q {DATA}; then echo 'the data disk is not mounted at {DATA}' >&2; exit 1; fi
if [ -d {RUNS} ] && ! [ -x {RUNS} ]; then echo '{RUNS} is not yours to read' >&2; exit 1; fi
if [ -e {LAST_SYNC_HOOK} ]; then exec {LAST_SYNC_HOOK}; fi
"""


def last_sync(machine: MachineOutputs, seconds: float) -> str | None:
    """Ask the machine to bring its results to the bucket, and wait for it.

    Units: `seconds` to wait at most.
    Returns: what went wrong, or None if all is safe (or no run was ever started there).
    """
    try:
        done = subprocess.run(ssh(machine, COMMAND), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)
    except FileNotFoundError as error:
        return f"{error.filename} is not installed here"
    except subprocess.TimeoutExpired:
        return f"not done within {seconds:g} seconds"
    if done.returncode == 0:
        return None
    words = " ".join((done.stderr or done.stdout).split())
    return shorten(words.rpartition("ERROR: ")[2], 300, placeholder=" ...") or f"exit code {done.returncode}"


def ssh(machine: MachineOutputs, command: str) -> list[str]:
    """The words that run a command on the machine. With OS Login gcloud knows the user and brings the key."""
    if machine.ssh_user is None:
        tunnel = ["--tunnel-through-iap"] if machine.ssh_proxy else []
        where = [f"--project={machine.project}", f"--zone={machine.zone}"]
        return ["gcloud", "compute", "ssh", machine.name, *where, *tunnel, "--quiet", f"--command={command}"]
    options = [
        "BatchMode=yes",
        "LogLevel=ERROR",
        "ConnectTimeout=20",
        "StrictHostKeyChecking=accept-new",
        f"HostKeyAlias=compute.{machine.instance_id}",
    ]
    if machine.ssh_proxy:
        options.append(f"ProxyCommand={machine.ssh_proxy}")
    words = [word for option in options for word in ("-o", option)]
    return ["ssh", *words, "-p", str(machine.ssh_port), "-l", machine.ssh_user, machine.ssh_host, command]
