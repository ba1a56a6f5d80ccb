"""The policy inside the program: so it holds for `pulumi preview` and `pulumi up` as for `fab up`.

A policy pack would need `--policy-pack` in every command, and a plugin for the engine. A transform, which the engine calls back,
reports a refusal with a traceback and a token; the older transformation runs in the resource's constructor and can refuse in words.
"""

from collections.abc import Awaitable, Mapping
from typing import Any

import pulumi
from pydantic.alias_generators import to_camel

from infra.policy import MAPS, NOT_KNOWN, Planned, violations
from infra.stack_config import MachineSettings, StackSettings


def guard(settings: StackSettings) -> None:
    """Judge every resource that the program declares from now on, before it is registered with the engine.

    Raises: pulumi.RunError, in the constructor of the resource; the engine prints it without a traceback.
    """
    stack, ssh = pulumi.get_stack(), settings.ssh if isinstance(settings, MachineSettings) else "iap"

    def judge(args: pulumi.ResourceTransformationArgs) -> None:
        planned = Planned(args.type_, args.name, _inputs(args.props), _is_protected(args.opts))
        found = violations(settings.kind, ssh, planned)
        if found:
            raise pulumi.RunError(f"stack {stack}: the program breaks the rules of infra/policy.py: {'; '.join(found)}")

    pulumi.runtime.register_stack_transformation(judge)


def _is_protected(options: pulumi.ResourceOptions) -> bool:
    """As the SDK has it: what a resource does not say of itself, its parent says."""
    return bool(getattr(options.parent, "_protect", None) if options.protect is None else options.protect)


def _inputs(value: Any) -> Any:
    """The inputs with the provider's camelCase names; what only a resource that exists can say is `NOT_KNOWN`."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, pulumi.Output | Awaitable):
        return NOT_KNOWN
    if isinstance(value, list | tuple):
        return [_inputs(item) for item in value]
    named = value if isinstance(value, Mapping) else vars(value)  # an instance of one of the SDK's classes of arguments
    inputs = {to_camel(key) if "_" in key else key: item for key, item in named.items() if item is not None}
    return {key: item if key in MAPS and isinstance(item, dict) else _inputs(item) for key, item in inputs.items()}
