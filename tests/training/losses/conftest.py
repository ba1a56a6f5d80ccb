from collections.abc import Callable

import pytest
import torch
from torch import Tensor

MakeSets = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture
def make_sets() -> MakeSets:
    """Seeded pairs of different sets: `genes` are sparse, not negative and far from 0; `embedding` has unit norm."""

    def make(kind: str = "genes", b: int = 3, s: int = 12, t: int = 9, d: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)

        def draw(n: int, shift: float) -> Tensor:
            noise = torch.rand(b, n, d, generator=generator)
            if kind == "genes":
                return torch.log1p((3 * noise + shift) * (torch.rand(b, n, d, generator=generator) < 0.4))
            return torch.nn.functional.normalize(noise + shift * torch.arange(d) / d, dim=2)

        return draw(s, 0.0), draw(t, 0.5)

    return make
