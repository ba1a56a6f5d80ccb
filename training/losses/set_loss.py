"""The distance between sets of cells that `objective.loss` names."""

from collections.abc import Callable

from torch import Tensor

from training.config import PerturbationConfig
from training.losses.energy import energy_distance
from training.losses.mse import paired_mse
from training.losses.sinkhorn import sinkhorn_divergence

SetLoss = Callable[[Tensor, Tensor], Tensor]
"""(predicted, observed) -> one value a set. Shape: (B, S, D), (B, S, D) -> (B,)."""


def set_loss(config: PerturbationConfig) -> SetLoss:
    """The one distance that rules both heads: predicted cells in the input representation, and their decoded genes."""
    blur, weight = config.blur, config.sinkhorn_weight
    match config.loss:
        case "energy":
            return energy_distance
        case "sinkhorn":
            return lambda x, y: sinkhorn_divergence(x, y, blur)
        case "energy_sinkhorn":
            return lambda x, y: energy_distance(x, y) + weight * sinkhorn_divergence(x, y, blur)
        case "mse":
            return paired_mse
