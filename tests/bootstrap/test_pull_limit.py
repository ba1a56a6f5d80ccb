"""What a pull may take of the laptop's disk, from a machine behind a real sshd."""

import shutil
from collections import namedtuple

import pytest

from bootstrap import pull as results
from bootstrap import pull_limit, streams
from tests.tools.answering_machine import AnsweringMachine
from training.errors import RunError, UserError

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def answering(machine) -> AnsweringMachine:
    answering = AnsweringMachine(machine)
    answering.run()
    return answering


def test_what_does_not_fit_is_refused_before_anything_is_written(answering, host, tmp_path, monkeypatch):
    usage = Usage(2**40, 2**40, pull_limit.RESERVE + 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    with pytest.raises(UserError, match=r"0\.0 GiB are to come from incubator-l4, and 1\.0 GiB are free there.*--into FOLDER"):
        results.pull(host, None, tmp_path / "runs")

    assert list((tmp_path / "runs").rglob("*")) == []


def test_what_is_here_already_needs_no_room(answering, host, tmp_path, monkeypatch):
    target = results.pull(host, None, tmp_path / "runs")
    usage = Usage(2**40, 2**40, pull_limit.RESERVE + 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    assert results.pull(host, None, tmp_path / "runs") == target


def test_more_than_was_announced_ends_the_copy(answering, host, tmp_path, machine, monkeypatch):
    monkeypatch.setattr(pull_limit, "SLACK", 2**20)
    monkeypatch.setattr(streams, "WATCH_SECONDS", 0.02)
    rsync, count = shutil.which("rsync"), "/mnt/data/asked"
    grow = "truncate -s 200M /mnt/data/incubator/runs/job/checkpoints/step=000000008/trainer.ckpt"
    machine.program("rsync", f'echo >>{count}; [ "$(wc -l <{count})" = 1 ] || {grow}\nexec {rsync} "$@"')

    with pytest.raises(RunError, match=r"rsync: .* GiB have come, and 0\.0 GiB were announced; what came lies in .*/runs/job"):
        results.pull(host, None, tmp_path / "runs")


def test_more_files_than_a_run_has_are_refused(answering, host, tmp_path, monkeypatch):
    monkeypatch.setattr(pull_limit, "FILES", 20)
    for number in range(30):
        (answering.root / "runs" / "job" / f"{number}.txt").touch()

    with pytest.raises(RunError, match=r"has 3\d files \(accepted: at most 20\); nothing was pulled"):
        results.pull(host, None, tmp_path / "runs")

    assert list((tmp_path / "runs").rglob("*")) == []


def test_a_disk_that_something_else_fills_ends_the_copy(answering, host, tmp_path, monkeypatch):
    free = iter([2**40])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 2**40, next(free, 0)))

    with pytest.raises(RunError, match=r"less than 0\.5 GiB are free on the disk of .*/runs/job; free some, and pull again"):
        results.pull(host, None, tmp_path / "runs")
