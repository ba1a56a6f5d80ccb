"""A run that is being trained: nobody else trains there, everybody may read, and its death lets go at once."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from training.checkpoints import run_lock
from training.checkpoints.manifest import complete_checkpoints

WORKERS = "data.num_workers=2"


def contents(folder):
    """Everything in a run directory but what comes in the course of a living one."""
    later = {"checkpoints", "metrics.jsonl"}
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not later & set(path.parts))


@pytest.fixture
def in_a_hurry(monkeypatch):
    monkeypatch.setattr(run_lock, "PATIENCE_SECONDS", 0.1)


@pytest.mark.slow
def test_a_living_run_is_neither_overwritten_nor_resumed_but_may_be_judged(running, training, settings, in_a_hurry):
    process = running()
    said = rf"refused: run: process {process.pid} trains here since .*\n$"
    before = contents(Path("run"))

    for verb in ("fit", "check"):
        for word in ("overwrite=true", "resume=true", "seed=42"):
            done = training(verb, *settings(word))
            assert done.code == 2
            assert re.match(said, done.err), done.err
    process.send_signal(signal.SIGSTOP)
    assert re.match(said, training("fit", *settings("overwrite=true")).err), "an old process that wakes would write on"
    process.send_signal(signal.SIGCONT)
    assert contents(Path("run")) == before

    assert training("evaluate", "run", "--checkpoint", "last").code == 0
    assert training("fit", *settings("name=another")).code == 0
    assert process.poll() is None


@pytest.mark.slow
def test_the_end_that_the_message_offers_leaves_a_checkpoint_and_the_folder_free(running, training, settings, in_a_hurry):
    process = running("checkpoints.every_steps=1000000")
    refused = training("fit", *settings("resume=true"))
    command = re.search(r"end it with `(kill \d+)`, which saves a checkpoint", refused.err)
    assert command is not None, refused.err

    subprocess.run(["sh", "-c", command[1]], check=True)
    process.wait(timeout=60)
    (saved,) = complete_checkpoints(Path("run/checkpoints"))
    words = settings(f"trainer.max_steps={saved.step + 2}", "trainer.val_every_steps=1000000", "resume=true")
    assert training("fit", *words).code == 0


@pytest.mark.slow
def test_a_run_that_is_killed_with_its_workers_alive_is_resumed_at_once(running, training, settings, in_a_hurry):
    process = running(WORKERS, "checkpoints.every_steps=1")

    process.kill()
    process.wait()
    os.killpg(process.pid, 0)  # its workers have not noticed yet
    steps = complete_checkpoints(Path("run/checkpoints"))[-1].step + 2
    words = settings(f"trainer.max_steps={steps}", "trainer.val_every_steps=1000000", "checkpoints.every_steps=1", "resume=true")
    done = training("fit", *words)

    assert done.code == 0, done.err
    assert not Path(".run.lock").exists()


def test_a_refused_run_leaves_no_folder_for_runs(training, settings, screen):
    before = sorted(screen.rglob("*"))

    assert training("fit", *settings("output_dir=new/runs", "data.control=contrl")).code == 2
    assert sorted(screen.rglob("*")) == before
