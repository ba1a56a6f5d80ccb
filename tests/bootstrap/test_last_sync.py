"""The last sync of a machine, over a real sshd."""

from dataclasses import replace

import pytest

from bootstrap.last_sync import last_sync
from infra.outputs import MachineOutputs
from tests.tools.ssh_machine import OUTPUTS, SshMachine


@pytest.fixture
def outputs(machine: SshMachine) -> MachineOutputs:
    return replace(OUTPUTS, ssh_port=machine.port, ssh_user=machine.user)


def leave(machine: SshMachine, script: str) -> None:
    hook = machine.disk / "incubator" / "last-sync"
    hook.parent.mkdir()
    hook.write_text(f"#!/bin/sh\n{script}\n")
    hook.chmod(0o755)


def test_what_a_run_left_on_the_machine_is_called_and_waited_for(machine, outputs):
    leave(machine, "sleep 0.2; echo done >/mnt/data/synced")

    assert last_sync(outputs, seconds=30) is None
    assert (machine.disk / "synced").read_text() == "done\n"


def test_a_machine_on_which_nothing_ever_ran_has_nothing_to_sync(outputs):
    assert last_sync(outputs, seconds=30) is None


@pytest.mark.parametrize("left", ["jobs/screen", "runs/screen"])
def test_a_run_without_a_hook_is_not_taken_for_nothing(machine, outputs, left):
    (machine.disk / "incubator" / "jobs").mkdir(parents=True)
    assert last_sync(outputs, seconds=30) is None
    (machine.disk / "incubator" / left).mkdir(parents=True)

    wrong = last_sync(outputs, seconds=30)

    assert wrong is not None
    assert f"/mnt/data/incubator/{left} is there, but not /mnt/data/incubator/last-sync, which brings it" in wrong


@pytest.mark.parametrize("code", [1, 3, 127])
def test_no_failure_of_a_sync_counts_as_done(machine, outputs, code):
    leave(machine, f"exit {code}")

    assert last_sync(outputs, seconds=30) == f"exit code {code}"


def test_a_disk_that_is_not_mounted_is_not_an_empty_one(machine, outputs):
    machine.program("mountpoint", "exit 32")

    wrong = last_sync(outputs, seconds=30)

    assert wrong is not None
    assert wrong.endswith("the data disk is not mounted at /mnt/data")


def test_a_sync_that_fails_says_why(machine, outputs):
    leave(machine, "echo 'the bucket is gone' >&2; exit 1")

    wrong = last_sync(outputs, seconds=30)

    assert wrong is not None
    assert wrong.endswith("the bucket is gone")


def test_a_sync_that_takes_too_long_is_given_up(machine, outputs):
    leave(machine, "sleep 60")

    assert last_sync(outputs, seconds=2) == "incubator-l4: not done within 2 seconds"


def test_a_machine_that_does_not_answer_says_so(machine, outputs):
    machine.switch_off()

    wrong = last_sync(outputs, seconds=2)

    assert wrong is not None
    assert "Connection refused" in wrong
