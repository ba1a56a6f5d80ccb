"""One process trains in a run directory: the others are refused by name, and a death of any kind lets go."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Barrier, Thread
from typing import IO

import pytest

from training.checkpoints import run_lock
from training.checkpoints.run_lock import held, lock_file, refuse_if_held
from training.errors import UserError

# Holds the lock of argv[1], says so, and waits; with argv[2] it forks a worker that outlives it.
HOLDER = r"""
import os, sys, time
from pathlib import Path
from typing import IO
from training.checkpoints.run_lock import held

with held(Path(sys.argv[1])):
    if len(sys.argv) > 2 and os.fork() == 0:
        os.write(1, b"worker\n")
        time.sleep(60)
        os._exit(0)
    os.write(1, b"held\n")
    time.sleep(60)
"""


@pytest.fixture
def in_a_hurry(monkeypatch):
    monkeypatch.setattr(run_lock, "PATIENCE_SECONDS", 0.0)


@pytest.fixture
def holder():
    """Another process that holds the lock of a run."""
    started = []

    def start(run, *words, n_lines=1):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(run), *words], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        assert process.stdout is not None
        assert {process.stdout.readline().strip() for _ in range(n_lines)} >= {"held"}
        return process

    yield start
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_second_process_is_refused_with_the_first_ones_name(tmp_path, holder, in_a_hurry):
    run = tmp_path / "run"
    process = holder(run)
    said = rf"run: process {process.pid} trains here since 20\d\d-.* .accepted: wait for its end, end it with `kill {process.pid}`"

    for ask in (held(run), held(tmp_path / "." / "run")):
        with pytest.raises(UserError, match=said), ask:
            pass
    with pytest.raises(UserError, match=said):
        refuse_if_held(run)


def test_the_advice_leads_on(tmp_path, holder):
    """Within the patience of the lock: nobody has to try twice."""
    process = holder(tmp_path / "run")

    subprocess.run(["sh", "-c", f"kill {process.pid}"], check=True)
    with held(tmp_path / "run"):
        assert process.wait() == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_holder_holds_nothing_although_its_workers_live(tmp_path, holder, in_a_hurry, number):
    process = holder(tmp_path / "run", "with a worker", n_lines=2)

    process.send_signal(number)
    process.wait()
    os.killpg(process.pid, 0)  # the worker is there
    with held(tmp_path / "run"):
        pass


def test_a_stopped_holder_still_holds(tmp_path, holder, in_a_hurry):
    process = holder(tmp_path / "run")

    process.send_signal(signal.SIGSTOP)
    with pytest.raises(UserError, match=f"process {process.pid} trains here"), held(tmp_path / "run"):
        pass


def test_nothing_is_left_behind_but_the_folder_that_was_filled(tmp_path):
    run = tmp_path / "a" / "b" / "run"

    with held(run):
        assert lock_file(run).is_file()
    assert list(tmp_path.iterdir()) == []

    with held(run):
        run.mkdir()
    assert list((tmp_path / "a" / "b").iterdir()) == [run]


def test_the_file_of_a_killed_holder_is_no_obstacle(tmp_path, in_a_hurry):
    lock_file(tmp_path / "run").write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": "long ago"}))

    refuse_if_held(tmp_path / "run")
    with held(tmp_path / "run"):
        assert json.loads(lock_file(tmp_path / "run").read_text())["pid"] == os.getpid()


def test_the_lock_stays_when_the_folder_is_moved_away_and_made_anew(tmp_path, in_a_hurry):
    """As `overwrite=true` does."""
    run = tmp_path / "run"
    run.mkdir()
    with held(run):
        run.rename(tmp_path / ".run.removed")
        run.mkdir()
        with pytest.raises(UserError, match="trains here"), held(run):
            pass


def test_a_lock_whose_file_was_taken_away_is_not_mistaken_for_the_new_one(tmp_path, monkeypatch, in_a_hurry):
    """Between the opening of the file and the lock on it, its holder ends and another begins."""
    run = tmp_path / "run"
    flock = fcntl.flock
    others: list[IO[str]] = []

    def late(handle, how):
        if not others:
            lock_file(run).unlink()
            others.append(lock_file(run).open("w"))
            flock(others[0], fcntl.LOCK_EX)
        flock(handle, how)

    monkeypatch.setattr("training.checkpoints.run_lock.fcntl.flock", late)
    with pytest.raises(UserError, match="another process trains here"), held(run):
        pass
    others[0].close()


def test_a_link_to_the_folder_leads_to_the_same_lock(tmp_path, in_a_hurry):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")

    with held(tmp_path / "run"), pytest.raises(UserError, match="trains here"), held(tmp_path / "link"):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_told_of_and_does_not_stop_a_run(tmp_path, monkeypatch, caplog, number):
    def refuses(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("training.checkpoints.run_lock.fcntl.flock", refuses)
    with held(tmp_path / "run"):
        refuse_if_held(tmp_path / "run")
    assert "run: cannot be locked (" in caplog.text
    assert "nothing keeps a second process from training there" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_lock_without_the_name_of_its_holder(tmp_path, monkeypatch, in_a_hurry):
    def is_full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("training.checkpoints.run_lock.os.pwrite", is_full)
        lock = held(Path(tmp_path / "run"))
        lock.__enter__()
    with pytest.raises(UserError, match=r"another process trains here .accepted: wait for its end, or set another name"):
        refuse_if_held(tmp_path / "run")
    lock.__exit__(None, None, None)


def test_of_many_at_once_one_goes_on(tmp_path, in_a_hurry):
    inside, most, refused = 0, 0, 0
    together, until_all_have_asked = Barrier(8), Barrier(8)

    def ask():
        nonlocal inside, most, refused
        together.wait()
        try:
            with held(tmp_path / "run"):
                inside += 1
                most = max(most, inside)
                until_all_have_asked.wait()
                inside -= 1
        except UserError:
            refused += 1
            until_all_have_asked.wait()

    threads = [Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, refused) == (1, 7)
