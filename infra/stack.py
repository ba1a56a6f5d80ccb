"""What the engine tells a program of ours: the stack's settings, and what the storage stack offers; a refusal is one sentence."""

from collections.abc import Mapping
from typing import Any

import pulumi
import yaml

from infra.outputs import StorageOutputs, project_root
from infra.stack_config import PROJECT, MachineSettings, StackSettings, project_config, read_settings
from training.errors import UserError


def stack_settings() -> StackSettings:
    """The settings of the stack at hand.

    Raises: pulumi.RunError, which the engine shows without a traceback.
    """
    stack = pulumi.get_stack()
    ours, google = pulumi.Config(PROJECT), pulumi.Config("gcp")
    told = {f"{PROJECT}:{key}": ours.get(key) for key in project_config() if ours.get(key) is not None}
    try:
        return read_settings(stack, {**_unknown_keys(stack), **told, "gcp:project": google.get("project")})
    except UserError as refusal:
        raise pulumi.RunError(str(refusal)) from None


def _unknown_keys(stack: str) -> dict[str, str]:
    """Keys of the stack's file that Pulumi.yaml does not declare: the engine lets them pass, without effect."""
    file = project_root() / "configs" / "stacks" / f"Pulumi.{stack}.yaml"
    config = (yaml.safe_load(file.read_text()) or {}).get("config") if file.exists() else None
    declared = {f"{PROJECT}:{key}" for key in project_config()}
    return {key: str(value) for key, value in (config or {}).items() if key.startswith(f"{PROJECT}:") and key not in declared}


def storage_outputs(settings: MachineSettings) -> pulumi.Output[StorageOutputs]:
    """What the storage stack offers; a machine stack has no other path to it.

    Raises: pulumi.RunError if that stack is not there, not up, or stands elsewhere; before any resource is asked for.
    """
    name = settings.storage_stack
    full_name = f"{pulumi.get_organization()}/{PROJECT}/{name}"
    _checked(settings, _ask(name, full_name))
    reference = pulumi.StackReference("storage", stack_name=full_name)
    return reference.outputs.apply(lambda values: _checked(settings, values))


def _ask(name: str, full_name: str) -> dict[str, Any]:
    """The outputs at once: a StackReference's come when the network is being made, and say nothing useful of a missing stack."""
    try:
        told = pulumi.runtime.invoke("pulumi:pulumi:readStackOutputs", {"name": full_name}).value
    except Exception as error:  # the SDK raises nothing narrower
        if "unknown stack" not in str(error):
            raise
        raise pulumi.RunError(
            f"incubator:storageStack: {name}: there is no such stack here yet; run: pulumi up --stack {name} (after "
            f"pulumi stack init {name}, and with the same pulumi login)"
        ) from None
    outputs: dict[str, Any] = told["outputs"]
    return outputs


def _checked(settings: MachineSettings, values: Mapping[str, Any]) -> StorageOutputs:
    name = settings.storage_stack
    try:
        outputs = StorageOutputs.of(values, name)
    except UserError as refusal:
        raise pulumi.RunError(str(refusal)) from None
    if outputs.project != settings.project:
        raise pulumi.RunError(
            f"gcp:project: {settings.project}: stack {name} is of project {outputs.project} (accepted: the same in both)"
        )
    if outputs.region != settings.region and not settings.other_regions:
        raise pulumi.RunError(
            f"incubator:zone: {settings.zone}: the bucket of stack {name} is in {outputs.region} (accepted: a zone of "
            f"{outputs.region}, or incubator:otherRegions: true, which pays for the traffic)"
        )
    return outputs
