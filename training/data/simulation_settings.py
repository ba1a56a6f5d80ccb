"""What a person may choose about simulated cells."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import ceil
from typing import Any

import numpy as np

from training.errors import UserError, did_you_mean

CONTROL = "control"
CONTROL_FRACTION = 0.2


@dataclass(frozen=True)
class Simulation:
    """Settings of a simulated screen.

    Raises: UserError for a setting out of its range, or for settings that do not fit each other.
    """

    n_cells: int = 5000
    """Cells, a fifth of them controls."""
    n_genes: int = 1000
    """Genes; the perturbed ones are among them."""
    n_cell_types: int = 2
    """Cell types, each with its own baseline and its own version of the gene network."""
    n_perturbations: int = 60
    """Perturbations besides the control, each in every cell type."""
    n_gem_groups: int = 4
    """GEM groups, each with its own shift of every gene and of the library size; 1: no batch effect."""
    n_modules: int = 8
    """Modules of the gene network: the dimensions in which responses differ."""
    feature_dim: int = 64
    """Width of a perturbation's feature vector."""
    informativeness: float = 1.0
    """Share of the variance of the features that tells what a perturbation regulates; 0: they are noise."""
    systematic_shift: float = 0.1
    """What all perturbed cells have in common: the standard deviation over genes of a shift of the log rates."""
    state_dependence: float = 1.0
    """How much a cell's response depends on the state in which the perturbation finds it; 0: not at all."""
    held_out_fraction: float = 0.25
    """Share of perturbations that is trained on in no cell type; a third of them validates, the others test."""
    n_hvg: int = 0
    """Highly variable genes in `obsm/X_hvg`; 0: none is written."""
    n_embedding: int = 64
    """Dimensions of the stand-in for a learned embedding in `obsm/X_state`; 0: none is written."""
    seed: int = 42
    """The same seed and settings give the same values."""

    def __post_init__(self) -> None:
        for name, (low, high) in self._ranges().items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"simulate: {name} is {value}; accepted: {low} to {high}")
        smallest = ceil(2 * self.n_perturbations * self.n_cell_types / (1 - CONTROL_FRACTION))
        if self.n_cells < smallest:
            raise UserError(
                f"simulate: n_cells is {self.n_cells}; accepted: {smallest} or more, for two cells of each of "
                f"{self.n_perturbations} perturbations in each of {self.n_cell_types} cell types"
            )
        if not 2 <= self.n_held_out <= self.n_perturbations - 2:
            raise UserError(
                f"simulate: held_out_fraction is {self.held_out_fraction}, which is {self.n_held_out} of "
                f"{self.n_perturbations} perturbations; accepted: at least 2 held out and 2 to train on"
            )

    @classmethod
    def of(cls, words: Sequence[str]) -> "Simulation":
        """Settings from `KEY=VALUE` words; the others keep their defaults.

        Raises: UserError naming the word and what is accepted.
        """
        kinds = {field.name: field.type for field in fields(cls)}
        values: dict[str, Any] = {}
        for word in words:
            key, equals, text = word.partition("=")
            if not equals or key not in kinds:
                raise UserError(
                    f"simulate: {word}: no such setting{did_you_mean(key, kinds)} (accepted: KEY=VALUE with {', '.join(kinds)})"
                )
            if key in values:
                raise UserError(f"simulate: {key} is set twice: {values[key]} and {text}")
            kind = int if kinds[key] is int else float
            try:
                values[key] = kind(text)
            except ValueError:
                accepted = "a whole number" if kind is int else "a number"
                raise UserError(f"simulate: {key} is {text}; accepted: {accepted}") from None
        return cls(**values)

    @property
    def n_held_out(self) -> int:
        """Perturbations that validate or test."""
        return round(self.held_out_fraction * self.n_perturbations)

    @property
    def genes(self) -> list[str]:
        """Names of the genes."""
        return [f"GENE{gene:05d}" for gene in range(self.n_genes)]

    @property
    def cell_types(self) -> list[str]:
        """Names of the cell types."""
        return [f"type_{cell_type}" for cell_type in range(self.n_cell_types)]

    @property
    def gem_groups(self) -> list[str]:
        """Names of the GEM groups."""
        return [f"gem_{gem_group}" for gem_group in range(self.n_gem_groups)]

    def rng(self, *stream: int) -> np.random.Generator:
        """The generator of one stream of random numbers, whatever was drawn from the others."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=stream))

    def _ranges(self) -> dict[str, tuple[float, float]]:
        return {
            "n_genes": (50, 100_000),
            "n_cell_types": (1, 100),
            "n_perturbations": (4, self.n_genes // 2),
            "n_gem_groups": (1, 100),
            "n_modules": (2, 200),
            "feature_dim": (1, 20_000),
            "informativeness": (0, 1),
            "systematic_shift": (0, 1),
            "state_dependence": (0, 5),
            "held_out_fraction": (0, 1),
            "n_hvg": (0, self.n_genes),
            "n_embedding": (0, 10_000),
            "seed": (0, 2**31 - 1),
        }
