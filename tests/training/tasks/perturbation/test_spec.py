"""What stands in model.pt, and in every checkpoint beside the weights."""

import torch

from training.cells import Sizes
from training.config import StateTransitionConfig
from training.tasks.perturbation.spec import PerturbationSpec

CARD = PerturbationSpec(
    config=StateTransitionConfig(hidden_dim=16), set_size=8, sizes=Sizes(6, 3, 5, 0), output_space="all", input_is_genes=False,
    embed_key="X_state", input_names=("a",), judged_names=("g",), perturbation_names=("p", "q", "r"),
    perturbation_vectors=torch.eye(3), gem_group_names=(), trained_conditions=(("k", "p"),),
)  # fmt: skip


def test_the_set_size_stands_among_the_settings_of_the_model_as_in_the_files_of_before():
    plain = CARD.to_plain()

    assert plain["config"] == {"set_size": 8} | CARD.config.model_dump(mode="json")
    assert "set_size" not in plain
    read = PerturbationSpec.from_plain(plain)
    assert (read.set_size, read.config, read.sizes) == (8, CARD.config, CARD.sizes)
