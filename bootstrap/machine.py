"""Which machine a verb means, and what there is to know of it: one that a stack rents, or any Linux box that you can SSH to."""

import json
import os
import re
import subprocess
from dataclasses import dataclass
from datetime import datetime

from infra.outputs import RUNS, MachineOutputs
from training.errors import RunError, UserError

HOST_VARIABLE, FOLDER_VARIABLE = "INCUBATOR_HOST", "INCUBATOR_FOLDER"
ANY_BOX_FOLDER = "~/incubator"
_HOST = re.compile(r"^(?:(?P<user>\w[\w.-]*)@)?(?P<address>\[[0-9A-Fa-f:.]+\]|\w[\w.-]*)(?::(?P<port>\d+))?$", re.ASCII)


class NotUp(UserError):
    """The stack (None: the one that is selected) is there, and rents nothing at the moment."""

    def __init__(self, message: str, stack: str | None) -> None:
        super().__init__(message)
        self.stack = stack


class NoState(UserError):
    """There is no Pulumi here, or it does not know the stack (None: none was named); Google may."""

    def __init__(self, message: str, stack: str | None) -> None:
        super().__init__(message)
        self.stack = stack


@dataclass(frozen=True)
class Machine:
    """A machine to work on.

    `label` is its name in the generated ssh_config; `user`, `port` and `host_key_alias` are None where the user's own SSH settings
    decide; `os_login` says that gcloud knows the user and the key. `folder` holds everything of ours there and may begin with `~/`.
    `bucket` is a URL. Units: `usd_per_hour` US dollars.
    """

    label: str
    address: str
    folder: str
    user: str | None = None
    port: int | None = None
    proxy: str | None = None
    host_key_alias: str | None = None
    os_login: str | None = None
    """GCP project of the OS Login profile, or None."""
    bucket: str | None = None
    secrets: tuple[str, ...] = ()
    usd_per_hour: float | None = None
    machine_type: str | None = None
    outputs: MachineOutputs | None = None
    """What its stack says of it; None for a machine that no stack rents."""
    ends: datetime | None = None
    """When the cloud stops it, if Google was asked and has told."""

    @property
    def place(self) -> str:
        """Name of the folder with its ssh_config: two users or ports of one address are two machines."""
        told = (self.user, self.label, self.port) if not self.is_rented else (self.label,)
        return "-".join(str(word) for word in told if word is not None)

    @property
    def is_rented(self) -> bool:
        """Whether a stack rents it: it has a data disk, a start-up script and a price, and may be powered off."""
        return self.usd_per_hour is not None


def machine_of(stack: str | None, host: str | None, folder: str | None) -> Machine:
    """The machine that a verb was told, or that the environment names: `--host` goes before a stack.

    Raises: UserError if what was told is no host; NoState or NotUp as `outputs_of`.
    """
    if stack and host:
        raise UserError(f"--stack {stack} --host {host}: one machine at a time; leave one out")
    host = host or (None if stack else os.environ.get(HOST_VARIABLE))
    folder = folder or (os.environ.get(FOLDER_VARIABLE) if host else None)
    if host:
        return box(host, folder or ANY_BOX_FOLDER)
    if folder:
        raise UserError(f"--folder {folder}: a rented machine keeps everything in {RUNS}; --folder goes with --host")
    return rented(outputs_of(stack))


def box(host: str, folder: str) -> Machine:
    """Any Linux machine, as `user@host:port`; user, port and key may also stand in ~/.ssh/config.

    Raises: UserError if that is not what was typed.
    """
    found = _HOST.match(host)
    if not found or not 0 < int(found["port"] or 22) < 65536:
        raise UserError(f"--host: {host}: accepted: [user@]host[:port], a name of ~/.ssh/config, or an IPv6 address in []")
    if (
        not folder.startswith(("/", "~/"))
        or not folder.strip("/~")
        or ".." in folder.split("/")
        or re.search(r"[^\w./~+=@-]", folder)
    ):
        raise UserError(
            f"--folder: {folder}: accepted: a path from / or ~/, of letters, digits and . _ - + = @ (default {ANY_BOX_FOLDER})"
        )
    address = found["address"].strip("[]")
    port = int(found["port"]) if found["port"] else None
    return Machine(
        label=re.sub(r"[^\w.-]", "-", address).lstrip("-") or "box",
        address=address,
        folder=folder.rstrip("/"),
        user=found["user"],
        port=port,
    )


def rented(outputs: MachineOutputs) -> Machine:
    """The machine that a stack rents."""
    return Machine(
        label=outputs.name,
        address=outputs.ssh_host,
        folder=RUNS,
        user=outputs.ssh_user,
        port=outputs.ssh_port,
        proxy=outputs.ssh_proxy,
        host_key_alias=f"compute.{outputs.instance_id}",
        os_login=None if outputs.ssh_user else outputs.project,
        bucket=f"gs://{outputs.bucket}",
        secrets=outputs.secrets,
        usd_per_hour=outputs.usd_per_hour,
        machine_type=outputs.machine_type,
        outputs=outputs,
    )


def outputs_of(stack: str | None) -> MachineOutputs:
    """`pulumi stack output --json` of a stack: the one that is named, $PULUMI_STACK, or the one that is selected.

    Raises: NoState if there is no engine or no stack; NotUp if the stack rents nothing at the moment.
    """
    chosen = stack or os.environ.get("PULUMI_STACK")
    words = ["pulumi", "stack", "output", "--json", "--non-interactive", *(("--stack", chosen) if chosen else ())]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        raise NoState(
            "there is no pulumi on the PATH, which knows the rented machine (accepted without it: --stack NAME, where gcloud knows "
            "it, or --host user@host)",
            chosen,
        ) from None
    except subprocess.TimeoutExpired:
        raise RunError(f"{' '.join(words)}: no answer within 120 seconds") from None
    if done.returncode:
        said = " ".join(line.removeprefix("error: ") for line in done.stderr.splitlines() if not line.startswith("warning:"))
        raise NoState(
            f"which machine? {' '.join(said.split())} (accepted: --stack NAME, the one that `pulumi stack select` chose, or "
            "--host user@host)",
            chosen,
        )
    values = json.loads(done.stdout or "{}")
    try:
        return MachineOutputs.of(values, chosen or "that is selected")
    except UserError as refusal:
        raise NotUp(str(refusal), chosen) from None
