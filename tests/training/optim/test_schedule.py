import math
from itertools import pairwise

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from training.config import OptimConfig
from training.optim.schedule import lr_multiplier


def curve(total: int, **settings: object) -> list[float]:
    config = OptimConfig.model_validate(settings)
    return [lr_multiplier(step, total, config) for step in range(total)]


def test_constant_without_warm_up_is_one_throughout() -> None:
    assert curve(10, schedule="constant") == [1.0] * 10


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_warm_up_is_linear_from_above_zero_to_the_peak(schedule: str) -> None:
    values = curve(40, schedule=schedule, warmup_fraction=0.1)
    assert values[:4] == [0.25, 0.5, 0.75, 1.0]
    assert max(values) == 1.0


@pytest.mark.parametrize(
    ("fraction", "total", "steps"), [(0.07, 100, 7), (0.1, 3, 1), (0.1, 31, 4), (1e-6, 100, 1), (0.0, 100, 0), (1.0, 5, 5)]
)
def test_warm_up_steps_are_rounded_up(fraction: float, total: int, steps: int) -> None:
    values = curve(total, warmup_fraction=fraction)
    assert sum(value < 1 for value in values) == max(steps - 1, 0)
    assert values[0] == (1 / steps if steps else 1.0)


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("least", [0.0, 0.1, 1 / 3])
def test_cosine_falls_to_its_least_at_exactly_the_last_step(warmup: float, least: float) -> None:
    values = curve(101, schedule="cosine", warmup_fraction=warmup, min_lr_fraction=least)
    falling = values[max(math.ceil(warmup * 101) - 1, 0) :]
    assert falling[0] == 1.0
    assert falling[-1] == least
    assert all(before > after for before, after in pairwise(falling))
    assert falling[(len(falling) - 1) // 2] == pytest.approx((1 + least) / 2, abs=0.02)
    # A cosine leaves the peak and reaches its end slowly.
    steps = [before - after for before, after in pairwise(falling)]
    assert max(steps[0], steps[-1]) < 0.1 * max(steps)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("total", [1, 2, 3, 10])
def test_every_step_has_a_rate_and_a_scheduler_may_ask_for_one_more(schedule: str, warmup: float, total: int) -> None:
    config = OptimConfig.model_validate({"schedule": schedule, "warmup_fraction": warmup, "min_lr_fraction": 0.1})
    for step in range(total + 3):
        assert 0 < lr_multiplier(step, total, config) <= 1
    if schedule == "cosine":
        assert lr_multiplier(total, total, config) == 0.1


def test_a_resumed_scheduler_goes_on_where_it_was() -> None:
    config = OptimConfig(schedule="cosine", warmup_fraction=0.2)

    def scheduler() -> LambdaLR:
        return LambdaLR(SGD([torch.zeros(1, requires_grad=True)], lr=2.0), lambda step: lr_multiplier(step, 20, config))

    def rates(run: LambdaLR, steps: int) -> list[float]:
        values = []
        for _ in range(steps):
            values.append(float(run.get_last_lr()[0]))
            run.optimizer.step()
            run.step()
        return values

    whole, first, second = scheduler(), scheduler(), scheduler()
    expected = [2.0 * lr_multiplier(step, 20, config) for step in range(20)]
    assert rates(whole, 20) == expected
    assert rates(first, 7) == expected[:7]
    second.load_state_dict(first.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert rates(second, 13) == expected[7:]
