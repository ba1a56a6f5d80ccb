"""Mean squared error between cells in the order in which they come."""

import torch
from torch import Tensor


def paired_mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared difference of cell i and cell i of each pair of sets.

    Depends on the order of the cells. Predicted and observed cells have no partners (a measured cell is destroyed), so cell i
    meets a random cell of the target: the best a model can do is to predict the mean of the target for every cell.

    Shape: x (B, S, D), y (B, S, D) -> (B,), one value a set.
    Units: the square of those of the cells' values. Computed in float32 at least.
    """
    assert x.shape == y.shape, f"{tuple(x.shape)} and {tuple(y.shape)}: a broadcast would pair cells that are not pairs"
    return (x.to(torch.promote_types(x.dtype, torch.float32)) - y).square().mean((1, 2))
