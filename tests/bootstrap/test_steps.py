"""Facts -> commands, without SSH: the tables of tests/bootstrap/steps/."""

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from bootstrap import hooks
from bootstrap.apply import shown
from bootstrap.connection import Host
from bootstrap.facts import Facts
from bootstrap.machine import Machine
from bootstrap.steps import Command, LocalData, Wanted, idle_minutes_of, steps

TABLES = Path(__file__).parent / "steps"
READY = yaml.safe_load((TABLES / "ready.yaml").read_text())
CASES = yaml.safe_load((TABLES / "cases.yaml").read_text())
TOKEN = "hf_secret"


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_what_is_missing_is_done_and_nothing_else(case, monkeypatch):
    monkeypatch.setattr("os.isatty", lambda _: False)
    wanted = _wanted(READY["wanted"] | case.get("wanted", {}))
    facts = _facts(READY["facts"] | case.get("facts", {}), wanted)
    host = Host(Machine("incubator-l4", "incubator-l4", facts.root), Path("ssh_config"))

    assert [shown(host, action) for action in steps(facts, wanted)] == case["commands"]


def test_tokens_stand_on_standard_input_alone():
    wanted = _wanted(READY["wanted"])
    facts = _facts(READY["facts"] | {"tokens": ""}, wanted)

    (action,) = steps(facts, wanted)

    assert isinstance(action, Command)
    assert action.stdin == f"HF_TOKEN={TOKEN}\n"
    assert TOKEN not in action.shell + action.does


def test_an_environment_is_not_synced_from_another_lock_than_the_one_that_was_checked(tmp_path):
    code = tmp_path / "code"
    (code / ".venv").mkdir(parents=True)
    (code / "uv.lock").write_text("checked\n")
    (code / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "uv").write_text("#!/bin/sh\necho it ran\n")
    (tmp_path / "uv").chmod(0o755)
    wanted = _wanted(READY["wanted"] | {"environment": _sha256("checked\n[project]\n")})
    (action,) = steps(_facts(READY["facts"], wanted, root=str(tmp_path), environment=""), wanted)
    assert isinstance(action, Command)

    done = subprocess.run(["sh", "-c", action.shell], capture_output=True, text=True)
    (code / "uv.lock").write_text("another\n")
    refused = subprocess.run(["sh", "-c", action.shell], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "it ran\n")
    assert (refused.returncode, refused.stdout) == (
        1, "error: uv.lock and pyproject.toml are not those that were checked on the laptop; fab bootstrap copies them again\n"
    )  # fmt: skip
    assert not (code / ".venv/.synced").exists()


def test_what_is_downloaded_is_said_before_the_first_sync():
    wanted = _wanted(READY["wanted"])

    (first,) = steps(_facts(READY["facts"], wanted, environment=""), wanted)
    (later,) = steps(_facts(READY["facts"], wanted, environment="another"), wanted)

    assert isinstance(first, Command)
    assert isinstance(later, Command)
    assert (first.note, later.note) == ("about 3.1 GB to download, 2.4 of them CUDA libraries", "")


@pytest.mark.parametrize(
    ("idle", "asked", "minutes"),
    [
        ("", None, 30),
        ("", 45, 45),
        ("never", None, 0),
        ('{"minutes": 45}', None, 45),
        ('{"minutes": 45}', 0, 0),
        ('{"minu', None, 30),
    ],
)
def test_what_was_said_of_idle_minutes_holds_until_something_else_is(idle, asked, minutes):
    assert idle_minutes_of(Facts(root="/mnt", idle=idle, may_sudo=True), asked) == minutes
    assert idle_minutes_of(Facts(root="/mnt", idle=idle, may_sudo=False), asked) is None


def _wanted(values: dict[str, Any]) -> Wanted:
    local = tuple(LocalData(**(one | {"source": Path(one["source"])})) for one in values["local_data"])
    return Wanted(
        **{
            **values,
            "uv": Path(values["uv"]),
            "files": tuple(values["files"]),
            "removed": tuple(values["removed"]),
            "local_data": local,
        }
    )


def _facts(values: dict[str, Any], wanted: Wanted, **changes: str) -> Facts:
    """The placeholders stand for hashes of what would be sent."""
    values = values | changes
    root = values["root"]
    known = {
        "HASH_OF_LISTING": _sha256(wanted.listing),
        "600 HASH_OF_TOKENS": f"600 {_sha256(wanted.tokens)}",
        "644 HASH_OF_TOKENS": f"644 {_sha256(wanted.tokens)}",
        "HASHES_OF_HOOKS": f"{_sha256(hooks.boot_hook(root))} {_sha256(hooks.last_sync(root))}",
    }
    told: dict[str, Any] = {key: known.get(value, value) if isinstance(value, str) else value for key, value in values.items()}
    return Facts(**told)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
