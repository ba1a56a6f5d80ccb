"""What the bucket tells of runs whose machine is off: how they stand, their log, and whether all of the machine is there."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.tools.pushed_run import push_finished_run
from tests.training.runner.conftest import REPOSITORY, until
from training.checkpoints.manifest import MANIFEST
from training.errors import RunError, UserError
from training.runner.bucket_side import runs_in
from training.runner.guards.idle import IdleRule, read_idle_state, write_rule
from training.runner.in_bucket import log_in, prove, status_in
from training.runner.job import JobPaths, own_command
from training.runner.report import as_json, from_json
from training.runner.shutdown_report import write_shutdown_report

BEFORE = datetime.now(UTC) - timedelta(hours=1)
GUARD = "import sys; from pathlib import Path; from training.runner.guards.power_off import guard; guard(Path(sys.argv[1]), 0.05)"


@pytest.fixture
def pushed(root, bucket) -> JobPaths:
    """A run that has finished and is in its bucket, on a machine with a name."""
    return push_finished_run(root, "job", bucket)


def proven(bucket: str, since: datetime = BEFORE) -> list[str]:
    """Of a machine that has stopped just now."""
    return prove(bucket, "incubator-l4", since, datetime.now(UTC))


def in_bucket(bucket: str) -> Path:
    return Path(bucket.removeprefix("file://")) / "runs" / "job"


def test_a_finished_run_is_told_as_its_machine_told_it(pushed, bucket):
    (job,) = status_in(bucket).jobs

    assert (job.name, job.phase, job.step, job.total_steps) == ("job", "finished", 8, 8)
    assert (job.checkpoint_step, job.safe_steps[-1], job.bucket) == (8, 8, bucket)


def test_a_run_lives_as_long_as_its_lease_and_then_was_cut_off(pushed, bucket):
    state = in_bucket(bucket) / "job" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"phase": "running"}))
    (cut_off,) = status_in(bucket).jobs
    now = datetime.now(UTC).isoformat()
    (in_bucket(bucket) / "lease.json").write_text(json.dumps({"holder": "incubator-l4:/x", "renewed": now}))
    (lives,) = status_in(bucket).jobs

    assert cut_off.phase == "cut off"
    assert "it was running when it was last heard of" in cut_off.reason
    assert lives.phase == "running"
    assert "on incubator-l4:/x, which was heard of at" in lives.reason


def test_what_is_no_run_is_passed_over_and_a_broken_one_is_told(pushed, bucket):
    runs = in_bucket(bucket).parent
    (runs / "notes.txt").write_text("mine")
    (runs / "not begun" / "job").mkdir(parents=True)
    (runs / "not begun" / "run.json").write_text("{}")
    (runs / "other").mkdir()
    (runs / "other" / "run.json").write_text("{}")
    write_shutdown_report(pushed.root)

    assert [(job.name, job.phase) for job in status_in(bucket).jobs] == [("job", "finished"), ("other", "unknown")]


START = {"time": "2026-11-21T00:00:00+00:00", "seconds": -5.0}


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("job/state.json", json.dumps({"phase": "finished", "starts": [START]}), r"run_seconds: -5\.0: Input should be greater"),
        ("progress.json", json.dumps({"step": -3, "total_steps": -1}), r"total_steps: -1: Input should be greater"),
        ("job/state.json", " " * (16 * 2**20 + 1), "is larger than 16 MiB"),
    ],
)
def test_one_broken_run_hides_no_other(pushed, bucket, file, text, said):
    bad = in_bucket(bucket).parent / "bad" / file
    bad.parent.mkdir(parents=True)
    bad.write_text(text)
    (in_bucket(bucket).parent / "bad" / "run.json").write_text("{}")

    found = from_json(as_json(status_in(bucket)))  # as the laptop reads it

    assert [(job.name, job.phase) for job in found.jobs] == [("bad", "broken"), ("job", "finished")]
    assert re.search(said, found.jobs[0].reason)


def test_names_that_are_none_hide_no_run(pushed, bucket):
    runs = in_bucket(bucket).parent
    for name in ("x" * 101, "a\nb"):
        (runs / name).mkdir()
        (runs / name / "run.json").write_text("{}")
    (runs / "job" / "line\nbreak").write_text("")
    write_shutdown_report(pushed.root)

    assert runs_in(bucket) == ["job"]
    assert [job.name for job in status_in(bucket).jobs] == ["job"]
    assert len(proven(bucket)) == 2


def test_the_end_of_a_log(pushed, bucket):
    log = pushed.log.read_text().splitlines()

    assert log_in(bucket, None, 2).splitlines() == log[-2:]
    assert log_in(bucket, "job", 0) == ""
    with pytest.raises(UserError, match=r"has no run screen \(in the bucket: job\)"):
        log_in(bucket, "screen", 2)


def test_the_guard_writes_the_shutdown_report_before_it_powers_off(pushed, bucket):
    mark = pushed.root.parent / "off"
    report = in_bucket(bucket).parent / ".machines" / "incubator-l4.json"
    write_rule(pushed.root, IdleRule(minutes=0.001, command=("cp", str(report), str(mark))))  # it must be there by then
    guard = "import training.runner.guards.idle as idle; idle.ssh_sessions = lambda: []; " + GUARD

    with subprocess.Popen([sys.executable, "-c", guard, str(pushed.root)], cwd=REPOSITORY) as process:
        try:
            until(mark.exists)
        finally:
            process.kill()

    assert [job["name"] for job in json.loads(mark.read_text())["jobs"]] == ["job"]


@pytest.mark.parametrize("in_use", [True, False])
def test_the_guard_removes_its_report_where_the_machine_stays_on(pushed, bucket, in_use):
    write_shutdown_report(pushed.root)  # as before a power-off that came to nothing
    report = in_bucket(bucket).parent / ".machines" / "incubator-l4.json"
    write_rule(pushed.root, IdleRule(minutes=60 if in_use else 0.001, command=("false",)))
    guard = f"import training.runner.guards.idle as idle; idle.ssh_sessions = lambda: {['someone'] * in_use}; " + GUARD

    with subprocess.Popen([sys.executable, "-c", guard, str(pushed.root)], cwd=REPOSITORY) as process:
        try:
            until(lambda: not report.exists())
        finally:
            process.kill()


def test_a_report_that_cannot_be_removed_does_not_end_the_guard(root):
    (root / "machine.json").write_text(json.dumps({"name": "incubator-l4", "bucket": "file:///no/such/folder"}))
    write_rule(root, IdleRule(minutes=60))
    guard = "import training.runner.guards.idle as idle; idle.ssh_sessions = lambda: ['someone']; " + GUARD

    with subprocess.Popen([sys.executable, "-c", guard, str(root)], cwd=REPOSITORY) as process:
        try:
            until(lambda: read_idle_state(root) is not None)
            (root / "idle-state.json").unlink()
            until(lambda: read_idle_state(root) is not None)
        finally:
            process.kill()


def test_all_of_a_machine_that_is_off_is_proven(pushed, bucket):
    write_shutdown_report(pushed.root)

    head, line = proven(bucket)

    assert head.startswith("incubator-l4 compared its disk with the bucket before it powered itself off, at 2")
    assert head.endswith(" UTC: 1 runs, everything was there")
    assert line.startswith(f"job: finished at step 8; {bucket}/runs/job has job/state.json, run.json, model.pt, and the checkpoint")
    assert "of step 8: " in line


def test_a_machine_on_which_nothing_ever_ran_has_nothing_to_lose(root, bucket):
    (root / "machine.json").write_text(json.dumps({"name": "incubator-l4", "bucket": bucket}))
    write_shutdown_report(root)

    (line,) = proven(bucket)

    assert line.endswith("no run was ever started there")


def remove_checkpoint(paths, bucket):
    (in_bucket(bucket) / "checkpoints" / "step=000000008" / MANIFEST).unlink()


def shorten_checkpoint(paths, bucket):
    (in_bucket(bucket) / "checkpoints" / "step=000000008" / "trainer.ckpt").write_text("")


def remove_model(paths, bucket):
    (in_bucket(bucket) / "model.pt").unlink()


def remove_report(paths, bucket):
    (in_bucket(bucket).parent / ".machines" / "incubator-l4.json").unlink()


def change_disk(paths, bucket):
    (paths.run / "evaluation.csv").write_text("new")
    write_shutdown_report(paths.root)


def leave_stray(paths, bucket):
    (paths.root / "runs" / "by_hand").mkdir()
    write_shutdown_report(paths.root)


def job_without_bucket(paths, bucket):
    paths.job_file.write_text(json.dumps({"name": "job"}))
    write_shutdown_report(paths.root)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (remove_checkpoint, r"lacks the checkpoint of step 8 \(newest there: "),
        (shorten_checkpoint, r"lacks the checkpoint of step 8 \(newest there: "),
        (remove_model, r"job: .*/runs/job lacks model\.pt"),
        (remove_report, "has no shutdown report of incubator-l4"),
        (change_disk, r"job \(finished, step 8\): not everything was in "),
        (leave_stray, "runs/by_hand belongs to no job, and is on its disk alone"),
        (job_without_bucket, "job has no bucket: it is on its disk alone"),
    ],
)
def test_what_is_missing_is_not_proven(pushed, bucket, harm, said):
    write_shutdown_report(pushed.root)
    harm(pushed, bucket)

    with pytest.raises(RunError, match=said):
        proven(bucket)


@pytest.mark.parametrize("minutes", [-1, 11])
def test_a_report_is_believed_for_a_stop_right_after_it_alone(pushed, bucket, minutes):
    write_shutdown_report(pushed.root)

    with pytest.raises(
        RunError, match=r"its VM was stopped at .* \(accepted: at most 10 minutes after the report\): what it did in between"
    ):
        prove(bucket, "incubator-l4", BEFORE, datetime.now(UTC) + timedelta(minutes=minutes))


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ({"format": 1, "time": "2099-01-01T00:00:00+00:00", "jobs": [], "strays": []}, "its VM was stopped at"),
        ({"format": 7, "time": "now", "jobs": [], "strays": []}, "it is of format 7, and this code knows 1: update the code here"),
        ({"format": 1, "time": "now", "strays": []}, "is no shutdown report of a machine: it lacks jobs"),
        ({"time": "now"}, "is no shutdown report of a machine: it lacks jobs and strays"),
        ({"format": 1, "jobs": [], "strays": []}, "has no shutdown report of incubator-l4"),
    ],
)
def test_a_report_that_no_machine_of_this_code_wrote_proves_nothing(bucket, report, said):
    folder = in_bucket(bucket).parent / ".machines"
    folder.mkdir(parents=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    (folder / "incubator-l4.json").write_text(json.dumps(report).replace('"now"', f'"{now}"'))

    with pytest.raises(RunError, match=said):
        proven(bucket)


def test_a_report_before_the_latest_start_says_nothing(pushed, bucket):
    write_shutdown_report(pushed.root)

    with pytest.raises(RunError, match=r"its VM was started after that, at .*: what it did since is not known"):
        proven(bucket, since=datetime.now(UTC) + timedelta(seconds=1))


def test_on_the_command_line_what_is_not_proven_ends_with_1(pushed, bucket):
    words = own_command(
        Path(), "prove", bucket, "incubator-l4", BEFORE.isoformat(), (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    )

    before = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    write_shutdown_report(pushed.root)
    after = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)

    assert (before.returncode, after.returncode) == (1, 0), before.stderr + after.stderr
    assert "has no shutdown report of incubator-l4" in before.stderr
    assert "everything was there" in after.stdout
