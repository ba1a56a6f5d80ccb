"""STATE's transition model: from a set of control cells and a perturbation to the set of perturbed cells.

Source: Adduri et al. 2025 (bioRxiv 2025.06.26.661135). Equal to arc-state 0.11.1 to 1e-5 where that has the form;
`residual: identity` is our own.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from training.cells import Sizes
from training.config import StateTransitionConfig
from training.models.transformer import Backbone

OutputSpace = Literal["gene", "all", "embedding"]
BOTTLENECK_RATIO = 8


@dataclass(frozen=True)
class Prediction:
    """Predicted cells, one for each control.

    Shape: cells (B, S, D); genes (B, S, G), None where there is no gene decoder.
    """

    cells: Tensor
    genes: Tensor | None


class StateTransition(nn.Module):
    """Encoders, a transformer over the set, an output head, and a gene decoder where `sizes` has decoder genes.

    `output_space` chooses the residual form of `residual: state`; `input_is_genes` whether `output_activation: auto` is a ReLU.
    """

    def __init__(self, config: StateTransitionConfig, sizes: Sizes, *, output_space: OutputSpace, input_is_genes: bool) -> None:
        super().__init__()
        hidden, width, dropout = config.hidden_dim, sizes.input_dim, config.dropout
        control_layers = 1 if config.control_encoder == "linear" else config.encoder_layers
        self.residual = config.residual
        self.clamps = config.output_activation == "relu" or (
            config.output_activation == "auto" and input_is_genes and config.residual != "identity"
        )
        self.perturbation_encoder = mlp(sizes.perturbation_dim, hidden, hidden, config.encoder_layers, dropout)
        self.control_encoder = mlp(width, hidden, hidden, control_layers, dropout)
        self.gem_group_embedding = nn.Embedding(sizes.num_gem_groups, hidden) if config.gem_group_embedding else None
        self.backbone = Backbone(config)
        self.project_out = mlp(hidden, hidden, width, config.output_layers, dropout)
        self.bottleneck = bottleneck(width) if config.residual == "state" and output_space == "all" else None
        self.gene_decoder = (
            None
            if sizes.num_decoder_genes is None
            else gene_decoder(width, config.decoder_hidden_dims, sizes.num_decoder_genes, config.decoder_dropout)
        )
        if config.residual == "identity":
            for parameter in self.project_out[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(
        self, control: Tensor, perturbation: Tensor, gem_group: Tensor | None = None, *, detach_decoder: bool = False
    ) -> Prediction:
        """Predict the perturbed cells of each set; sets do not see each other.

        `detach_decoder` keeps the gradient of the genes inside the decoder. `gem_group` is read where the model has the embedding.

        Shape: control (B, S, D), perturbation (B, P), gem_group (B, S), for any S.
        """
        code = self.control_encoder(control)
        # One vector a set: encoded once, not once a cell.
        x = code + self.perturbation_encoder(perturbation)[:, None]
        if self.gem_group_embedding is not None:
            assert gem_group is not None, "model.gem_group_embedding without codes"
            x = x + self.gem_group_embedding(gem_group)
        cells = self._cells(self.backbone(x), control, code)
        if self.gene_decoder is None:
            return Prediction(cells, None)
        return Prediction(cells, self.gene_decoder(cells.detach() if detach_decoder else cells))

    def _cells(self, y: Tensor, control: Tensor, code: Tensor) -> Tensor:
        """The output head: (B, S, H) -> (B, S, D)."""
        cells: Tensor
        if self.bottleneck is not None:
            cells = self.bottleneck(self.project_out(y) + control)
        elif self.residual == "state":
            cells = self.project_out(y + code)
        elif self.residual == "identity":
            cells = control + self.project_out(y)
        else:
            cells = self.project_out(y)
        return cells.relu() if self.clamps else cells


def mlp(input_dim: int, hidden_dim: int, output_dim: int, num_layers: int, dropout: float) -> nn.Sequential:
    """`num_layers` linear layers, GELU and dropout between them.

    Shape: (..., input_dim) -> (..., output_dim).
    """
    dims = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
    layers: list[nn.Module] = []
    for before, after in pairwise(dims):
        layers += [nn.Linear(before, after), nn.GELU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers[:-2])


def bottleneck(width: int) -> nn.Sequential:
    """Everything that is predicted passes through an eighth of its width; there is no way around.

    Shape: (..., width) -> (..., width).
    """
    narrow = max(1, width // BOTTLENECK_RATIO)
    return nn.Sequential(nn.Linear(width, narrow), nn.GELU(), nn.Linear(narrow, width))


def gene_decoder(input_dim: int, hidden_dims: tuple[int, ...], num_genes: int, dropout: float) -> nn.Sequential:
    """From a predicted cell to its genes, which are never negative.

    Shape: (..., D) -> (..., G).
    """
    dims = [input_dim, *hidden_dims]
    layers: list[nn.Module] = []
    for before, after in pairwise(dims):
        layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.GELU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(dims[-1], num_genes), nn.ReLU())
