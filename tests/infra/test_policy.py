"""Each rule of the policy fires when the plan it guards against comes along."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from infra.policy import BUCKET, DISK, FIREWALL, INSTANCE, SERVICE, Planned, violations

Change = Callable[[dict[str, Any]], object]

BROKEN: list[tuple[str, str, Change, str]] = [
    ("storage", BUCKET, lambda inputs: inputs.update(forceDestroy=True), "could be deleted"),
    ("storage", BUCKET, lambda inputs: inputs.update(publicAccessPrevention="inherited"), "could be made public"),
    ("storage", BUCKET, lambda inputs: inputs.update(uniformBucketLevelAccess=False), "could be made public"),
    ("storage", BUCKET, lambda inputs: inputs.pop("softDeletePolicy"), "paid for a week"),
    ("storage", BUCKET, lambda inputs: inputs.pop("lifecycleRules"), "parts of broken uploads"),
    ("storage", BUCKET, lambda inputs: inputs["labels"].pop("owner"), "no label owner"),
    ("storage", SERVICE, lambda inputs: inputs.update(disableOnDestroy=True), "would take an API"),
    (
        "storage",
        "gcp:projects/iAMMember:IAMMember",
        lambda inputs: inputs.update(role="roles/editor"),
        "broader than training needs",
    ),
    ("l4", DISK, lambda inputs: inputs.pop("type"), "the default is a slow one"),
    ("l4", DISK, lambda inputs: inputs.pop("labels"), "no label owner, project, run, stack"),
    ("l4", FIREWALL, lambda inputs: inputs.update(sourceRanges=["0.0.0.0/0"]), "whole internet"),
    ("l4", FIREWALL, lambda inputs: inputs.pop("sourceRanges"), "whole internet"),
    ("l4", FIREWALL, lambda inputs: inputs["allows"].append({"protocol": "all"}), "more than port 22"),
    ("l4", FIREWALL, lambda inputs: inputs.pop("targetTags"), "every machine"),
    ("l4", INSTANCE, lambda inputs: inputs["scheduling"].pop("maxRunDuration"), "nothing ends it"),
    ("l4", INSTANCE, lambda inputs: inputs["scheduling"].pop("instanceTerminationAction"), "at its end"),
    ("l4", INSTANCE, lambda inputs: inputs["scheduling"].update(onHostMaintenance="MIGRATE"), "cannot move"),
    ("l4", INSTANCE, lambda inputs: inputs.pop("serviceAccount"), "default account"),
    ("l4", INSTANCE, lambda inputs: inputs["bootDisk"]["initializeParams"].pop("type"), "of the boot disk"),
    ("l4", INSTANCE, lambda inputs: inputs["bootDisk"]["initializeParams"].pop("labels"), "a sweep would not see it"),
    ("l4", INSTANCE, lambda inputs: inputs.update(guestAccelerators=[{}]), "guestAccelerators would replace"),
    ("l4", INSTANCE, lambda inputs: inputs.update(metadataStartupScript="x"), "metadataStartupScript would replace"),
    ("l4", INSTANCE, lambda inputs: inputs["attachedDisks"][0].pop("deviceName"), "device name"),
    ("l4", INSTANCE, lambda inputs: inputs["networkInterfaces"][0].update(accessConfigs=[{}]), "an external address"),
]


@pytest.mark.parametrize(("stack", "type_", "change", "words"), BROKEN)
def test_a_plan_that_breaks_a_rule_is_told(program, stack, type_, change, words):
    planned = program(stack).planned
    kind = "storage" if stack == "storage" else "machine"
    index = next(i for i, resource in enumerate(planned) if resource.type == type_)
    inputs = copy.deepcopy(dict(planned[index].inputs))
    change(inputs)
    planned[index] = replace(planned[index], inputs=inputs)

    (found,) = violations(kind, "iap", planned)
    assert words in found
    assert found.startswith(planned[index].name)


def test_an_unprotected_bucket_is_told(program):
    planned = [replace(resource, protect=False) for resource in program("storage").planned]

    assert violations("storage", "iap", planned) == ["bucket: could be deleted with what is in it"]


def test_a_machine_stack_holds_nothing_that_must_stay(program):
    planned = [
        *program("l4").planned,
        Planned("gcp:storage/bucketIAMMember:BucketIAMMember", "grant", {}),
        Planned("x", "y", {}, True),
    ]

    assert [found.split(":")[0] for found in violations("machine", "iap", planned)] == ["grant", "y"]
