"""model.pt: the weights, and what is needed to rebuild the model and to ask it by name. Loads with weights_only=True."""

import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.cells import Sizes
from training.config import StateTransitionConfig
from training.data.set_aside import SetAside
from training.errors import RunError, UserError
from training.files import partial_file
from training.models.state_transition import OutputSpace, StateTransition

FORMAT = 1
CARD = "model_card"
"""Key of the card in a Lightning checkpoint."""


@dataclass(frozen=True)
class ModelCard:
    """What a model is, without its weights: how it is built and what its inputs and outputs are called."""

    config: StateTransitionConfig
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
        return plain | {"format": FORMAT, "config": self.config.model_dump(mode="json"), "sizes": asdict(self.sizes),
                        "set_aside": None if self.set_aside is None else asdict(self.set_aside)}  # fmt: skip

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "ModelCard":
        """The card that `to_plain` wrote.

        Raises: UserError if it is of another format.
        """
        if plain.get("format") != FORMAT:
            raise UserError(f"model card of format {plain.get('format')} (accepted: {FORMAT})")
        values = {name: value for name, value in plain.items() if name != "format"}
        config = StateTransitionConfig.model_validate(values["config"])
        set_aside = None if (kept := values.get("set_aside")) is None else SetAside(**kept)
        return cls(**values | {"config": config, "sizes": Sizes(**values["sizes"]), "set_aside": set_aside})


@dataclass(frozen=True)
class SavedModel:
    """A trained model."""

    card: ModelCard
    weights: dict[str, Tensor]
    step: int
    val_loss_total: float | None

    def build(self) -> StateTransition:
        """The model with its weights, on the CPU, in evaluation mode."""
        model = self.card.build()
        model.load_state_dict(self.weights)
        return model.eval()


def save_model(saved: SavedModel, path: Path) -> None:
    """Write a model file, whole or not at all.

    Raises: RunError if the disk is full.
    """
    content = {
        CARD: saved.card.to_plain(),
        "weights": saved.weights,
        "step": saved.step,
        "val_loss_total": saved.val_loss_total,
    }
    try:
        with partial_file(path) as partial:
            torch.save(content, partial)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise RunError(f"{path}: could not be written ({' '.join(str(error).split())}); the checkpoints are intact") from error


def load_model(path: Path) -> SavedModel:
    """Read a model file.

    Raises: UserError if it is missing, damaged, or of another format.
    """
    content = _load(path)
    return SavedModel(ModelCard.from_plain(content[CARD]), content["weights"], content["step"], content["val_loss_total"])


def load_checkpoint_model(path: Path, val_loss_total: float | None) -> SavedModel:
    """Read the model out of a Lightning checkpoint that one of our objectives wrote.

    Raises: UserError if it is missing, damaged, or of another format.
    """
    content = _load(path)
    prefix = "model."
    weights = {name.removeprefix(prefix): tensor for name, tensor in content["state_dict"].items() if name.startswith(prefix)}
    return SavedModel(ModelCard.from_plain(content[CARD]), weights, content["global_step"], val_loss_total)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such model file") from None
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: not a readable model file: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(content, dict) or CARD not in content:
        raise UserError(f"{path}: not a model file of this project: it holds no {CARD}")
    return content
