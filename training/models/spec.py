"""What a model is, without its weights: enough to build it again without data or configuration."""

from typing import Any, Protocol, Self

from torch import nn


class ModelSpec(Protocol):
    """A task's own frozen dataclass; it travels in model.pt and in every checkpoint."""

    def build(self) -> nn.Module:
        """A fresh model; its weights are a function of torch's seed."""
        ...

    def to_plain(self) -> dict[str, Any]:
        """Numbers, words, lists and tensors only, with `task` and `format`."""
        ...

    @classmethod
    def from_plain(cls, plain: Any) -> Self:
        """The spec that `to_plain` wrote.

        Raises: UserError if it is of another format.
        """
        ...
