"""Real runs of real supervisors: one whose supervisor is killed, and one that goes on on another machine. To the bit."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.gcs_server import gcs_served
from tests.training.runner.conftest import REPOSITORY, until
from tests.training.runner.test_real_runs import LIMIT, STEPS, equal, machine, newest, status, train, verb, weights
from training.checkpoints.manifest import complete_checkpoints
from training.checkpoints.model_file import load_model
from training.runner.guards.idle import IdleRule, write_rule
from training.runner.job import JobPaths, read_job
from training.runner.processes import living
from training.runner.state import read_state

pytestmark = pytest.mark.cloud  # they take minutes

__all__ = ["machine"]
# Whoever is logged in over SSH where the tests run is not asked for.
GUARD = """
import sys
from pathlib import Path
from training.runner.guards import idle, power_off
idle.ssh_sessions = list
power_off.guard(Path(sys.argv[1]), 0.2)
"""


def ask_for(paths: JobPaths, steps: int) -> None:
    """As if the run had been asked for with this length."""
    paths.run_file.write_text(paths.run_file.read_text().replace(f"max_steps: {STEPS}", f"max_steps: {steps}"))


def kill_all(paths: JobPaths, supervisor: "subprocess.Popen[bytes]") -> None:
    """Supervisor, run and pusher at once."""
    for file in (paths.run_pid_file, paths.pusher_pid_file):
        os.killpg(living(file) or 0, signal.SIGKILL)
    supervisor.kill()
    supervisor.wait()


def is_finished(paths: JobPaths) -> bool:
    state = read_state(paths)
    return state is not None and state.phase == "finished" and living(paths.pid_file) is None


def uninterrupted(paths: JobPaths) -> Path:
    """The run directory of the same run, which nobody disturbed."""
    subprocess.run(
        [sys.executable, "-m", "training", "fit", paths.run_file, "name=whole"],
        cwd=paths.code, check=True, capture_output=True, timeout=LIMIT,
    )  # fmt: skip
    return paths.code / "runs" / "whole"


def test_a_supervisor_that_is_killed_is_no_end_and_the_machine_is_not_powered_off_before(machine, root, bucket, tmp_path):
    """The rule is 0.6 seconds: without the idle guard's look at what has work left, the machine is off at once."""
    paths, off = machine, tmp_path / "state-when-off.json"
    supervisor = train(paths)
    until(lambda: newest(paths) >= 20, LIMIT)
    kill_all(paths, supervisor)
    ask_for(paths, newest(paths) + 30)
    write_rule(root, IdleRule(minutes=0.01, command=("cp", str(paths.folder / "state.json"), str(off))))

    with subprocess.Popen([sys.executable, "-c", GUARD, str(root)], cwd=REPOSITORY) as guard:
        until(off.exists, LIMIT)
        guard.kill()

    assert '"phase": "finished"' in off.read_text()
    assert status(paths)["is_safe"]
    mirror, whole = Path(bucket.removeprefix("file://")) / "runs" / "job", uninterrupted(paths)
    assert equal(weights(mirror), weights(whole))
    assert equal(load_model(mirror / "model.pt").weights, load_model(whole / "model.pt").weights)


def results(run: Path) -> dict[str, bytes]:
    """The small files of a run but the lease and the job's own."""
    found = {path.relative_to(run): path for path in run.rglob("*") if path.is_file()}
    left_out = ("job", "lease.json", "checkpoints")
    return {str(name): path.read_bytes() for name, path in found.items() if name.parts[0] not in left_out}


@pytest.fixture
def machine_of_google(machine, tmp_path, monkeypatch):
    """The same machine, whose results go to a bucket of Google; the bucket's folder."""
    with gcs_served(tmp_path / "gcs", monkeypatch) as server:
        url = server.make_bucket("cells")
        machine.job_file.write_text(machine.job_file.read_text().replace(read_job(machine).bucket or "", url))
        yield server.folder / "cells"


def test_a_machine_that_comes_back_does_not_overwrite_what_went_on_elsewhere(machine, machine_of_google, tmp_path):
    first, mirror = machine, machine_of_google / "runs" / "job"
    supervisor = train(first)
    until(lambda: complete_checkpoints(mirror / "checkpoints"), LIMIT)
    kill_all(first, supervisor)  # its lease stays

    second = JobPaths(tmp_path / "second", "job")
    for name in ("runs", "jobs", "job-files"):
        (second.root / name).mkdir(parents=True)
    for name in ("code", "data"):
        (second.root / name).symlink_to(first.root / name)
    steps = newest(first) + 40
    ask_for(first, steps)  # had it been asked for from the beginning, nothing else would be different
    staged = second.root / "job-files"
    for file in (first.job_file, first.run_file):
        shutil.copy(file, staged)
    (staged / "take-over").touch()
    verb(second, "supervise", "job", "--from", str(staged))
    assert is_finished(second)
    before = results(mirror)

    assert "started: job" in verb(first, "boot")
    until(lambda: is_finished(first), LIMIT)

    after = results(mirror)
    assert {name: after.get(name) for name in before} == before
    assert {Path(name).parent.name for name in after.keys() - before.keys()} <= {"tensorboard"}  # events that no push had taken yet
    assert newest(first) == steps
    assert first.log.read_text().count("supervisor: bringing the run from gs://cells") == 1
    whole = uninterrupted(first)
    for run in (first.run, second.run, mirror):
        assert equal(weights(run), weights(whole))
        assert equal(load_model(run / "model.pt").weights, load_model(whole / "model.pt").weights)
