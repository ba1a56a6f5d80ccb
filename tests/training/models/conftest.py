import pytest
import torch

from training.cells import Sizes
from training.config import StateTransitionConfig

TINY = {"hidden_dim": 16, "num_layers": 2, "num_heads": 2, "head_dim": 8, "intermediate_dim": 24, "dropout": 0.0}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def tiny_config():
    """A small model; keyword arguments replace its settings."""

    def build(**settings) -> StateTransitionConfig:
        return StateTransitionConfig.model_validate(TINY | {"decoder_hidden_dims": (12, 10), "decoder_dropout": 0.0} | settings)

    return build


@pytest.fixture
def sizes():
    return Sizes(input_dim=20, perturbation_dim=7, num_decoder_genes=11, num_gem_groups=4)


@pytest.fixture
def make_lively():
    """Replaces fresh weights, of which some are so small that little depends on them."""

    def apply(model):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 1.0)
        return model.eval()

    return apply
