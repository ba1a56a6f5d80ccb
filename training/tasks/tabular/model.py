"""The classifier, and what is needed to build it again without its data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from training.errors import UserError
from training.tasks.tabular.config import MlpConfig

FORMAT = 1


class Mlp(nn.Module):
    """Linear layers with ReLU between them, and the sigmoid of one number at the end.

    Names of the weights (`net.0.weight` ...) are those of the lesson's script, so that either reads the other's.
    """

    def __init__(self, n_columns: int, hidden_dims: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in zip((n_columns, *hidden_dims), hidden_dims, strict=False):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        last = hidden_dims[-1] if hidden_dims else n_columns
        self.net = nn.Sequential(*layers, nn.Linear(last, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """The probability of class 1. Shape: (n, d) -> (n, 1)."""
        probability: Tensor = self.net(x)
        return probability


@dataclass(frozen=True)
class TabularSpec:
    """What a model is, without its weights."""

    config: MlpConfig
    n_columns: int
    columns: tuple[str, ...] | None = None
    """Names of the columns, where they are known."""

    def build(self) -> Mlp:
        """A fresh model, with weights that torch's generator draws."""
        return Mlp(self.n_columns, self.config.hidden_dims)

    def to_plain(self) -> dict[str, Any]:
        """Numbers, texts and lists only."""
        return {
            "format": FORMAT, "task": "tabular", "config": self.config.model_dump(mode="json"), "n_columns": self.n_columns,
            "columns": None if self.columns is None else list(self.columns),
        }  # fmt: skip

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "TabularSpec":
        """The spec that `to_plain` wrote.

        Raises: UserError if it is of another task or format.
        """
        if plain.get("task") != "tabular" or plain.get("format") != FORMAT:
            raise UserError(
                f"model spec of task {plain.get('task')}, format {plain.get('format')} (accepted: task tabular, format {FORMAT}); "
                "read it with the version of this project that wrote it"
            )
        columns = plain.get("columns")
        return cls(MlpConfig.model_validate(plain["config"]), int(plain["n_columns"]), None if columns is None else tuple(columns))
