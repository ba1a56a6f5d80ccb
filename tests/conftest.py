"""What every test starts from and leaves behind: seeds, environment, logging, torch. And which tests a machine leaves out."""

import logging
import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.tools import programs


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


def pytest_configure(config: pytest.Config) -> None:
    """Tests marked `needs`, and the last line on those that were left out."""
    config.pluginmanager.register(programs)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip `gpu` tests where there is no GPU."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and torch sees none here")
