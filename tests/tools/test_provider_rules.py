"""What is recorded of the provider and of the cloud's refusals has sources, and agrees with the SDK's own documentation."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.tools.stand_in_cloud import refusals, rules, signatures
from tests.tools.stand_in_cloud.world import INSTANCE

FOLDER = Path(rules.__file__).parent
LISTS = ("replaces", "updates", "stops", "keeps", "not_imported")
MADE_ANEW = re.compile(
    r"forces? (?:a |the )?(?:new|instance)|recreate|cause VM recreation|immutable and can only be specified during creation"
)
BLOCKS = {  # the blocks of an instance whose fields are documented apart from it
    "bootDisk": "InstanceBootDiskArgs",
    "bootDisk.initializeParams": "InstanceBootDiskInitializeParamsArgs",
    "attachedDisks": "InstanceAttachedDiskArgs",
    "scheduling": "InstanceSchedulingArgs",
}
# Where the docs speak of a change that makes a new resource, and mean less than that.
IN_PLACE = {"resourcePolicies", "provisionedIops", "provisionedThroughput", "size", "ipCollection", "ipv6AccessType"}


def documented(token: str) -> dict[str, str]:
    """Path and docstring of every property of a type."""
    found = signatures.documentation(token)
    for path, block in BLOCKS.items() if token == INSTANCE else ():
        found |= {f"{path}.{name}": text for name, text in signatures.documentation(token, block).items()}
    return found


@pytest.mark.parametrize("token", rules.KINDS)
def test_what_the_docs_say_makes_a_new_resource_is_recorded_so_and_the_other_way_round(token):
    told = {path for path, text in documented(token).items() if MADE_ANEW.search(text)}
    replaces = rules.RECORDED[token]["replaces"]

    assert {path for path in told if path not in replaces and path.rpartition(".")[2] not in IN_PLACE} == set()
    assert {path for path, sources in replaces.items() if "docs" in sources} <= told


def test_every_rule_has_a_source_that_is_named():
    sources, types = set(rules.RECORDED["sources"]), {key: value for key, value in rules.RECORDED.items() if ":" in key}

    assert set(types) == set(rules.KINDS)
    for token, rule in types.items():
        assert set(rule) - {"file"} <= set(LISTS)
        for found in (rule.get(name, {}) for name in LISTS):
            assert all(named and set(named) <= sources for named in found.values()), token
            assert "file" in rule or not any("schema" in named for named in found.values()), token
        assert not set(rule.get("replaces", {})) & set(rule.get("updates", {}))


def test_what_the_provider_changes_in_place_is_changed_in_place():
    for token in rules.KINDS:
        for path in rules.recorded(token, "updates"):
            assert not rules.touches(path, rules.recorded(token, "replaces")), (token, path)


def test_every_refusal_says_where_its_words_were_read_and_is_used():
    recorded: dict[str, Any] = tomllib.loads((FOLDER / "refusals.toml").read_text())
    used = set(re.findall(r"""words\(\s*['"]([\w-]+)""", (FOLDER / "refusals.py").read_text())) | {"bucket-taken"}

    assert used == set(recorded)
    for name, refusal in recorded.items():
        assert set(refusal) == {"words", "seen"}, name
        assert all(source.startswith(("https://github.com/", "terraform-provider-google-beta, ")) for source in refusal["seen"])


@pytest.mark.parametrize(
    ("machine_type", "scheduling", "refusal"),
    [
        ("e2-standard-4", {"onHostMaintenance": "TERMINATE"}, "e2-terminate"),
        ("e2-standard-4", {"onHostMaintenance": "MIGRATE"}, None),
        ("e2-standard-4", {}, None),
        ("e2-standard-4", {"onHostMaintenance": "TERMINATE", "preemptible": True, "automaticRestart": False}, None),
        ("e2-standard-4", {"onHostMaintenance": "MIGRATE", "preemptible": True, "automaticRestart": False}, "preemptible-migrate"),
        ("n2-standard-4", {"onHostMaintenance": "TERMINATE"}, None),
        ("g2-standard-8", {"onHostMaintenance": "TERMINATE"}, None),
        ("g2-standard-8", {"onHostMaintenance": "MIGRATE"}, "gpu-migrate"),
        ("g2-standard-8", {}, "gpu-migrate"),
    ],
)
def test_who_may_move_to_another_host(machine_type, scheduling, refusal):
    told = list(refusals.scheduling_problems({"machineType": machine_type, "scheduling": scheduling}))

    assert told == ([refusals.words(refusal)] if refusal else [])
