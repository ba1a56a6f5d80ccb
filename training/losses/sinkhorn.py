"""Sinkhorn divergence between sets of cells: entropic optimal transport without its bias, by geomloss."""

import math

import torch
from geomloss import SamplesLoss
from torch import Tensor


def sinkhorn_divergence(x: Tensor, y: Tensor, blur: float) -> Tensor:
    """Debiased optimal transport of each pair of sets at the cost 1/2 |x - y|^2: geomloss' `SamplesLoss("sinkhorn", p=2)`.

    Some 100 small steps, each waiting for the one before: on a GPU it is bound by their launches, not by the size of the sets.
    geomloss starts its annealing at the diameter of the whole batch, so a set's value depends a little on its neighbours.

    Shape: x (B, S, D), y (B, T, D) -> (B,), one value a set.
    Units: blur in those of the cells' values, the divergence in their square. Computed in float32 at least.
    Source: Feydy et al. 2019, arXiv:1810.08278.
    """
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.to(dtype), y.to(dtype)
        loss = SamplesLoss("sinkhorn", p=2, blur=blur, diameter=_starting_scale(x, y, blur), backend="tensorized")
        # Differences stay and squares lose fewer digits when the large common offset goes.
        centre = torch.cat([x, y], dim=1).detach().mean(1, keepdim=True)
        divergence: Tensor = loss(x - centre, y - centre)
    return divergence


@torch.no_grad()
def _starting_scale(x: Tensor, y: Tensor, blur: float) -> float:
    """Bound on the distances in the batch, as geomloss draws it, where it can be used.

    Where all cells are equal (0) or one is not finite, geomloss would raise; from `blur` on it returns 0 or NaN as it should.
    """
    cells = torch.cat([x, y], dim=1).flatten(0, 1)
    diameter = float((cells.amax(0) - cells.amin(0)).norm())
    return diameter if blur < diameter < math.inf else blur
