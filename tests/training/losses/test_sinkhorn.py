import math
from collections.abc import Callable

import pytest
import torch
from geomloss import SamplesLoss
from torch import Tensor

from training.losses.sinkhorn import sinkhorn_divergence

MakeSets = Callable[..., tuple[Tensor, Tensor]]


@pytest.mark.parametrize("blur", [0.05, 0.5])
def test_is_geomloss_in_value_and_gradient(make_sets: MakeSets, blur: float) -> None:
    x, y = make_sets("genes", s=16, t=12, d=60)
    mine, other = x.clone().requires_grad_(), x.double().requires_grad_()
    value = sinkhorn_divergence(mine, y, blur)
    reference = SamplesLoss("sinkhorn", p=2, blur=blur, backend="tensorized")(other, y.double())
    value.sum().backward()
    reference.sum().backward()
    assert value.shape == (3,)
    torch.testing.assert_close(value.double(), reference, rtol=1e-5, atol=0)
    assert mine.grad is not None
    assert other.grad is not None
    assert (mine.grad - other.grad).norm() < 1e-4 * other.grad.norm()


def test_keeps_its_digits_far_from_zero(make_sets: MakeSets) -> None:
    x, y = make_sets("genes")
    torch.testing.assert_close(sinkhorn_divergence(x + 100, y + 100, 0.05), sinkhorn_divergence(x, y, 0.05), rtol=1e-4, atol=0)


def test_of_single_cells_is_half_their_squared_distance() -> None:
    x, y = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[3.0, 4.0]]])
    torch.testing.assert_close(sinkhorn_divergence(x, y, 0.05), torch.tensor([12.5]))


def test_is_zero_for_equal_sets_in_any_order(make_sets: MakeSets) -> None:
    x, y = make_sets(s=12, t=12)
    assert sinkhorn_divergence(x, x.flip(1), 0.05).abs().max() < 1e-5 * sinkhorn_divergence(x, y, 0.05).min()


@pytest.mark.parametrize("blur", [0.05, 5.0])
def test_sets_of_equal_cells_are_finite(blur: float) -> None:
    x = torch.zeros(2, 4, 5, requires_grad=True)
    for y, expected in ((torch.zeros(2, 3, 5), 0.0), (torch.ones(2, 3, 5), 2.5)):
        value = sinkhorn_divergence(x, y, blur)
        torch.testing.assert_close(value, torch.full((2,), expected))
        (gradient,) = torch.autograd.grad(value.sum(), x)
        assert gradient.isfinite().all()


def test_a_value_that_is_not_finite_is_not_hidden(make_sets: MakeSets) -> None:
    for bad in (math.nan, math.inf):
        x, y = make_sets()
        x[1, 0, 0] = bad
        assert not sinkhorn_divergence(x, y, 0.05)[1].isfinite()


def test_is_computed_in_float32_under_bfloat16_autocast(make_sets: MakeSets) -> None:
    x, y = make_sets()
    with torch.autocast("cpu", torch.bfloat16):
        inside, rounded = sinkhorn_divergence(x, y, 0.05), sinkhorn_divergence(x.bfloat16(), y, 0.05)
    assert torch.equal(inside, sinkhorn_divergence(x, y, 0.05))
    assert rounded.dtype == torch.float32
