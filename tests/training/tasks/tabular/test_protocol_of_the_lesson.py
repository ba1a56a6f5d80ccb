"""The training of this task is that of the lesson's script, to the bit: compared with a plain loop that is written here."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.tasks.tabular.conftest import REAL, Trained, config_of, fit
from training.tasks.tabular.arrays import TabularData, read_arrays
from training.tasks.tabular.pack import pack_table

RATE, EPOCHS = 1e-3, 500


@dataclass
class Loop:
    """What the lesson's loop comes to."""

    history: list[float]
    weights: dict[str, Tensor]
    best_epoch: int
    best_loss: float


def lesson(data: TabularData, *, epochs=EPOCHS, rate=RATE, patience=10, min_delta=1e-3, restore_best=True) -> Loop:
    """Full batch, Adam, binary cross-entropy, an epoch is best if it is better by more than `min_delta`."""
    torch.manual_seed(42)
    d = data.n_columns
    net = nn.Sequential(nn.Linear(d, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid())
    adam, bce = torch.optim.Adam(net.parameters(), lr=rate), nn.BCELoss()
    x, y = torch.from_numpy(data.train.x), torch.tensor(data.train.y, dtype=torch.float32)[:, None]
    x_val, y_val = torch.from_numpy(data.val.x), torch.tensor(data.val.y, dtype=torch.float32)[:, None]
    history: list[float] = []
    best, best_epoch, best_weights = float("inf"), 0, net.state_dict()
    for epoch in range(1, epochs + 1):
        adam.zero_grad()
        bce(net(x), y).backward()
        adam.step()
        with torch.no_grad():
            history.append(bce(net(x_val), y_val).item())
        if best - history[-1] > min_delta:
            best, best_epoch = history[-1], epoch
            best_weights = {name: weight.clone() for name, weight in net.state_dict().items()}
        if epoch - best_epoch >= patience:
            break
    return Loop(history, best_weights if restore_best else net.state_dict(), best_epoch, best)


def same(trained: Trained, loop: Loop) -> None:
    trained.stopping.restore(trained.module)
    ours = {name.removeprefix("net."): weight for name, weight in trained.module.model.state_dict().items()}
    assert trained.history == loop.history
    assert (trained.stopping.best_step, trained.stopping.best_value) == (loop.best_epoch, loop.best_loss)
    assert list(ours) == list(loop.weights)
    assert all(torch.equal(ours[name], loop.weights[name]) for name in ours)


@pytest.mark.parametrize(
    "stop",
    [{}, {"restore_best": False}, {"patience": 3, "min_delta": 0.01}, {"min_delta": 0.0}],
    ids=["best", "last", "soon", "any"],
)
def test_weights_and_history_are_those_of_a_plain_loop_to_the_bit(passengers, tmp_path, stop):
    config = config_of(passengers, tmp_path, optim={"lr": RATE}, trainer={"device": "cpu", "max_epochs": 120}, early_stopping=stop)

    trained = fit(config)

    same(trained, lesson(trained.data, epochs=120, **stop))


def test_the_last_epoch_ends_a_run_that_improves_to_the_end(passengers, tmp_path):
    config = config_of(passengers, tmp_path, optim={"lr": RATE}, trainer={"device": "cpu", "max_epochs": 7})

    trained = fit(config)

    assert len(trained.history) == trained.trainer.global_step == 7
    same(trained, lesson(trained.data, epochs=7))


def test_names_of_weights_are_those_of_the_script(passengers, tmp_path):
    config = config_of(passengers, tmp_path, trainer={"device": "cpu", "max_epochs": 1})

    shapes = {name: tuple(weight.shape) for name, weight in fit(config).module.model.state_dict().items()}

    assert shapes == {
        "net.0.weight": (64, 7), "net.0.bias": (64,), "net.2.weight": (32, 64), "net.2.bias": (32,),
        "net.4.weight": (1, 32), "net.4.bias": (1,),
    }  # fmt: skip


@pytest.mark.skipif(not REAL.is_file(), reason="the real table does not lie beside the repository")
def test_on_the_real_table_too(tmp_path):
    packed = pack_table(REAL, "Survived", tmp_path)
    config = config_of((packed.train, packed.val), tmp_path, optim={"lr": RATE}, trainer={"device": "cpu", "max_epochs": EPOCHS})

    trained = fit(config, read_arrays(config.data))

    same(trained, lesson(trained.data))
    accuracy = np.mean(
        (trained.module.model(torch.from_numpy(trained.data.val.x))[:, 0].detach().numpy() > 0.5) == trained.data.val.y
    )
    assert accuracy > 0.77  # the majority class has 0.59
