"""model.pt: the weights, and what is needed to rebuild the model and to ask it by name. Loads with weights_only=True."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.errors import RunError, UserError
from training.files import partial_file
from training.models.spec import ModelSpec
from training.registry import part

PAYLOAD = "trainer.ckpt"
"""What Lightning writes of a checkpoint."""
SPEC = "model_card"
"""Key of the spec in model.pt and in a Lightning checkpoint; files of the first version have it too."""


@dataclass(frozen=True)
class SavedModel:
    """A trained model."""

    spec: ModelSpec
    weights: dict[str, Tensor]
    step: int
    val_loss_total: float | None

    def build(self) -> nn.Module:
        """The model with its weights, on the CPU, in evaluation mode."""
        model = self.spec.build()
        model.load_state_dict(self.weights)
        return model.eval()


def spec_of(plain: Mapping[str, Any]) -> ModelSpec:
    """The spec that `to_plain` wrote, whichever task's it is; one without a task is of the perturbation task.

    Raises: UserError if no task here has such a model.
    """
    spec: ModelSpec = part(str(plain.get("task", "perturbation")), "spec").SPEC.from_plain(plain)
    return spec


def save_model(saved: SavedModel, path: Path) -> None:
    """Write a model file, whole or not at all.

    Raises: RunError if the disk is full.
    """
    content = {
        SPEC: saved.spec.to_plain(),
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
    return SavedModel(spec_of(content[SPEC]), content["weights"], content["step"], content["val_loss_total"])


def load_checkpoint_model(path: Path, val_loss_total: float | None) -> SavedModel:
    """Read the model out of a Lightning checkpoint that one of our objectives wrote.

    Raises: UserError if it is missing, damaged, or of another format.
    """
    content = _load(path)
    prefix = "model."
    weights = {name.removeprefix(prefix): tensor for name, tensor in content["state_dict"].items() if name.startswith(prefix)}
    return SavedModel(spec_of(content[SPEC]), weights, content["global_step"], val_loss_total)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such model file") from None
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: not a readable model file: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(content, dict) or SPEC not in content:
        raise UserError(f"{path}: not a model file of this project: it holds no {SPEC}")
    return content
