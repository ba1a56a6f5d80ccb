"""What a transition model is, without its weights: sizes, settings, and the names of what goes in and comes out."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor

from training.cells import Sizes
from training.config import StateTransitionConfig
from training.data.set_aside import SetAside
from training.errors import UserError
from training.models.state_transition import OutputSpace, StateTransition

FORMAT = 1


@dataclass(frozen=True)
class PerturbationSpec:
    """What a model is, without its weights: how it is built and what its inputs and outputs are called."""

    config: StateTransitionConfig
    set_size: int
    """Cells of a full set in training."""
    sizes: Sizes
    output_space: OutputSpace
    input_is_genes: bool
    embed_key: str | None
    input_names: tuple[str, ...]
    """Names of the D columns that go in and come out."""
    judged_names: tuple[str, ...]
    """Names of the columns that metrics compare: the decoder's genes, or the input's columns."""
    perturbation_names: tuple[str, ...]
    perturbation_vectors: Tensor
    """(number of names, P), in the order of the names."""
    gem_group_names: tuple[str, ...]
    trained_conditions: tuple[tuple[str, str], ...]
    """(cell type, perturbation) that training has seen: what is none of them was held out."""
    set_aside: SetAside | None = None
    """Which controls training has not seen; None where it has seen all, as before they were set aside."""

    def build(self) -> StateTransition:
        """A fresh model."""
        return StateTransition(self.config, self.sizes, output_space=self.output_space, input_is_genes=self.input_is_genes)

    def to_plain(self) -> dict[str, Any]:
        """Numbers, words, lists and tensors only."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        del plain["set_size"]
        config = {"set_size": self.set_size} | self.config.model_dump(mode="json")  # where it stood when it was the model's
        return plain | {"format": FORMAT, "config": config, "sizes": asdict(self.sizes),
                        "set_aside": None if self.set_aside is None else asdict(self.set_aside)}  # fmt: skip

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "PerturbationSpec":
        """The spec that `to_plain` wrote.

        Raises: UserError if it is of another format.
        """
        if plain.get("format") != FORMAT:
            raise UserError(f"model spec of format {plain.get('format')} (accepted: {FORMAT})")
        values = {name: value for name, value in plain.items() if name != "format"}
        settings = dict(values["config"])
        set_size = settings.pop("set_size")
        config = StateTransitionConfig.model_validate(settings)
        set_aside = None if (kept := values.get("set_aside")) is None else SetAside(**kept)
        return cls(**values | {"config": config, "set_size": set_size, "sizes": Sizes(**values["sizes"]), "set_aside": set_aside})


SPEC = PerturbationSpec
