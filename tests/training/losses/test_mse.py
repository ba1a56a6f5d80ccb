from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from training.losses.mse import paired_mse

MakeSets = Callable[..., tuple[Tensor, Tensor]]


def test_is_the_mean_over_cells_and_values(make_sets: MakeSets) -> None:
    x, y = make_sets(s=6, t=6, d=5)
    expected = [
        sum(float((p - q) ** 2) for p, q in zip(a.flatten(), b.flatten(), strict=True)) / 30 for a, b in zip(x, y, strict=True)
    ]
    torch.testing.assert_close(paired_mse(x, y), torch.tensor(expected))


def test_depends_on_the_order_of_cells(make_sets: MakeSets) -> None:
    x, _ = make_sets()
    assert paired_mse(x, x).max() == 0
    assert paired_mse(x, x.flip(1)).min() > 0


def test_refuses_sets_that_cannot_be_paired(make_sets: MakeSets) -> None:
    x, y = make_sets(t=1)
    with pytest.raises(AssertionError, match="not pairs"):
        paired_mse(x, y)


def test_bfloat16_cells_are_compared_in_float32(make_sets: MakeSets) -> None:
    x, y = (cells.bfloat16() for cells in make_sets(s=6, t=6))
    torch.testing.assert_close(paired_mse(x, y), paired_mse(x.float(), y.float()), rtol=0, atol=0)
