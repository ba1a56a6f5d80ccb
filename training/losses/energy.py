"""Energy distance between sets of cells: the default training loss, and its unbiased form for the log.

Three numbers go by this name. Here `energy_distance(x, y)` is

    mean |x_i - y_j|  -  1/2 mean |x_i - x_k|  -  1/2 mean |y_j - y_l|

over all pairs, those of a cell with itself included (the biased V-statistic, never negative). That is geomloss'
`SamplesLoss("energy")`, and half of 2 E|X-Y| - E|X-X'| - E|Y-Y'|, which Rizzo and Szekely (2016, doi:10.1002/wics.1375) call the
*squared* energy distance.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """Biased energy distance of each pair of sets, differentiable once in both.

    Two samples of S cells from one distribution have about E|X-X'| / S, not 0: the floor under a training curve.

    Shape: x (B, S, D), y (B, T, D) -> (B,), one value a set.
    Units: those of the cells' values. Computed in float32 at least, whatever the autocast.
    """
    distance: Tensor = _EnergyDistance.apply(x, y)
    return distance


@torch.no_grad()
def energy_distance_unbiased(x: Tensor, y: Tensor) -> Tensor:
    """The same without self-pairs (U-statistic): 0 on average for two samples of one distribution, so it can be negative.

    For the log: it carries no gradient. A set of one cell has no pairs within it; that term is then 0, and the value is not
    unbiased.

    Shape: x (B, S, D), y (B, T, D) -> (B,), one value a set.
    Units: those of the cells' values.
    """
    size = x.shape[1]
    distances = _distances(_centred(x, y))
    within_x, within_y = distances[:, :size, :size], distances[:, size:, size:]
    return distances[:, :size, size:].mean((1, 2)) - (_mean_of_pairs(within_x) + _mean_of_pairs(within_y)) / 2


class _EnergyDistance(torch.autograd.Function):
    """One matrix product forward, one backward; no (S, T, D) tensor.

    With z = [x; y] and weights v = [1/S ...; -1/T ...] the distance is -1/2 sum v_i v_j |z_i - z_j|, and its gradient in z_i is
    -sum_j v_i v_j (z_i - z_j) / |z_i - z_j|.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        z = _centred(x, y)
        distances = _distances(z)
        v = torch.cat([z.new_full((x.shape[1],), 1 / x.shape[1]), z.new_full((y.shape[1],), -1 / y.shape[1])])
        pairs = -v[:, None] * v
        if any(ctx.needs_input_grad):
            # Cells that coincide pull nothing. Others cannot pull without limit: |z_i - z_j|^2 is a difference of numbers as large
            # as |z|^2, so it is 0 or at least their last digit, about (0.0003 |z|)^2 in float32. Closer cells pull too little or
            # too much, but within reason: measured on sets that lay so close as a whole, gradients had 0.7 to 1.2 times the
            # length they should have (up to 3 times with bfloat16 products).
            ctx.save_for_backward(z, pairs * torch.where(distances > 0, 1 / distances, 0))
            ctx.like = x.shape[1], x.dtype, y.dtype
        return (pairs * distances).sum((1, 2)) / 2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        z, weights = ctx.saved_tensors
        size, x_dtype, y_dtype = ctx.like
        weights = weights * grad[:, None, None]
        grad_x = _pull(weights[:, :size], z[:, :size], z).to(x_dtype) if ctx.needs_input_grad[0] else None
        grad_y = _pull(weights[:, size:], z[:, size:], z).to(y_dtype) if ctx.needs_input_grad[1] else None
        return grad_x, grad_y


def _centred(x: Tensor, y: Tensor) -> Tensor:
    """Both sets in a row, less their joint mean: distances stay, the large common offset that costs digits goes.

    Shape: x (B, S, D), y (B, T, D) -> (B, S + T, D), float32 at least.
    """
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    z = torch.cat([x.to(dtype), y.to(dtype)], dim=1)
    return z.sub_(z.mean(1, keepdim=True))


def _distances(z: Tensor) -> Tensor:
    """|z_i - z_j| from one matrix product.

    The norms are the diagonal of that product, so that rounding cancels: equal cells are exactly 0 apart, each cell from itself
    above all, and TF32 or bfloat16 products give the exact distances of slightly rounded cells.

    Shape: (B, N, D) -> (B, N, N).
    """
    with torch.autocast(z.device.type, enabled=False):
        gram = torch.bmm(z, z.transpose(1, 2))
    norms = gram.diagonal(dim1=1, dim2=2)
    return (norms[:, :, None] + norms[:, None, :] - 2 * gram).clamp_(min=0).sqrt_()


def _pull(weights: Tensor, cells: Tensor, z: Tensor) -> Tensor:
    """sum_j weights_ij (cells_i - z_j).

    Shape: weights (B, S, N), cells (B, S, D), z (B, N, D) -> (B, S, D).
    """
    with torch.autocast(z.device.type, enabled=False):
        return torch.baddbmm(weights.sum(2, keepdim=True) * cells, weights, z, alpha=-1)


def _mean_of_pairs(distances: Tensor) -> Tensor:
    """Mean over pairs of different cells; 0 where there is none.

    Shape: (B, S, S), zero diagonal -> (B,).
    """
    size = distances.shape[1]
    return distances.sum((1, 2)) / max(size * (size - 1), 1)
