"""Files on a machine that code of another version wrote: before an update, after one, or on another laptop."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from training.checkpoints.progress_file import read_progress
from training.errors import UserError
from training.runner.guards.idle import read_idle_state, read_rule
from training.runner.job import FORMAT, Job, read_job
from training.runner.mirror.push_state import read_record
from training.runner.processes import living
from training.runner.staging import take
from training.runner.state import read_state, write_state
from training.runner.status import status

FIXTURES = Path(__file__).parents[2] / "fixtures" / "protocol_format_0"


def recorded(name: str) -> dict:
    return json.loads((FIXTURES / name).read_text())


def lay(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def test_a_machine_of_format_0_is_understood(site):
    for name in ("job.json", "state.json", "push.json", "supervisor.json"):
        lay(site.paths.folder / name, recorded(name))
    lay(site.paths.run / "progress.json", recorded("progress.json"))
    for name in ("idle.json", "idle-state.json"):
        lay(site.paths.root / name, recorded(name))

    (job,) = status(site.paths.root).jobs

    assert (job.name, job.phase, job.restarts, job.step, job.bucket) == ("job", "finished", 1, 8, "file:///safe/bucket")
    assert read_job(site.paths).secrets == ("hf-token",)
    record = read_record(site.paths.folder)
    assert record is not None
    assert len(record.sent or {}) == 12
    rule, seen = read_rule(site.paths.root), read_idle_state(site.paths.root)
    assert rule is not None
    assert seen is not None
    assert (rule.minutes, seen.idle_since) == (30, 1e9)
    assert living(site.paths.pid_file) is None


READERS = {
    "state.json": lambda site: read_state(site.paths),
    "push.json": lambda site: read_record(site.paths.folder),
    "progress.json": lambda site: read_progress(site.paths.run),
    "job.json": lambda site: read_job(site.paths),
    "idle.json": lambda site: read_rule(site.paths.root),
    "idle-state.json": lambda site: read_idle_state(site.paths.root),
}
NEEDED = {("job.json", "name"), ("push.json", "run"), ("push.json", "bucket")}


def place(site, name: str) -> Path:
    return {"progress.json": site.paths.run, "idle.json": site.paths.root, "idle-state.json": site.paths.root}.get(
        name, site.paths.folder
    ) / name


@pytest.mark.parametrize(("name", "field"), [(name, field) for name in READERS for field in recorded(name)])
def test_a_field_that_older_code_did_not_write_has_its_default(site, name, field):
    values = recorded(name)
    del values[field]
    lay(place(site, name), values)

    if name == "job.json" and field == "name":
        with pytest.raises(UserError, match=r"job\.json: name: "):
            read_job(site.paths)
    else:
        assert (READERS[name](site) is None) == ((name, field) in NEEDED)


@pytest.mark.parametrize("name", READERS)
def test_a_field_of_newer_code_is_ignored(site, name):
    lay(place(site, name), recorded(name))
    before = READERS[name](site)
    lay(place(site, name), {**recorded(name), "format": 2, "of_tomorrow": {"a": [1]}})

    after = READERS[name](site)

    if isinstance(after, BaseModel):
        after = after.model_copy(update={"format": 0})
    assert before is not None
    assert after == before


def test_a_start_of_older_code_without_some_field_is_still_a_start(site):
    for field in recorded("state.json")["starts"][0]:
        values = recorded("state.json")
        del values["starts"][0][field]
        lay(site.paths.folder / "state.json", values)

        state = read_state(site.paths)

        assert state is not None
        assert len(state.starts) == 2
        assert len(status(site.paths.root).jobs) == 1


def test_words_of_newer_code_lose_no_start_and_are_not_final(site):
    values = recorded("state.json") | {"phase": "migrating", "format": 2}
    values["starts"][0]["ended"] = "migrated"
    lay(site.paths.folder / "state.json", values)

    state = read_state(site.paths)

    assert state is not None
    assert (state.phase, len(state.starts), state.begun, state.starts[0].ended) == ("interrupted", 2, True, "unsupervised")
    write_state(site.paths, state)
    assert json.loads((site.paths.folder / "state.json").read_text())["format"] == 1


def test_a_job_of_newer_code_can_be_told_of_but_not_started(site):
    newer = recorded("job.json") | {"format": FORMAT + 1, "gpus": 2}
    lay(site.paths.job_file, newer)
    staged = site.paths.root / ".staged" / "job.1234"
    lay(staged / "job.json", newer)
    (staged / "run.yaml").write_text("name: job\n")

    assert [job.phase for job in status(site.paths.root).jobs] == ["new"]
    with pytest.raises(
        UserError, match=r"^job\.json is of format 2, and this machine's code knows 1; run: \./fab bootstrap, then train again$"
    ):
        take(site.paths, staged)
    assert (staged / "job.json").exists()  # nothing was half-taken


def test_an_unknown_setting_of_our_own_format_is_a_slip(site):
    for format_ in ({}, {"format": FORMAT}):
        lay(site.paths.job_file, recorded("job.json") | format_ | {"max_restart": 5})
        with pytest.raises(UserError, match=r"job\.json: max_restart: 5: "):
            read_job(site.paths)
    assert "max_restarts" in Job.model_fields


@pytest.mark.parametrize("words", [("frobnicate",), ("stop", "job", "--of-tomorrow"), ("status", "--format=3")])
def test_a_verb_or_flag_that_this_code_does_not_know_is_what_the_laptop_looks_for(site, words):
    from bootstrap.verbs import _UNKNOWN

    command = [sys.executable, "-P", "-m", "training.runner", "--root", str(site.paths.root), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=site.paths.root)

    assert done.returncode == 2
    assert _UNKNOWN.search(done.stderr), done.stderr


def test_no_file_of_the_working_directory_is_taken_for_a_module_of_python(site):
    for name in ("copy", "json", "signal", "argparse", "logging"):
        (site.paths.code / f"{name}.py").write_text("raise SystemExit('imported from the working directory')\n")
    from training.runner.job import own_command

    done = subprocess.run(
        own_command(site.paths.root, "status"), capture_output=True, text=True, cwd=site.paths.code, env=dict(os.environ)
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["format"] == 1
