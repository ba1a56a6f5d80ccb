"""What a stack tells the rest of the world: all that `bootstrap` knows of the cloud."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Self

from training.errors import UserError

# Programs that a run leaves on the data disk: what goes on after a reboot, and what brings the last results to the bucket.
DATA = "/mnt/data"
RUNS = f"{DATA}/incubator"
BOOT_HOOK = f"{RUNS}/boot-hook"
LAST_SYNC_HOOK = f"{RUNS}/last-sync"


@dataclass(frozen=True)
class _Outputs:
    @classmethod
    def of(cls, values: Mapping[str, Any], stack: str) -> Self:
        """From `pulumi stack output --json`, or from a StackReference.

        Raises: UserError if the stack is not up, or is of the other kind.
        """
        missing = [field.name for field in fields(cls) if field.name not in values and field.default is MISSING]
        if missing:
            raise UserError(
                f"stack {stack} has no output {missing[0]}: it is not up yet, or of another kind; run: pulumi up --stack {stack}"
            )
        return cls(**{field.name: _plain(values[field.name]) for field in fields(cls) if field.name in values})


@dataclass(frozen=True)
class StorageOutputs(_Outputs):
    """What the storage stack offers to machines.

    `secrets` are names of Secret Manager secrets, never their values.
    """

    project: str
    region: str
    bucket: str
    service_account: str
    secrets: tuple[str, ...]


@dataclass(frozen=True)
class MachineOutputs(_Outputs):
    """What there is to know of a rented machine.

    `ssh_user` is None with OS Login: gcloud knows the name. `ssh_proxy` is a command, `%p` in it the port, or None for a direct
    connection.

    Units: `usd_per_hour` US dollars, while it runs, without disks, of the month `price_of`.
    """

    name: str
    instance_id: str
    project: str
    zone: str
    ssh_host: str
    ssh_port: int
    bucket: str
    service_account: str
    secrets: tuple[str, ...]
    machine_type: str
    provisioning: str
    usd_per_hour: float
    price_of: str
    max_run_seconds: int
    ssh_user: str | None = None  # Pulumi knows no empty outputs
    ssh_proxy: str | None = None

    @property
    def place(self) -> str:
        """Zone and project, as gcloud is told them."""
        return f"--zone={self.zone} --project={self.project}"

    @property
    def start(self) -> str:
        """The command that starts the VM when it is stopped."""
        return f"gcloud compute instances start {self.name} {self.place}"


def tunnel(name: str, project: str, zone: str) -> str:
    """The command that carries SSH through Google's proxy to a machine without an external address."""
    return f"gcloud compute start-iap-tunnel {name} %p --listen-on-stdin --project={project} --zone={zone}"


def project_root() -> Path:
    """The folder with Pulumi.yaml: here, or above, as the engine finds it; else here."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "Pulumi.yaml").exists()), here)


def _plain(value: Any) -> Any:
    """Pulumi carries all numbers as floats, and tuples as lists."""
    if isinstance(value, list):
        return tuple(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value
