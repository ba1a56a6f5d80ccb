"""A tiny simulated screen, and the command line in this process: what it prints, its exit code, what it leaves behind."""

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest

from tests.tools.programs import NAMESPACES, own_namespaces, require
from training.__main__ import main
from training.data.simulation import Simulation, simulate

SETTINGS = Simulation(
    n_cells=640, n_genes=60, n_perturbations=12, n_gem_groups=2, n_modules=4, feature_dim=8, n_hvg=10, n_embedding=6
)

SMALL = (
    "model=identity_sm",
    "model.hidden_dim=16",
    "model.num_layers=1",
    "model.num_heads=2",
    "model.head_dim=8",
    "model.intermediate_dim=32",
    "data.set_size=16",
    "data.batch_size=4",
    "data.num_workers=0",
    "trainer.val_every_steps=4",
    "trainer.log_every_steps=2",
    "trainer.device=cpu",
    "checkpoints.every_steps=4",
    "optim.lr=1e-3",
)


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def _screen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("screen")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # the split file names the data as it was typed
        simulate(SETTINGS, Path("cells.h5ad"))
    return folder


@pytest.fixture
def screen(_screen, tmp_path, monkeypatch) -> Path:
    """A folder of one's own with cells.h5ad, cells_features.npz and cells_split.toml; it is the working directory."""
    shutil.copytree(_screen, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def training(capfd) -> Callable[..., Done]:
    """`training VERB ...`."""

    def call(*arguments: object) -> Done:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Done(code, out, err)

    return call


@pytest.fixture
def running(settings) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """`training fit` in a process of its own, with the words given, once it has trained for some steps; it hears Ctrl-C."""
    started = []

    def start(*changes: str) -> "subprocess.Popen[str]":
        words = settings("trainer.max_steps=1000000", "trainer.val_every_steps=1000000", *changes)
        process = subprocess.Popen(
            [sys.executable, "-m", "training", "fit", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=hear_interrupts,
        )
        started.append(process)
        assert process.stdout is not None
        assert any(re.match(r"step \d+/", line) for line in process.stdout), process.communicate()
        Thread(target=process.stdout.read, daemon=True).start()  # nobody reads on, and a full pipe would stop it
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def offered(pattern, message):
    """What a message offers, as the groups of a pattern."""
    found = re.search(pattern, message)
    assert found is not None, message
    return found.groups()


def hear_interrupts() -> None:
    """A shell that runs the tests in the background lets its children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def settings(screen) -> Callable[..., list[str]]:
    """Settings of a run of 8 steps in `run/`; KEY=VALUE words replace or add to them."""

    def chosen(*changes: str) -> list[str]:
        words = {
            "name": "run",
            "output_dir": ".",
            "data.split": "cells_split.toml",
            "data.control": "control",
            "data.perturbation_features_file": "cells_features.npz",
            "trainer.max_steps": "8",
        }
        words |= dict(word.split("=", 1) for word in (*SMALL, *changes))
        return [f"{key}={value}" for key, value in words.items()]

    return chosen


@pytest.fixture
def small_disk(screen) -> Iterator[Path]:
    """A file system of 3 MiB; where this process may not mount, the test runs in one that may (`pytest_pyfunc_call`)."""
    require("mount", NAMESPACES)
    folder = screen / "small"
    folder.mkdir()
    if not may_mount():
        yield folder
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@functools.cache
def may_mount() -> bool:
    """Whether this process may mount: root of the machine, if it is no container, or of a namespace."""
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True).returncode:
            return False
        subprocess.run(["umount", "--lazy", folder], check=True)
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test with a small disk as root of a namespace of its own, by a pytest of its own, if this process may not mount."""
    if "small_disk" not in pyfuncitem.fixturenames or may_mount():
        return None
    namespaces = own_namespaces()
    assert namespaces is not None
    words = [*namespaces, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", pyfuncitem.nodeid]
    done = subprocess.run(words, cwd=pyfuncitem.config.rootpath, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout, done.stdout
    return True
