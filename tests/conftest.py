"""What every test starts from and leaves behind: seeds, environment, logging, torch. And which tests a machine leaves out."""

import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tools import made_up_screen, programs


@pytest.fixture(autouse=True)
def same_start() -> Iterator[None]:
    """Seed everything, and undo what a test did to the environment, to logging and to torch's globals.

    One thread: sums are then in one order on every machine, and small tensors are faster so.
    """
    environment = dict(os.environ)
    handlers, level = logging.root.handlers.copy(), logging.root.level
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(False)
    yield
    os.environ.clear()
    os.environ.update(environment)
    logging.captureWarnings(False)
    logging.root.setLevel(level)
    for handler in set(logging.root.handlers) - set(handlers):  # those of `main`; pytest's own stay
        logging.root.removeHandler(handler)


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small screen in the shape of a published one that the repository brings itself."""
    path: Path = tmp_path_factory.mktemp("made_up") / "made_up.h5ad"
    made_up_screen.write(path)
    return path


@pytest.fixture(params=["made up", *(["real"] if made_up_screen.REAL.is_file() else [])])
def small_screen(request: pytest.FixtureRequest, made_up: Path) -> Path:
    """That one, and then the real one, where it lies beside the repository."""
    return made_up if request.param == "made up" else made_up_screen.REAL


@pytest.fixture
def real_if_here(made_up: Path) -> Path:
    """One of both, for tests that take long: the real one, where it lies beside the repository."""
    return made_up_screen.REAL if made_up_screen.REAL.is_file() else made_up


def pytest_configure(config: pytest.Config) -> None:
    """Tests marked `needs`, and the last line on those that were left out."""
    config.pluginmanager.register(programs)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip `gpu` tests where there is no GPU."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and torch sees none here")
