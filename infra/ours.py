"""Whose a thing in the cloud is: this installation's, or somebody else's, however much alike the names are.

A machine's VM and disks have labels that name the stack and the installation's bucket; a network, which can have no labels, has a
description. Ours is what has both this mark and a name of ours. The rest that looks alike is shown, and never deleted.
"""

from collections.abc import Collection, Mapping
from typing import Any

from infra.stack_config import BUCKET_LABEL, PROJECT, STACK_LABEL

Resource = Mapping[str, Any]


def network_description(stack: str, bucket: str) -> str:
    """The mark of a stack's network; its router, rules and subnets are what stands in it."""
    return f"{STACK_LABEL}={stack} {BUCKET_LABEL}={bucket}"


def is_ours(resource: Resource, buckets: Collection[str]) -> bool:
    """Whether a VM, disk, address or snapshot has a label of this installation, and a name of the stack that it names."""
    labels = resource.get("labels") or {}
    return labels.get(BUCKET_LABEL) in buckets and is_named(str(resource["name"]), str(labels.get(STACK_LABEL, "")))


def is_our_network(network: Resource, buckets: Collection[str]) -> bool:
    """The same of a network, whose stack stands in its name."""
    stack = stack_of_network(network)
    marks = {network_description(stack, bucket) for bucket in buckets}
    return network.get("description") in marks and is_named(network["name"], stack)


def stack_of_network(network: Resource) -> str:
    """The stack of incubator-STACK."""
    return str(network["name"]).removeprefix(f"{PROJECT}-")


def is_named(name: str, stack: str) -> bool:
    """Whether it is called as the things of a stack are."""
    return bool(stack) and (name == f"{PROJECT}-{stack}" or name.startswith(f"{PROJECT}-{stack}-"))


def looks_like_ours(resource: Resource, names: Collection[str] = ()) -> bool:
    """Whether a person would take it for ours: by a label, its name, or the names of what it was made of or is used by."""
    labels = resource.get("labels") or {}
    marked = any(key.startswith(f"{PROJECT}-") for key in labels) or labels.get("project") == PROJECT
    return marked or any(name.startswith(f"{PROJECT}-") for name in (str(resource["name"]), *names))


def is_of_stack(resource: Resource, stack: str, names: Collection[str] = ()) -> bool:
    """Whether it is of a stack: as its label says, or, without one, as the names do."""
    labels = resource.get("labels") or {}
    if STACK_LABEL in labels:
        return bool(labels[STACK_LABEL] == stack)
    return any(is_named(name, stack) for name in (str(resource["name"]), *names))
