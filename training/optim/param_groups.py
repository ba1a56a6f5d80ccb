"""Which weights are trained together, and the optimizer that moves them."""

import re
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import AdamW

from training.config import OptimConfig

# `gem_group_embedding.weight`, `position_embedding`; not `embedding.0.weight`, which is a layer of some encoder.
_EMBEDDING = re.compile(r"(^|[._])embeddings?(\.weight)?$")


@dataclass(frozen=True)
class ParamGroup:
    """Weights that share their settings; the name is what the log calls them."""

    name: str
    params: list[nn.Parameter]
    weight_decay: float


def build_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    """AdamW over all weights of `model` that are not frozen.

    Each of its groups has a `name`. To be called when the model is where it is trained: on a GPU the step is one fused kernel.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101.
    """
    groups = [
        {"name": group.name, "params": group.params, "weight_decay": group.weight_decay} for group in param_groups(model, config)
    ]
    on_gpu = any(parameter.is_cuda for parameter in model.parameters())
    return AdamW(groups, lr=config.lr, betas=(0.9, 0.999), fused=True if on_gpu else None)


def param_groups(model: nn.Module, config: OptimConfig) -> list[ParamGroup]:
    """Every weight that is not frozen, in exactly one group, in the order of the model; groups without weights are left out.

    Raises:
        ValueError: If the rule of `decays` does not cover a weight.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        ParamGroup("decay", [p for name, p in trained if decays(name, p)], config.weight_decay),
        ParamGroup("no_decay", [p for name, p in trained if not decays(name, p)], 0.0),
    ]
    return [group for group in groups if group.params]


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay pulls this weight to 0: matrices yes; norms, biases and embeddings no. The first rule that fits counts.

    Raises:
        ValueError: If no rule fits: a new kind of weight is decided on here, not by accident.
    """
    if parameter.ndim < 2:  # norms, biases, scales
        return False
    if _EMBEDDING.search(name):
        return False
    if name.endswith("weight"):
        return True
    raise ValueError(f"parameter {name} of shape {tuple(parameter.shape)}: no rule says whether it decays; see training/optim")
