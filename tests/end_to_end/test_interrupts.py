"""Ctrl-C at any moment of any verb: one line, exit code 1, nothing half-written. In processes of their own."""

import os
import signal
import subprocess
import sys
import time
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from tests.end_to_end.conftest import hear_interrupts

# In the path of a process: says when the command line itself begins to load, which is after Python's own start.
TELLS = """
import os, sys

class Tells:
    def find_spec(self, name, path=None, target=None):
        if name == "training.__main__":
            os.write(1, b"loading\\n")

sys.meta_path.insert(0, Tells())
"""


@pytest.fixture
def command(tmp_path_factory):
    """Start `training`, as its console script does, and return when its first module is loading."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(TELLS)
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    module, _, call = project["project"]["scripts"]["training"].partition(":")
    script = f"import sys; from {module} import {call}; sys.argv[0] = 'training'; sys.exit({call}())"

    def start(*words):
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(folder)},
            preexec_fn=hear_interrupts,
        )
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 100) == b"loading\n"
        return process

    return start


def ended(process, after):
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    return process.returncode, err.decode()


@pytest.mark.parametrize("after", [0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8])
def test_an_interrupt_while_a_run_is_loading_is_one_line(after, command, settings, screen):
    before = sorted(screen.rglob("*"))

    assert ended(command("fit", *settings()), after) == (1, "interrupted\n")
    assert sorted(screen.rglob("*")) == before


@pytest.mark.parametrize(
    "words",
    [
        ["check"],
        ["show-config"],
        ["predict", "run", "--output", "out.h5ad"],
        ["evaluate", "run"],
        ["report", "run"],
        ["simulate", "new.h5ad"],
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("after", [0.0, 0.3])
def test_an_interrupt_while_any_verb_is_loading_is_one_line(words, after, command, screen):
    before = sorted(screen.rglob("*"))

    assert ended(command(*words), after) == (1, "interrupted\n")
    assert sorted(screen.rglob("*")) == before


def interrupt_at(place, monkeypatch):
    """Ctrl-C in the middle of the work: at the end of a function of ours."""
    module, _, name = place.rpartition(".")
    original = getattr(import_module(module), name)

    def interrupted(*words, **more):
        original(*words, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupted)


MIDDLES = {
    "simulate": ("training.data.simulation._split_toml", ["simulate", "new.h5ad"]),
    "predict": ("training.evaluation.predict._write_frame", ["predict", "run", "--output", "out.h5ad"]),
    "evaluate": ("training.run.judge", ["evaluate", "run"]),
    "check": ("training.run.open_cells", ["check", "data.perturbation_features_file=new.npz", "--write-features", "new.npz"]),
    "fit": ("training.run.open_cells", ["fit", "output_dir=new/runs"]),
}


@pytest.mark.parametrize("verb", MIDDLES)
def test_an_interrupt_in_the_middle_of_a_verb_leaves_nothing_half_written(verb, training, settings, screen, monkeypatch):
    place, words = MIDDLES[verb]
    if verb in ("check", "fit"):
        words = [verb, *settings(words[1]), *words[2:]]
    elif verb != "simulate":
        assert training("fit", *settings()).code == 0
    before = sorted(screen.rglob("*"))
    interrupt_at(place, monkeypatch)

    done = training(*words)

    assert (done.code, done.err) == (1, "interrupted\n")
    assert sorted(screen.rglob("*")) == before


def test_an_interrupt_before_the_first_checkpoint_offers_what_works(training, settings, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at("training.run.plan_text", patch)
        done = training("fit", *settings())

    assert (done.code, done.err) == (1, "interrupted; nothing was saved yet: overwrite=true starts anew\n")
    assert training("fit", *settings("resume=true")).code == 2
    assert training("fit", *settings("overwrite=true")).code == 0


def test_an_interrupt_after_the_last_checkpoint_offers_what_works(training, settings, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at("training.run.save_model", patch)
        done = training("fit", *settings())

    assert (done.code, done.err) == (1, "interrupted; resume=true goes on from step 8\n")
    assert training("fit", *settings("resume=true")).code == 0
