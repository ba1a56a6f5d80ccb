from dataclasses import replace

import pytest
import torch

from training.cells import Sizes
from training.config import StateTransitionConfig
from training.models.state_transition import OutputSpace, StateTransition

SETS, CELLS = 3, 6
# (output_space, input_is_genes, has a gene decoder): the uses that training/config.py allows.
USES: dict[str, tuple[OutputSpace, bool, bool]] = {
    "embedding to all genes": ("all", False, True),
    "embedding to hvg": ("gene", False, True),
    "hvg": ("gene", True, False),
    "hvg to all genes": ("all", True, True),
    "all genes": ("all", True, False),
    "embedding": ("embedding", False, False),
}


def build(config, sizes, use="embedding to all genes"):
    output_space, input_is_genes, has_decoder = USES[use]
    sizes = sizes if has_decoder else replace(sizes, num_decoder_genes=None)
    return StateTransition(config, sizes, output_space=output_space, input_is_genes=input_is_genes)


@pytest.fixture
def batch(sizes):
    """Control, perturbation, gem_group."""
    control = torch.randn(SETS, CELLS, sizes.input_dim)
    return control, torch.randn(SETS, sizes.perturbation_dim), torch.randint(sizes.num_gem_groups, (SETS, CELLS))


@torch.inference_mode()
@pytest.mark.parametrize("use", USES)
def test_shapes(tiny_config, sizes, batch, use):
    prediction = build(tiny_config(), sizes, use)(*batch)
    assert prediction.cells.shape == (SETS, CELLS, sizes.input_dim)
    if USES[use][2]:
        assert prediction.genes.shape == (SETS, CELLS, sizes.num_decoder_genes)
        assert (prediction.genes >= 0).all()
        assert (prediction.genes > 0).any()
    else:
        assert prediction.genes is None


@torch.inference_mode()
@pytest.mark.parametrize("residual", ["state", "none", "identity"])
@pytest.mark.parametrize("use", USES)
def test_bidirectional_prediction_is_permutation_equivariant(tiny_config, sizes, batch, make_lively, use, residual):
    model = make_lively(build(tiny_config(residual=residual, gem_group_embedding=True), sizes, use))
    control, perturbation, gem_group = batch
    order = torch.randperm(CELLS)
    prediction = model(*batch)
    permuted = model(control[:, order], perturbation, gem_group[:, order])
    torch.testing.assert_close(permuted.cells, prediction.cells[:, order], rtol=0, atol=1e-5)
    if prediction.genes is not None:
        torch.testing.assert_close(permuted.genes, prediction.genes[:, order], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_the_modes_of_attention_differ(tiny_config, sizes, batch, make_lively):
    cells = []
    for attention in ("bidirectional", "causal", "causal_rope"):
        torch.manual_seed(1)
        cells.append(make_lively(build(tiny_config(attention=attention), sizes, "embedding"))(*batch).cells)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (cells[one] - cells[other]).abs().max() > 1e-3


@torch.inference_mode()
def test_sets_do_not_see_each_other(tiny_config, sizes, batch, make_lively):
    model = make_lively(build(tiny_config(gem_group_embedding=True), sizes))
    together = model(*batch)
    for i in range(SETS):
        alone = model(*(tensor[i : i + 1] for tensor in batch))
        torch.testing.assert_close(alone.cells[0], together.cells[i], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone.genes[0], together.genes[i], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_the_perturbation_is_one_for_the_whole_set(tiny_config, sizes, batch, make_lively):
    model = make_lively(build(tiny_config(), sizes))
    control, perturbation, _ = batch
    changed = perturbation.clone()
    changed[1] += 1
    difference = (model(control, changed).cells - model(control, perturbation).cells).abs().amax(dim=-1)
    assert (difference[1] > 1e-3).all()
    assert (difference[[0, 2]] == 0).all()


@torch.inference_mode()
@pytest.mark.parametrize("num_cells", [1, 2, 5, 17])
@pytest.mark.parametrize("attention", ["bidirectional", "causal", "causal_rope"])
def test_a_set_may_have_any_size(tiny_config, sizes, attention, num_cells):
    model = build(tiny_config(attention=attention), sizes)
    prediction = model(torch.randn(2, num_cells, sizes.input_dim), torch.randn(2, sizes.perturbation_dim))
    assert prediction.cells.shape == (2, num_cells, sizes.input_dim)
    assert prediction.cells.isfinite().all()


@pytest.mark.parametrize("attention", ["bidirectional", "causal", "causal_rope"])
@pytest.mark.parametrize("use", USES)
def test_an_untrained_identity_model_predicts_no_change(tiny_config, sizes, batch, use, attention):
    model = build(tiny_config(residual="identity", attention=attention, dropout=0.1), sizes, use)
    for mode in (model.train(), model.eval()):
        assert torch.equal(mode(*batch).cells, batch[0])


@pytest.mark.parametrize("residual", ["state", "none", "identity"])
@pytest.mark.parametrize("control_encoder", ["mlp", "linear"])
@pytest.mark.parametrize("use", USES)
def test_no_weight_is_dead(tiny_config, sizes, batch, use, control_encoder, residual):
    config = tiny_config(
        residual=residual, control_encoder=control_encoder, encoder_layers=3, output_layers=2, gem_group_embedding=True
    )
    model = build(config, sizes, use)
    if residual == "identity":  # the last layer moves first, and lets the rest of the gradient through from then on
        names = with_gradient(model, batch)
        assert {name for name in names if not name.startswith("gene_decoder")} == {"project_out.3.weight", "project_out.3.bias"}
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert with_gradient(model, batch) == {name for name, _ in model.named_parameters()}


def with_gradient(model, batch):
    """Names of the parameters that a loss of all outputs would move."""
    model.zero_grad()
    prediction = model(*batch)
    outputs = [prediction.cells] + ([] if prediction.genes is None else [prediction.genes])
    sum((output - torch.randn_like(output)).square().sum() for output in outputs).backward()
    return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


def test_a_detached_decoder_leaves_everything_else_alone(tiny_config, sizes, batch):
    model = build(tiny_config(), sizes)
    attached, detached = model(*batch), model(*batch, detach_decoder=True)
    assert torch.equal(attached.genes, detached.genes)
    detached.genes.sum().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None}
    assert moved == {name for name, _ in model.named_parameters() if name.startswith("gene_decoder.")}


@torch.inference_mode()
def test_gem_groups_matter_where_the_model_is_told(tiny_config, sizes, batch, make_lively):
    control, perturbation, gem_group = batch
    other = (gem_group + 1) % sizes.num_gem_groups
    told = make_lively(build(tiny_config(gem_group_embedding=True), sizes))
    untold = make_lively(build(tiny_config(), sizes))
    assert (told(control, perturbation, gem_group).cells - told(control, perturbation, other).cells).abs().max() > 1e-3
    assert torch.equal(untold(control, perturbation, gem_group).cells, untold(control, perturbation).cells)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("use", "residual", "activation", "clamps"),
    [
        ("hvg", "state", "auto", True),
        ("all genes", "none", "auto", True),
        ("all genes", "identity", "auto", False),
        ("embedding", "state", "auto", False),
        ("embedding to all genes", "none", "auto", False),
        ("embedding", "state", "relu", True),
        ("all genes", "identity", "relu", True),
        ("hvg", "state", "none", False),
    ],
)
def test_what_keeps_cells_non_negative(tiny_config, sizes, batch, make_lively, use, residual, activation, clamps):
    model = make_lively(build(tiny_config(residual=residual, output_activation=activation), sizes, use))
    assert bool((model(*batch).cells < 0).any()) != clamps


