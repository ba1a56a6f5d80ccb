"""The model of the toy task: one line with noise in its input."""

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class ToySpec:
    """Nothing to choose but the dropout."""

    dropout: float

    def build(self) -> nn.Module:
        """A fresh line."""
        return nn.Sequential(nn.Linear(1, 16), nn.Dropout(self.dropout), nn.Linear(16, 1))

    def to_plain(self) -> dict[str, Any]:
        """Numbers and words."""
        return {"task": "toy", "format": 1, "dropout": self.dropout}

    @classmethod
    def from_plain(cls, plain: Any) -> "ToySpec":
        """What `to_plain` wrote."""
        return cls(plain["dropout"])


SPEC = ToySpec
