"""`fab train`, `pull` and `stop` against machines of other versions, and what they say. The whole way: test_runs.py."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from bootstrap import pull as results
from bootstrap import runs
from tests.tools.answering_machine import RECORD, ROOT, AnsweringMachine
from tests.tools.ssh_machine import SshMachine
from training.errors import RunError, UserError
from training.runner.job import FORMAT, Job

RUN = {"name": "screen", "data": {"split": "data/split.toml", "control": "control"}, "trainer": {"max_steps": 10}}
NOW = json.loads(RECORD.read_text()) | {"format": 1}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLD = """import argparse, sys
top = argparse.ArgumentParser(prog="python -m training.runner")
top.add_argument("--root", required=True)
verbs = top.add_subparsers(dest="verb", required=True)
verbs.add_parser("status")
top.parse_args(sys.argv[4:])
print(open("ANSWER").read())
"""


@pytest.fixture
def there(machine: SshMachine) -> AnsweringMachine:
    """A bootstrapped machine on which every verb answers the recorded status, and `training check` is content."""
    found = AnsweringMachine(machine)
    check = found.root / "code" / ".venv" / "bin" / "training"
    check.write_text("#!/bin/sh\nexit 0\n")
    check.chmod(0o755)
    return found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "screen.yaml").write_text(yaml.safe_dump(RUN))
    return tmp_path / "screen.yaml"


def staged(there: AnsweringMachine) -> dict:
    (file,) = there.root.glob(".staged/*/job.json")
    found: dict = json.loads(file.read_text())
    return found


@pytest.mark.parametrize(("format_", "sent"), [(0, None), (1, FORMAT), (2, FORMAT)])
def test_a_start_is_sent_in_a_form_that_the_machine_knows(there, host, run, format_, sent):
    there.says(NOW | {"format": format_})

    runs.train(host, run, [], "gs://cells")

    assert staged(there).get("format") == sent
    assert Job.model_validate_json(json.dumps(staged(there))).bucket == "gs://cells"


def test_no_run_starts_where_nothing_would_bring_its_last_results(there, host, run):
    (there.root / "last-sync").unlink()

    with pytest.raises(
        UserError, match=r"its hooks \(boot-hook, last-sync\) are missing in /mnt/data/incubator; run: \./fab bootstrap"
    ):
        runs.train(host, run, [], "gs://cells")


@pytest.mark.parametrize(
    ("phase", "reason", "words"),
    [
        ("running", "", "screen trains on incubator-l4 and needs nobody; its results go to gs://cells/runs/screen"),
        ("finished", "", "screen has finished on incubator-l4; its results go to gs://cells/runs/screen"),
        ("pushing", "finished", "screen has finished on incubator-l4"),
    ],
)
def test_a_run_that_has_finished_by_its_start_does_not_train(there, host, run, capsys, phase, reason, words):
    job = NOW["jobs"][0] | {"name": "screen", "phase": phase, "reason": reason, "supervisor_pid": None}
    there.says(NOW | {"jobs": [job]})

    runs.train(host, run, [], "gs://cells")

    assert words in capsys.readouterr().out


def test_a_run_that_only_pushes_may_be_given_another_bucket_and_one_that_trains_may_not(there, host, run, capsys):
    job = NOW["jobs"][0] | {"name": "screen", "bucket": "gs://wrong", "phase": "pushing", "reason": "finished"}
    there.says(NOW | {"jobs": [job]})
    for bucket in (None, "gs://wrong"):
        with pytest.raises(UserError, match="screen is pushing already"):
            runs.train(host, run, [], bucket)

    runs.train(host, run, [], "gs://right")

    assert "screen only pushes, to gs://wrong: from now on it goes to gs://right" in capsys.readouterr().out
    assert staged(there)["bucket"] == "gs://right"
    there.says(NOW | {"jobs": [job | {"phase": "running"}]})
    with pytest.raises(UserError, match="screen is running already"):
        runs.train(host, run, [], "gs://right")


@pytest.mark.parametrize("take_over", [True, False])
def test_a_run_is_taken_over_only_if_that_is_said(there, host, run, take_over):
    there.says(NOW)

    runs.train(host, run, [], "gs://cells", take_over=take_over)

    assert [path.name for path in there.root.glob(".staged/*/take-over")] == ["take-over"] * take_over


@pytest.mark.parametrize(("seconds", "words"), [(None, "stop job"), (90, "stop job --seconds 90")])
def test_a_stop_waits_as_long_as_it_is_told(there, host, seconds, words):
    there.python(f'echo "$*" >>{ROOT}/called; cat {ROOT}/answer')

    runs.stop(host, "job", seconds)

    assert (there.root / "called").read_text().splitlines()[-1].endswith(f"--root {ROOT} {words}")


def test_the_folder_of_a_bucket_must_be_there_and_the_message_says_how(there, host, run):
    there.says(NOW)

    with pytest.raises(
        UserError, match=r"the folder /mnt/data/my safe of incubator-l4, not of this laptop, which is not there"
    ) as no:
        runs.train(host, run, [], "file:///mnt/data/my%20safe")
    assert not list(there.root.glob(".staged/*"))
    command = re.search(r"make it: (.*)$", str(no.value))
    assert command is not None
    subprocess.run(["sh", "-c", command[1]], check=True)
    runs.train(host, run, [], "file:///mnt/data/my%20safe")

    assert (there.machine.disk / "my safe").is_dir()


@pytest.mark.parametrize("bucket", ["gs://cells\x1b[2J", "https://evil", "../x", "file://x"])
def test_a_bucket_of_which_the_machine_tells_is_a_bucket_or_nothing(there, host, run, bucket):
    job = NOW["jobs"][0] | {"name": "screen", "bucket": bucket, "phase": "stopped", "supervisor_pid": None}
    there.says(NOW | {"jobs": [job]})

    with pytest.raises(RunError, match=r"says that screen goes to .*, which is no bucket; name it: --bucket"):
        runs.train(host, run, [], None)


def test_an_output_dir_that_has_no_effect_there_is_refused_with_the_remedy(run):
    run.write_text(yaml.safe_dump(RUN | {"output_dir": "/scratch/results"}))

    with pytest.raises(UserError, match=r"output_dir: /scratch/results: has no effect on the machine.*--set output_dir=runs"):
        runs.validated(run, [])
    assert runs.validated(run, ["output_dir=runs"]).name == "screen"


def test_a_verb_that_older_code_does_not_know_is_no_mistake_of_the_user(there, host):
    (there.root / "code" / ".commit").write_text(f"{COMMIT}+changes")
    (there.root / "old.py").write_text(OLD.replace("ANSWER", f"{ROOT}/answer"))
    there.python(f'exec python3 {ROOT}/old.py "$@"')

    with pytest.raises(RunError, match=r"the code there does not know `stop job`: it is of another version") as failed:
        runs.stop(host, None)
    assert f"git checkout {COMMIT}" in str(failed.value)
    assert "./fab bootstrap" in str(failed.value)
    assert runs.status(host).jobs[0].name == "job"  # what it knows, it answers
    there.python(f"cat {ROOT}/answer")  # what the bootstrap would bring
    runs.stop(host, None)


def test_code_that_lies_elsewhere_there_is_of_another_version(there, host):
    there.python("echo '/x/python: No module named training.runner' >&2; exit 1")

    with pytest.raises(RunError, match=r"does not know `status`: it is of another .* While a run lives there, stop it by hand"):
        runs.status(host)


def test_a_setting_that_older_code_refuses_says_that_it_is_older(there, host, run):
    there.says(NOW)
    (there.root / "code" / ".commit").write_text(COMMIT)
    check = there.root / "code" / ".venv" / "bin" / "training"
    check.write_text("#!/bin/sh\necho 'refused: run.yaml: optim.rule: no such key' >&2\nexit 2\n")

    with pytest.raises(UserError, match=r"optim\.rule: no such key \(the code there is not that of this laptop\. Bring it"):
        runs.train(host, run, [], "gs://cells")


def test_a_bucket_without_a_name_or_with_a_wrong_one_lists_its_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("screen", "other", "no name of a run"):
        (tmp_path / "bucket" / "runs" / name).mkdir(parents=True)
        (tmp_path / "bucket" / "runs" / name / "run.json").write_text('{"starts": [{"time": "x"}]}')
    url = f"file://{tmp_path}/bucket"

    with pytest.raises(UserError, match=rf"^{url}: which run\? --run NAME \(in the bucket: other, screen\)$"):
        results.pull_from_bucket(url, None, tmp_path / "runs")
    with pytest.raises(UserError, match=rf"^{url}: has no run scren \(in the bucket: other, screen\)$"):
        results.pull_from_bucket(url, "scren", tmp_path / "runs")
    (tmp_path / "bucket" / "runs" / "\x1b[2J").write_text("")  # somebody else's, and no run
    with pytest.raises(UserError, match=r"\(in the bucket: other, screen\)$"):
        results.pull_from_bucket(url, None, tmp_path / "runs")
    (tmp_path / "bucket" / "runs" / "screen" / "\x1b[2J").write_text("")
    with pytest.raises(UserError, match="screen could not be pulled from"):
        results.pull_from_bucket(url, "screen", tmp_path / "runs")


def test_a_pull_from_a_bucket_says_what_came_and_what_to_do_next(tmp_path, monkeypatch, capsys, machine):
    monkeypatch.chdir(tmp_path)
    AnsweringMachine(machine).run("screen", step=8)
    (machine.disk / "incubator" / "runs" / "screen" / "tensorboard").mkdir()
    (machine.disk / "incubator" / "runs" / "screen" / "tensorboard" / "events").touch()

    target = results.pull_from_bucket(f"file://{machine.disk}/incubator", "screen", Path("runs"))
    shown = capsys.readouterr().out

    assert (target / "checkpoints" / "step=000000008" / "trainer.ckpt").exists()
    assert "screen: 5 files; checkpoints of steps: 8\n" in shown
    assert f"{target}: pulled from file://{machine.disk}/incubator and verified in " in shown
    assert "next: training evaluate runs/screen " in shown
    assert "tensorboard --logdir runs\n" in shown
