"""A stack's VM as Google tells it: whether it runs, since when, when the cloud will stop it; a stack that has none, or no state."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from infra.cost import limit_of
from infra.engine import Engine
from infra.gcloud import NotFound, gcloud
from infra.lost_state import machine_without_state
from infra.outputs import MachineOutputs
from infra.stack_config import MachineSettings
from infra.stack_files import our_buckets, project_of, stack_names

ON = frozenset({"PROVISIONING", "STAGING", "RUNNING", "REPAIRING"})
"""It answers, or will without anybody's doing; in every other state it has to be started."""


@dataclass(frozen=True)
class Vm:
    """The times have a zone; None where Google tells none."""

    status: str
    started: datetime | None = None
    stopped: datetime | None = None
    ends: datetime | None = None
    """When the cloud stops or deletes it, whatever it does then; None if it is off or has no limit."""

    @property
    def is_on(self) -> bool:
        """Whether it is worth waiting for an answer."""
        return self.status in ON


def vm_of(machine: MachineOutputs) -> Vm | None:
    """Ask Google; None if the VM is not there.

    Raises: UserError or RunError as `infra.gcloud.gcloud` does.
    """
    try:
        vm: Mapping[str, Any] = gcloud(
            "compute", "instances", "describe", machine.name, f"--project={machine.project}", f"--zone={machine.zone}"
        )
    except NotFound:
        return None
    status = str(vm["status"])
    return Vm(status, _time(vm, "lastStartTimestamp"), _time(vm, "lastStopTimestamp"), limit_of(vm) if status in ON else None)


@dataclass(frozen=True)
class StackWithoutVm:
    """A stack that rents nothing at the moment."""

    name: str
    is_machine: bool
    """Whether `fab up` would rent one; otherwise it is a storage stack."""
    bucket: str | None
    """Where the results are; None if there is no storage stack either."""


def without_vm(stack: str | None) -> StackWithoutVm:
    """Ask Pulumi for the bucket of a stack that rents nothing.

    Raises: UserError or RunError as `infra.engine.Engine` does.
    """
    engine = Engine(stack)
    settings = engine.settings()
    is_machine = isinstance(settings, MachineSettings)
    storage = Engine(settings.storage_stack) if isinstance(settings, MachineSettings) else engine
    return StackWithoutVm(engine.stack, is_machine, storage.outputs().get("bucket") if storage.exists() else None)


@dataclass(frozen=True)
class Known:
    """What is known of a stack without Pulumi's state: by gcloud and the files in configs/stacks."""

    machine: MachineOutputs | None
    bucket: str | None
    """None where the files name none, or several, or say nothing of this stack."""


def without_state(stack: str) -> Known:
    """Ask Google for the machine of a stack, and the files for its bucket: Pulumi's state may be lost, or on another laptop.

    Raises: UserError or RunError as `machine_without_state`; UserError if the files do not name the project.
    """
    project = project_of(stack)
    buckets = our_buckets(project) if stack in stack_names() else ()
    return Known(machine_without_state(project, stack), next(iter(buckets)) if len(buckets) == 1 else None)


def _time(vm: Mapping[str, Any], key: str) -> datetime | None:
    return datetime.fromisoformat(vm[key]) if vm.get(key) else None
