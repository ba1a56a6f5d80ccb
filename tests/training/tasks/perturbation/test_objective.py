import dataclasses

import pytest
import torch

from training.cells import CellSetBatch, RunLength, Sizes
from training.config import OptimConfig, PerturbationConfig, StateTransitionConfig
from training.losses.energy import energy_distance
from training.tasks.perturbation.objective import Perturbation
from training.tasks.perturbation.spec import PerturbationSpec
from training.trainer.objective import Means

CONFIG = StateTransitionConfig(
    hidden_dim=16, num_layers=1, num_heads=2, head_dim=8, intermediate_dim=32, residual="identity", dropout=0.0,
    decoder_hidden_dims=(8,), decoder_dropout=0.0,
)  # fmt: skip


def objective(config=None, *, genes=5, input_is_genes=False, output_space="all"):
    sizes = Sizes(input_dim=6, perturbation_dim=3, num_decoder_genes=genes, num_gem_groups=0)
    spec = PerturbationSpec(
        config=CONFIG, set_size=8, sizes=sizes, output_space=output_space, input_is_genes=input_is_genes, embed_key="X_state",
        input_names=tuple("abcdef"), judged_names=tuple("ghijk"), perturbation_names=("p", "q", "r"),
        perturbation_vectors=torch.eye(3), gem_group_names=(), trained_conditions=(),
    )  # fmt: skip
    torch.manual_seed(0)
    return Perturbation(spec.build(), spec, config or PerturbationConfig(), OptimConfig(), RunLength(10, 1, 1), seed=0)


def batch(*, genes=5):
    rng = torch.Generator().manual_seed(1)
    return CellSetBatch(
        control=torch.randn(2, 8, 6, generator=rng), target=torch.randn(2, 8, 6, generator=rng), perturbation=torch.eye(3)[:2],
        gem_group=None, target_genes=torch.rand(2, 8, genes, generator=rng) if genes else None,
        control_genes=torch.rand(2, 8, genes, generator=rng) if genes else None,
    )  # fmt: skip


def test_the_total_is_what_its_name_says():
    module, cells = objective(PerturbationConfig(decoder_weight=0.25)), batch()
    total = module.training_step(cells, 0)

    prediction = module.model(cells.control, cells.perturbation)
    embedding = energy_distance(prediction.cells, cells.target).mean()
    genes = energy_distance(prediction.genes, cells.target_genes).mean()
    assert total.item() == pytest.approx((embedding + 0.25 * genes).item(), rel=1e-6)
    logged = module.train_means.take("")
    assert logged["loss_embedding"] == pytest.approx(embedding.item(), rel=1e-6)
    assert logged["loss_genes"] == pytest.approx(genes.item(), rel=1e-6)


def test_the_floor_is_the_loss_of_the_controls_themselves():
    module, cells = objective(PerturbationConfig(decoder_weight=0.25)), batch()
    module.training_step(cells, 0)

    floors = module.train_means.take("")
    embedding = energy_distance(cells.control, cells.target).mean().item()
    genes = energy_distance(cells.control_genes, cells.target_genes).mean().item()
    assert floors["loss_embedding_floor"] == pytest.approx(embedding, rel=1e-6)
    assert floors["loss_genes_floor"] == pytest.approx(genes, rel=1e-6)
    assert floors["loss_total_floor"] == pytest.approx(embedding + 0.25 * genes, rel=1e-6)


@pytest.mark.parametrize(
    ("genes", "input_is_genes", "name"), [(None, True, "genes"), (None, False, "embedding"), (5, True, "embedding")]
)
def test_the_only_head_over_genes_is_called_genes(genes, input_is_genes, name):
    module = objective(genes=genes, input_is_genes=input_is_genes, output_space="gene")
    module.training_step(batch(genes=genes), 0)

    assert f"loss_{name}" in module.train_means.take("")


def test_one_setting_rules_both_heads():
    losses = {}
    for loss in ("energy", "mse"):
        module = objective(PerturbationConfig(loss=loss))
        module.training_step(batch(), 0)
        losses[loss] = module.train_means.take("")

    for name in ("loss_embedding", "loss_genes", "loss_genes_floor"):
        assert losses["energy"][name] != pytest.approx(losses["mse"][name], rel=1e-3)


def test_a_detached_decoder_leaves_everything_else_alone():
    module, cells = objective(PerturbationConfig(detach_decoder=True, decoder_weight=1e6)), batch()
    plain = objective(PerturbationConfig(decoder_weight=0.0))
    for each in (module, plain):
        each.training_step(cells, 0).backward()

    assert any(p.grad.abs().sum() > 0 for p in module.model.gene_decoder.parameters())
    for one, other in zip(module.model.project_out.parameters(), plain.model.project_out.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_the_shift_penalty_is_the_mean_absolute_shift():
    penalised, plain = objective(PerturbationConfig(shift_penalty=2.0)), objective(PerturbationConfig())
    for module in (penalised, plain):
        torch.nn.init.constant_(module.model.project_out[-1].bias, 0.5)  # every cell moves by 0.5
    cells = batch()

    assert (penalised.training_step(cells, 0) - plain.training_step(cells, 0)).item() == pytest.approx(2.0 * 0.5, rel=1e-4)


def test_dropout_is_a_function_of_seed_and_micro_step():
    module, cells = objective(), batch()
    module.model.gene_decoder.train()
    noise = []
    for seed, micro_step in ((0, 3), (0, 3), (0, 4), (1, 3)):
        module.seed = seed
        module.on_train_batch_start(cells, micro_step)
        noise.append(torch.rand(4))

    assert torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[3])


def test_means_are_weighted_by_sets():
    means = Means()
    means.add({"a": torch.tensor(1.0)}, weight=3)
    means.add({"a": torch.tensor(5.0), "b": torch.tensor(2.0)}, weight=1)

    assert means.take("val/") == {"val/a": 2.0, "val/b": 2.0}
    assert means.take("val/") == {}


def test_the_batch_moves_whole():
    cells = dataclasses.replace(batch(), gem_group=torch.zeros(2, 8, dtype=torch.int64))
    moved = cells.to("meta")

    assert all(getattr(moved, field.name).device.type == "meta" for field in dataclasses.fields(moved))
    assert moved.num_cells == 16