@pytest.mark.parametrize("residual", ["state", "none", "identity"])
@pytest.mark.parametrize("use", USES)
def test_the_bottleneck_exists_only_where_it_is_used(tiny_config, sizes, use, residual):
    names = {name.split(".")[0] for name, _ in build(tiny_config(residual=residual), sizes, use).named_parameters()}
    assert ("bottleneck" in names) == (residual == "state" and USES[use][0] == "all")
    assert ("gene_decoder" in names) == USES[use][2]
    assert names <= {"control_encoder", "perturbation_encoder", "backbone", "project_out", "bottleneck", "gene_decoder"}


def test_dropout_acts_in_training_alone(tiny_config, sizes, batch):
    model = build(tiny_config(dropout=0.5, encoder_layers=2, output_layers=2), sizes, "embedding")
    assert not torch.equal(model(*batch).cells, model(*batch).cells)
    model.eval()
    assert torch.equal(model(*batch).cells, model(*batch).cells)


@torch.inference_mode()
@pytest.mark.parametrize("attention", ["bidirectional", "causal_rope"])
@pytest.mark.parametrize("use", USES)
def test_bf16_autocast_is_close_to_32_bit(tiny_config, sizes, batch, make_lively, use, attention):
    model = make_lively(build(tiny_config(attention=attention, encoder_layers=2, num_layers=4), sizes, use))
    full = model(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(*batch)
    for one, other in ((full.cells, rounded.cells), (full.genes, rounded.genes)):
        if one is not None:
            assert 0 < (one - other).norm() / one.norm() < 0.02


SM = {
    "hidden_dim": 672, "num_layers": 4, "num_heads": 8, "head_dim": 84, "intermediate_dim": 2688,
    "encoder_layers": 4, "output_layers": 4, "control_encoder": "linear",
}  # fmt: skip
LG = {
    "hidden_dim": 1488, "num_layers": 6, "head_dim": 124, "intermediate_dim": 5952,
    "encoder_layers": 4, "output_layers": 4, "control_encoder": "linear",
}  # fmt: skip
BEST = {"hidden_dim": 1440, "num_layers": 4, "head_dim": 120, "intermediate_dim": 4416, "encoder_layers": 4, "output_layers": 4}
M62 = {"hidden_dim": 696, "head_dim": 58, "intermediate_dim": 2784, "encoder_layers": 4, "output_layers": 4}


@pytest.mark.parametrize(
    ("settings", "decodes", "millions"),
    [
        ({}, True, (96.63, 84.11, 218.34)),
        (SM, False, (38.89, 35.08, 141.12)),
        (LG, True, (253.64, 238.18, 398.43)),
        (BEST, True, (155.50, 140.23, 298.75)),
        (M62, True, (86.84, 74.62, 206.24)),
    ],
    ids=["state", "state_sm", "state_lg", "tahoe_best", "tahoe_llama_62089464"],
)
def test_parameters_are_as_many_as_arc_trains(settings, decodes, millions):
    """Arc builds a gene decoder where genes go in, too, and never runs it; counted along here, to be comparable."""
    config = StateTransitionConfig.model_validate(settings)
    uses: tuple[tuple[Sizes, OutputSpace, bool], ...] = (
        (Sizes(2058, 5120, 18080, 0), "all", False),
        (Sizes(2000, 1138, 2000, 0), "gene", True),
        (Sizes(18080, 5120, 18080, 0), "all", True),
    )
    for (sizes, output_space, input_is_genes), expected in zip(uses, millions, strict=True):
        sizes = sizes if decodes else replace(sizes, num_decoder_genes=None)
        with torch.device("meta"):
            model = StateTransition(config, sizes, output_space=output_space, input_is_genes=input_is_genes)
        assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == expected
