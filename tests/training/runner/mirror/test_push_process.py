"""The pusher as the process that it is: killed, woken, ended."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.tools.gcs_server import GcsServer
from tests.training.runner.mirror.conftest import Place, Run
from training.checkpoints.manifest import folder_of
from training.runner.mirror.push import PushState, read_push_state

ROOT = Path(__file__).parents[4]
DRIVER = "tests.training.runner.mirror.pusher_processes"


@pytest.fixture
def start() -> Iterator[Callable[..., int]]:
    """Starts the pusher of a run in a process of its own; its pid. What is left of them is killed."""
    words = [sys.executable, "-m", DRIVER]
    driver = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pids = []
    to, back = driver.stdin, driver.stdout
    assert to is not None
    assert back is not None

    def start(run: Run, url: str, interval: float) -> int:
        to.write(f"{run.path}\t{run.job}\t{url}\t{interval}\n")
        to.flush()
        pids.append(int(back.readline()))
        return pids[-1]

    yield start
    for pid in pids:
        kill(pid, signal.SIGKILL)
    to.close()
    driver.wait(20)
    back.close()


def kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def until(holds: Callable[[], object], seconds: float = 20) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to hold in time"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def state(run: Run) -> PushState:
    return read_push_state(run.job) or PushState(None, 0, (), False, 0, None)


def killed(place: Place, pid: int, server: GcsServer | None = None) -> set[int]:
    """Kill a pusher; what the bucket then has. Over gs:// the server may still be at the request that came last."""
    kill(pid, signal.SIGKILL)
    until(partial(is_gone, pid))
    if server is not None:
        until(lambda: server.under_way == 0)
    return set(place.steps())


def last_push(start: Callable[..., int], run: Run, place: Place, steps: list[int]) -> None:
    """After all kills one pusher that is let live brings everything, and removes what has gathered."""
    last = start(run, place.url, 0.02)
    until(lambda: len(os.sched_getaffinity(last)) == 1)  # it listens
    kill(last, signal.SIGTERM)
    until(lambda: is_gone(last), 240)
    assert place.steps() == steps
    assert state(run).complete


def kills(number: int, start: Callable[..., int], run: Run, place: Place, server: GcsServer | None) -> set[int]:
    """Kill a pusher again and again, while checkpoints come and rotate; steps seen in the bucket.

    A moment of a kill is a time, or over gs:// a request: how long the server takes is the machine's affair.
    """
    moments, step, seen = random.Random(7), 0, set[int]()
    run.begin()
    for _ in range(number):
        pid = start(run, place.url, 0.02)
        end = time.monotonic() + (moments.uniform(0, 0.6) if server is None else 20)
        requests = 0 if server is None else len(server.seen) + moments.randint(1, 60)
        while time.monotonic() < end and (server is None or len(server.seen) < requests):
            step += 1
            run.save(step, size=20_000)
            run.rotate(*([step - 3] if step > 3 else []))
            run.log(f"{step}\n")
            pause = time.monotonic() + moments.uniform(0, 0.15 if server is None else 0.5)
            while time.monotonic() < min(end, pause) and (server is None or len(server.seen) < requests):
                time.sleep(0.002)
        seen |= killed(place, pid, server)
    last_push(start, run, place, [step - 2, step - 1, step])
    return seen


@pytest.mark.parametrize("number", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_kills_never_leave_a_manifest_in_a_folder_that_is_not_true(start, run, folder_place, number):
    assert len(kills(number, start, run, folder_place, None)) >= number // 5


@pytest.mark.parametrize("number", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_kills_never_leave_a_manifest_in_google_storage_that_is_not_true(gs_place, server, start, run, number):
    """In this order: `start` inherits the environment."""
    assert len(kills(number, start, run, gs_place, server)) > number / 20


def test_a_new_checkpoint_wakes_the_pusher(start, run, folder_place):
    run.begin()
    start(run, folder_place.url, 3600)
    until(lambda: state(run).last_success)

    run.save(10)

    until(lambda: state(run).safe_steps == (10,))
    assert folder_place.steps() == [10]


@pytest.mark.slow
def test_sigterm_means_push_what_is_left_and_an_outage_only_delays_that(start, run, folder_place):
    away = folder_place.folder.rename(folder_place.folder.with_name("away"))
    run.begin().save(10)
    pid = start(run, folder_place.url, 3600)
    until(lambda: state(run).failures == 1)  # the first error is told at once
    assert "no such folder" in (state(run).error or "")
    kill(pid, signal.SIGTERM)
    until(lambda: state(run).failures == 2)
    assert not is_gone(pid)

    away.rename(folder_place.folder)

    until(lambda: is_gone(pid), 30)
    assert folder_place.steps() == [10]
    assert state(run).complete
    assert not (folder_place.run() / "lease.json").exists()


def test_the_pusher_takes_one_core_and_gives_way(start, run, folder_place):
    pid = start(run, folder_place.url, 3600)
    until(lambda: state(run).last_success)

    assert len(os.sched_getaffinity(pid)) == 1
    assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0) + 10


def test_a_rotation_in_the_middle_of_an_upload_leaves_no_manifest(start, run, folder_place):
    run.begin().save(10, size=100_000_000)
    run.save(20)
    pid = start(run, folder_place.url, 3600)
    there = folder_place.run() / "checkpoints"
    until(lambda: (there / folder_of(10)).exists())
    run.rotate(10)
    kill(pid, signal.SIGTERM)
    until(lambda: is_gone(pid), 60)

    assert folder_place.steps() == [20]
    assert not (there / folder_of(10)).exists()
    assert state(run).complete
