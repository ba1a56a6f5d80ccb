import math
from collections.abc import Callable

import pytest
import torch
from geomloss import SamplesLoss
from torch import Tensor

from training.losses.energy import energy_distance, energy_distance_unbiased

MakeSets = Callable[..., tuple[Tensor, Tensor]]
GEOMLOSS = SamplesLoss("energy", backend="tensorized")


def by_double_loop(x: Tensor, y: Tensor, unbiased: bool = False) -> list[float]:
    def mean(a: list[list[float]], b: list[list[float]], pairs: int) -> float:
        return sum(math.dist(p, q) for p in a for q in b) / pairs

    values = []
    for first, second in zip(x.double().tolist(), y.double().tolist(), strict=True):
        s, t = len(first), len(second)
        own_s, own_t = (s * (s - 1), t * (t - 1)) if unbiased else (s * s, t * t)
        values.append(mean(first, second, s * t) - mean(first, first, own_s) / 2 - mean(second, second, own_t) / 2)
    return values


def value_and_gradients(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    value = loss(x, y)
    # Different weights, so that the gradient of one set cannot pass for that of another.
    (value * torch.arange(1, len(value) + 1)).sum().backward()
    assert x.grad is not None
    assert y.grad is not None
    return value.detach(), x.grad, y.grad


@pytest.mark.parametrize("kind", ["genes", "embedding"])
def test_is_the_double_loop(make_sets: MakeSets, kind: str) -> None:
    x, y = make_sets(kind)
    torch.testing.assert_close(energy_distance(x, y).double(), torch.tensor(by_double_loop(x, y)).double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        energy_distance_unbiased(x, y).double(), torch.tensor(by_double_loop(x, y, unbiased=True)).double(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(("kind", "d"), [("genes", 4000), ("embedding", 2058)])
def test_is_geomloss_in_value_and_gradient(make_sets: MakeSets, kind: str, d: int) -> None:
    x, y = make_sets(kind, b=2, s=128, t=128, d=d)
    ours, theirs = value_and_gradients(energy_distance, x, y), value_and_gradients(GEOMLOSS, x, y)
    exact = value_and_gradients(energy_distance, x.double(), y.double())
    for mine, other, reference in zip(ours, theirs, exact, strict=True):
        assert (mine - other).norm() < 1e-4 * other.norm()
        assert (mine - reference).norm() < 1e-6 * reference.norm()


def test_survives_an_offset_that_costs_geomloss_its_digits(make_sets: MakeSets) -> None:
    x, y = make_sets("genes", s=32, t=32)
    near, far = value_and_gradients(energy_distance, x, y), value_and_gradients(energy_distance, x + 100, y + 100)
    for mine, other in zip(near, far, strict=True):
        assert (mine - other).norm() < 1e-4 * mine.norm()
    assert (GEOMLOSS(x + 100, y + 100) - GEOMLOSS(x, y)).norm() > 1e-3 * near[0].norm()


def test_gradient_is_that_of_the_value_in_float64(make_sets: MakeSets) -> None:
    x, y = (cells.double().requires_grad_() for cells in make_sets(b=2, s=4, t=3, d=5))
    assert torch.autograd.gradcheck(energy_distance, (x, y))
    assert torch.autograd.gradcheck(energy_distance, (x, y.detach()))
    assert torch.autograd.gradcheck(energy_distance, (x.detach(), y))


def test_gradient_of_a_gradient_is_refused(make_sets: MakeSets) -> None:
    x, y = make_sets()
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(energy_distance(x, y).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()


@pytest.mark.parametrize("distance", [energy_distance, energy_distance_unbiased])
def test_is_symmetric_and_blind_to_the_order_of_cells(make_sets: MakeSets, distance: Callable[[Tensor, Tensor], Tensor]) -> None:
    x, y = make_sets()
    torch.testing.assert_close(distance(x, y), distance(y, x))
    torch.testing.assert_close(distance(x, y), distance(x[:, torch.randperm(x.shape[1])], y[:, torch.randperm(y.shape[1])]))


def test_sets_do_not_see_each_other(make_sets: MakeSets) -> None:
    x, y = make_sets()
    alone = torch.cat([energy_distance(x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(energy_distance(x, y), alone)
    x[1, 0, 0] = math.nan
    assert energy_distance(x, y).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("kind", ["genes", "embedding"])
def test_is_zero_for_equal_sets_and_positive_otherwise(make_sets: MakeSets, kind: str) -> None:
    x, y = make_sets(kind, s=12, t=12)
    shuffled = x[:, torch.randperm(x.shape[1])]
    assert energy_distance(x, shuffled).abs().max() < 1e-6 * x.norm(dim=2).mean()
    for moved in (1e-2, 1e-1, 1.0):
        assert (energy_distance(x, x + moved * (y - x)) > 0).all()


def test_grows_with_the_scale_and_ignores_an_offset(make_sets: MakeSets) -> None:
    x, y = make_sets()
    torch.testing.assert_close(energy_distance(3 * x, 3 * y), 3 * energy_distance(x, y))
    torch.testing.assert_close(energy_distance(x + 2, y + 2), energy_distance(x, y), rtol=1e-5, atol=1e-6)


def test_only_the_unbiased_form_is_zero_on_average_for_one_distribution() -> None:
    size, scale = 8, math.sqrt(2 * 50)  # |x - y| of two cells of 50 standard normal values
    x, y = torch.randn(2, 4000, size, 50, generator=torch.Generator().manual_seed(1))
    unbiased, biased = energy_distance_unbiased(x, y), energy_distance(x, y)
    assert abs(unbiased.mean()) < 4 * unbiased.std() / math.sqrt(len(unbiased))
    assert biased.mean() == pytest.approx(scale / size, rel=0.02)
    assert (biased >= 0).all()


def test_unbiased_form_carries_no_gradient(make_sets: MakeSets) -> None:
    x, y = make_sets()
    assert not energy_distance_unbiased(x.requires_grad_(), y).requires_grad


def degenerate() -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    x, y = torch.log1p(5 * torch.rand(2, 3, 16, 300, generator=generator))
    zero_cells = y.clone()
    zero_cells[:, :5] = 0
    noise = torch.randn(x.shape, generator=generator)
    return {
        "predictions equal the targets": (y.clone(), y),
        "the same in another order": (y.flip(1), y),
        "some cells coincide": (torch.cat([y[:, :4], x[:, 4:]], 1), y),
        "all-zero cells on both sides": (zero_cells.clone(), zero_cells),
        "all-zero set": (torch.zeros_like(x), zero_cells),
        "both all zero": (torch.zeros_like(x), torch.zeros_like(y)),
        "one prediction for all": (x[:, :1].expand_as(x).clone(), y),
        "one cell a set": (x[:, :1], y[:, :1]),
        "one cell against many": (x[:, :1], y),
        "one coincident cell a set": (y[:, :1].clone(), y[:, :1]),
        "far away": (x + 1e4, y),
        **{f"predictions {near} from the targets": (y + near * noise, y) for near in (1e-7, 1e-5, 1e-4, 1e-3)},
        **{f"predictions {near} from each other": (x[:, :1] + near * noise, y) for near in (1e-7, 1e-5, 1e-4, 1e-3)},
        **{f"targets {near} from each other": (x, y[:, :1] + near * noise) for near in (1e-7, 1e-4)},
        "tiny": (x * 1e-15, y * 1e-15),
        "huge": (x * 1e15, y * 1e15),
    }


@pytest.mark.parametrize("case", degenerate())
@pytest.mark.parametrize("autocast", [False, True])
def test_degenerate_sets_have_finite_values_and_bounded_gradients(case: str, autocast: bool) -> None:
    x, y = degenerate()[case]
    x, y = x.requires_grad_(), y.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = energy_distance(x, y)
        unbiased = energy_distance_unbiased(x, y)
    value.sum().backward()
    assert value.isfinite().all()
    assert unbiased.isfinite().all()
    spread = float(torch.cat([x, y], 1).detach().std(1).norm(dim=1).max())
    torch.testing.assert_close(value.double(), torch.tensor(by_double_loop(x, y)).double(), rtol=1e-4, atol=5e-5 * spread)
    for cells in (x, y):
        assert cells.grad is not None
        # A cell is drawn by a mean of unit vectors and pushed by another one.
        assert (cells.grad.norm(dim=2) * cells.shape[1]).max() < 2.01


def test_rounding_cannot_lengthen_a_pull() -> None:
    # Many nearly equal pairs, whose squared distance is about as large as its rounding, and a third cell that makes it so.
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2000, 1, 200, generator=generator)
    near = x + 2e-4 * torch.randn(x.shape, generator=generator)
    y = torch.cat([near, x + torch.randn(x.shape, generator=generator)], dim=1)
    energy_distance(x.requires_grad_(), y).sum().backward()
    assert x.grad is not None
    assert x.grad.norm(dim=2).max() < 1.01


def test_coincident_cells_pull_nothing() -> None:
    x = torch.zeros(1, 4, 6, requires_grad=True)
    y = torch.zeros(1, 4, 6)
    y[0, 3, 0] = 2.0
    energy_distance(x, y).sum().backward()
    assert x.grad is not None
    # Of the four targets only the one that is elsewhere counts: 1/(4 x 4) along the first axis.
    torch.testing.assert_close(x.grad, torch.tensor([-1 / 16, 0, 0, 0, 0, 0]).expand(1, 4, 6), rtol=1e-6, atol=1e-9)


def test_bfloat16_autocast_changes_nothing_for_float32_cells(make_sets: MakeSets) -> None:
    x, y = make_sets("embedding", s=32, t=32, d=256)
    plain = value_and_gradients(energy_distance, x, y)
    with torch.autocast("cpu", torch.bfloat16):
        inside = value_and_gradients(energy_distance, x, y)
    for mine, other in zip(plain, inside, strict=True):
        assert torch.equal(mine, other)


def test_bfloat16_cells_are_measured_in_float32(make_sets: MakeSets) -> None:
    x, y = make_sets("genes", s=32, t=32, d=256)
    rounded = x.bfloat16().requires_grad_()
    value = energy_distance(rounded, y)
    value.sum().backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, energy_distance(x.bfloat16().float(), y), rtol=1e-6, atol=0)
    assert rounded.grad is not None
    assert rounded.grad.dtype == torch.bfloat16


def test_holds_under_reduced_matrix_precision(make_sets: MakeSets) -> None:
    x, y = make_sets("genes", b=2, s=64, t=64, d=2000)
    exact = value_and_gradients(energy_distance, x, y)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")  # bfloat16 products, on processors that have them
    try:
        reduced = value_and_gradients(energy_distance, x, y)
    finally:
        torch.set_float32_matmul_precision(before)
    assert (reduced[0] - exact[0]).norm() < 1e-3 * exact[0].norm()
    assert (reduced[1] - exact[1]).norm() < 1e-2 * exact[1].norm()


@pytest.mark.gpu
def test_holds_with_tf32_products_on_a_gpu(make_sets: MakeSets) -> None:
    x, y = make_sets("genes", b=2, s=128, t=128, d=18080)
    exact = value_and_gradients(energy_distance, x.double(), y.double())
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        for autocast in (False, True):
            with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
                reduced = value_and_gradients(lambda a, b: energy_distance(a.cuda(), b.cuda()).cpu(), x, y)
            assert (reduced[0] - exact[0]).norm() < 1e-3 * exact[0].norm()
            assert (reduced[1] - exact[1]).norm() < 5e-3 * exact[1].norm()
    finally:
        torch.set_float32_matmul_precision(before)


def test_memory_does_not_hold_all_differences() -> None:
    b, s, d = 2, 64, 2000
    x, y = torch.randn(2, b, s, d)
    x.requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        energy_distance(x, y).sum().backward()
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert 0 < largest <= 4 * b * 2 * s * d * 2  # a few times both sets in float32; all differences would be s/2 times as much
