from collections.abc import Callable

import pytest
import torch
from torch import nn

from training.cells import Sizes
from training.config import OptimConfig, StateTransitionConfig
from training.models.state_transition import StateTransition
from training.optim.param_groups import build_optimizer, decays, param_groups


def state_transition() -> nn.Module:
    config = StateTransitionConfig(
        hidden_dim=16, intermediate_dim=24, num_layers=2, num_heads=2, head_dim=8, encoder_layers=2, output_layers=2,
        gem_group_embedding=True, decoder_hidden_dims=(12, 10),
    )  # fmt: skip
    sizes = Sizes(input_dim=20, perturbation_dim=5, num_decoder_genes=7, num_gem_groups=3)
    return StateTransition(config, sizes, output_space="all", input_is_genes=False)


class EveryKind(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))  # an encoder, for all its name
        self.token_embedding = nn.Embedding(3, 4)
        self.position_embedding = nn.Parameter(torch.ones(3, 4))
        self.attention = nn.MultiheadAttention(4, 2)
        self.norms = nn.ModuleList([nn.LayerNorm(4), nn.RMSNorm(4), nn.BatchNorm1d(4)])
        self.logit_scale = nn.Parameter(torch.tensor(1.0))


def moved_by_decay(model: nn.Module) -> set[str]:
    """Names of the parameters that a step without gradients changes."""
    for parameter in model.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(model, OptimConfig(lr=0.1, weight_decay=0.5)).step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, torch.ones_like(parameter))}
    for name in changed:
        torch.testing.assert_close(model.get_parameter(name), torch.full_like(model.get_parameter(name), 1 - 0.1 * 0.5))
    return changed


def test_decay_moves_the_matrices_of_the_model_and_nothing_else() -> None:
    model = state_transition()
    expected = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    others = {name for name, _ in model.named_parameters()} - expected
    assert moved_by_decay(model) == expected
    assert "gem_group_embedding.weight" in others
    assert any("norm.weight" in name for name in others)
    assert any(name.endswith("bias") for name in others)


def test_decay_leaves_every_kind_of_norm_bias_and_embedding_alone() -> None:
    assert moved_by_decay(EveryKind()) == {"embedding.0.weight", "attention.in_proj_weight", "attention.out_proj.weight"}


@pytest.mark.parametrize("make", [state_transition, EveryKind])
def test_every_parameter_is_in_exactly_one_named_group(make: Callable[[], nn.Module]) -> None:
    model = make()
    groups = build_optimizer(model, OptimConfig()).param_groups
    assert [group["name"] for group in groups] == ["decay", "no_decay"]
    assert [group["weight_decay"] for group in groups] == [5e-4, 0.0]
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in model.parameters()}


def test_shared_parameter_is_grouped_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert sum(len(group.params) for group in param_groups(model, OptimConfig())) == 3


def test_frozen_parameters_are_left_out_and_stay() -> None:
    model = state_transition()
    frozen = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if name.startswith("backbone")}
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.5))
    grouped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert grouped == {id(parameter) for name, parameter in model.named_parameters() if name not in frozen}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(torch.equal(model.get_parameter(name), before) for name, before in frozen.items())


def test_group_without_weights_is_left_out() -> None:
    assert [group.name for group in param_groups(nn.LayerNorm(3), OptimConfig())] == ["no_decay"]


def test_weight_without_a_rule_is_refused_by_name() -> None:
    model = nn.Module()
    model.register_parameter("mixing_matrix", nn.Parameter(torch.zeros(2, 3)))
    with pytest.raises(ValueError, match=r"mixing_matrix of shape \(2, 3\)"):
        param_groups(model, OptimConfig())


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("project_out.0.weight", (3, 3), True),
        ("conv.weight", (3, 3, 2), True),
        ("project_out.0.bias", (3,), False),
        ("logit_scale", (), False),
        ("gem_group_embedding.weight", (3, 3), False),
        ("token_embeddings.weight", (3, 3), False),
        ("embedding.0.weight", (3, 3), True),
        ("unembedding.weight", (3, 3), True),
    ],
)
def test_rule(name: str, shape: tuple[int, ...], expected: bool) -> None:
    assert decays(name, torch.zeros(shape)) is expected


def test_optimizer_has_the_settings_of_the_config() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), OptimConfig(lr=3e-3))
    assert optimizer.defaults["lr"] == 3e-3
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    assert not optimizer.defaults["fused"]


@pytest.mark.gpu
def test_optimizer_is_fused_on_a_gpu() -> None:
    assert build_optimizer(nn.Linear(2, 2).cuda(), OptimConfig()).defaults["fused"]
