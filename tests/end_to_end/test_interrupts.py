"""Ctrl-C at any moment of any verb: one line, exit code 1, nothing half-written. In processes of their own."""

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from tests.end_to_end.conftest import hear_interrupts

# In the path of a process: Ctrl-C as it begins to look for the module that MODULE names. No clock has a part in it.
AT_A_MODULE = """
import os, signal, sys

class AtAModule:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["MODULE"]:
            os.write(1, b"loading\\n")
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, AtAModule())
"""


@pytest.fixture
def interrupted(tmp_path_factory):
    """Run `training`, as its console script does, with Ctrl-C at the moment when it looks for one module.

    Returns: its exit code, output and error output.
    """
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(AT_A_MODULE)
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    module, _, call = project["project"]["scripts"]["training"].partition(":")
    script = f"import sys; from {module} import {call}; sys.argv[0] = 'training'; sys.exit({call}())"

    def run(module, *words):
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, words)],
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {"PYTHONPATH": str(folder), "MODULE": module},
            preexec_fn=hear_interrupts,
        )
        return done.returncode, done.stdout, done.stderr

    return run


INTERRUPTED = (1, "loading\n", "interrupted\n")


@pytest.mark.parametrize(
    "module",
    ["training.__main__", "yaml", "numpy", "training.config_loader", "torch", "anndata", "lightning.pytorch", "training.plan"],
)
def test_an_interrupt_while_a_run_is_loading_is_one_line(module, interrupted, settings, screen):
    before = sorted(screen.rglob("*"))

    assert interrupted(module, "fit", *settings()) == INTERRUPTED
    assert sorted(screen.rglob("*")) == before


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("training.config_loader", ["check"]),
        ("training.config_text", ["show-config"]),
        ("training.run", ["predict", "run", "--output", "out.h5ad"]),
        ("training.run", ["evaluate", "run"]),
        ("training.run", ["report", "run"]),
        ("training.data.simulation", ["simulate", "new.h5ad"]),
    ],
    ids=lambda part: part[0] if isinstance(part, list) else "",
)
@pytest.mark.parametrize("moment", ["first", "last"])
def test_an_interrupt_while_any_verb_is_loading_is_one_line(moment, module, words, interrupted, screen):
    before = sorted(screen.rglob("*"))

    assert interrupted("training.__main__" if moment == "first" else module, *words) == INTERRUPTED
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
    "predict": ("training.tasks.perturbation.evaluation.predict._write_frame", ["predict", "run", "--output", "out.h5ad"]),
    "evaluate": ("training.tasks.perturbation.trained.judge", ["evaluate", "run"]),
    "check": (
        "training.tasks.perturbation.task.open_cells",
        ["check", "data.perturbation_features_file=new.npz", "--write-features", "new.npz"],
    ),
    "fit": ("training.tasks.perturbation.task.open_cells", ["fit", "output_dir=new/runs"]),
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
