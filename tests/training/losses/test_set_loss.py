from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor

from training.config import PerturbationConfig
from training.losses.energy import energy_distance
from training.losses.mse import paired_mse
from training.losses.set_loss import set_loss
from training.losses.sinkhorn import sinkhorn_divergence

MakeSets = Callable[..., tuple[Tensor, Tensor]]
NAMES = get_args(PerturbationConfig.model_fields["loss"].annotation)


def config(name: str, **settings: float) -> PerturbationConfig:
    return PerturbationConfig.model_validate({"loss": name, **settings})


def test_each_name_is_its_distance(make_sets: MakeSets) -> None:
    x, y = make_sets(s=8, t=8)
    energy, sinkhorn = energy_distance(x, y), sinkhorn_divergence(x, y, 0.3)
    expected = {"energy": energy, "sinkhorn": sinkhorn, "mse": paired_mse(x, y), "energy_sinkhorn": energy + 0.25 * sinkhorn}
    assert set(expected) == set(NAMES)
    for name, value in expected.items():
        loss = set_loss(config(name, blur=0.3, sinkhorn_weight=0.25))
        torch.testing.assert_close(loss(x, y), value)


@pytest.mark.parametrize("name", NAMES)
def test_each_gives_one_value_a_set_and_a_gradient_to_the_prediction_alone(make_sets: MakeSets, name: str) -> None:
    x, y = make_sets(s=8, t=8)
    x.requires_grad_()
    values = set_loss(config(name))(x, y)
    assert values.shape == (3,)
    values[0].backward()
    assert x.grad is not None
    assert x.grad[0].abs().sum() > 0
    assert x.grad[1:].abs().sum() == 0
    assert y.grad is None


@pytest.mark.parametrize("name", NAMES)
def test_each_falls_as_the_prediction_moves_to_the_target(make_sets: MakeSets, name: str) -> None:
    x, y = make_sets(s=8, t=8)
    loss = set_loss(config(name))
    values = torch.stack([loss(x + share * (y - x), y) for share in (0.0, 0.5, 0.9)])
    assert (values.diff(dim=0) < 0).all()
