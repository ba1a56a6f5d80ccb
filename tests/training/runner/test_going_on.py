"""kill -9 of a supervisor: what had work left goes on, and a rented machine is not powered off before."""

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.training.runner.conftest import until
from training.runner import going_on
from training.runner.going_on import MAX_REVIVALS, revive
from training.runner.guards.idle import IdleRule, used_by, write_rule
from training.runner.job import own_command
from training.runner.processes import held, living
from training.runner.state import State, write_state

DEAD = json.dumps({"pid": 2**22, "started": 1, "boot": "another"})


@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    """What would be started, detached."""
    found: list[list[str]] = []

    def start(command, cwd, log):
        found.append(command)
        return SimpleNamespace(pid=2**22)  # of no process

    monkeypatch.setattr(going_on, "start_detached", start)
    return found


def killed(site, phase, **changes):
    """What a supervisor leaves that is killed in this phase."""
    site.paths.pid_file.write_text(DEAD)
    write_state(site.paths, State(phase, **changes))


@pytest.mark.parametrize("phase", ["starting", "running", "stopping"])
def test_a_killed_supervisor_is_started_again_as_after_a_boot(site, started, phase):
    killed(site, phase)

    assert revive(site.paths.root) == ["job"]
    assert started == [own_command(site.paths.root, "supervise", "job", "--boot")]


def test_one_that_was_killed_while_it_pushed_is_started_again_until_all_is_safe(site, started, bucket):
    site.write_job(bucket=bucket)
    killed(site, "finished")
    assert revive(site.paths.root) == ["job"]

    site.write_job()  # nothing is to be pushed
    assert revive(site.paths.root) == []


def test_one_that_has_ended_by_itself_or_is_being_stopped_is_left_alone(site, started):
    write_state(site.paths, State("running"))
    assert revive(site.paths.root) == []  # no pid file: it ended, and has its reasons
    killed(site, "interrupted")
    with held(site.paths.lock, ""):  # `stop` and `last-sync` hold it
        assert revive(site.paths.root) == []
    site.paths.stopped.touch()
    assert revive(site.paths.root) == []
    assert started == []


def test_a_supervisor_that_dies_at_once_is_not_started_for_ever(site, started):
    killed(site, "running")

    for _ in range(MAX_REVIVALS):
        assert revive(site.paths.root) == ["job"]
    assert revive(site.paths.root) == []
    site.paths.revived.write_text(json.dumps({"step": -7, "count": MAX_REVIVALS}))  # there is a new checkpoint since
    assert revive(site.paths.root) == ["job"]


def test_one_that_is_just_starting_is_not_started_twice_and_keeps_the_machine_on(site, monkeypatch):
    monkeypatch.setattr(going_on, "start_detached", lambda *_: SimpleNamespace(pid=os.getpid()))
    killed(site, "running")

    assert revive(site.paths.root) == ["job"]
    assert used_by(site.paths.root) == "job job, whose supervisor was killed and starts again"
    assert revive(site.paths.root) == []


def test_cron_starts_the_idle_guard_again_too(root, started):
    assert revive(root) == []
    write_rule(root, IdleRule())
    assert revive(root) == ["idle-guard"]
    with held(root / "idle.lock", ""):
        assert revive(root) == []


@pytest.mark.cloud
def test_a_supervisor_leaves_its_pid_file_only_if_it_is_killed(site):
    assert site.supervise().phase == "finished"
    assert not site.paths.pid_file.exists()

    other = replace(site, steps=400)
    other.write_job()
    supervisor = other.start("ok")
    until(lambda: other.step > 10)
    supervisor.kill()
    supervisor.wait()
    until(lambda: living(site.paths.run_pid_file) is None)
    assert site.paths.pid_file.exists()
