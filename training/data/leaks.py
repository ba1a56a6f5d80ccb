"""Which held-out conditions are trained on, under whatever name: a model does not read names, it reads vectors."""

import hashlib
import logging
from collections.abc import Iterable

import numpy as np

from training.cells import Condition
from training.config import CellSetsConfig
from training.data.labels import canonical, identity
from training.data.perturbations import PerturbationFeatures

log = logging.getLogger(__name__)

Pair = tuple[str, str]
"""Cell type and perturbation."""


class Sameness:
    """Which perturbations are one to the model: of one label, of labels that name the same, or of equal vectors.

    Vectors count where a file has them, and tell nothing where they are zeros (which missing ones get) or equal for all.
    """

    def __init__(self, config: CellSetsConfig, features: PerturbationFeatures) -> None:
        self._control, self._separator = config.control, config.separator
        self._digest: dict[str, bytes] = {}
        if config.perturbation_features_file is not None and not _is_constant(features, config.control):
            for name, vector in zip(features.names, features.vectors, strict=True):
                if vector.any():
                    self._digest[name] = hashlib.sha256((vector + 0.0).tobytes()).digest()  # -0.0 + 0.0 is 0.0

    def trained_as(self, held_out: Iterable[Condition], trained: Iterable[Pair]) -> dict[Condition, tuple[Pair, str]]:
        """Those of the held-out conditions that are trained on: as which cell type and perturbation, and what is the same."""
        by_key: dict[tuple[str, object], Pair] = {}
        for pair in trained:
            for key, _ in self._keys(*pair):
                by_key.setdefault(key, pair)
        found = {}
        for condition in held_out:
            for key, what in self._keys(condition.cell_type, condition.perturbation):
                if key in by_key and condition not in found:
                    found[condition] = (by_key[key], what)
        return found

    def never_trained(self, held_out: Iterable[str], trained: Iterable[str]) -> tuple[str, ...]:
        """Perturbations that are one with none that is trained on; sorted."""
        known = {key for name in trained for key, _ in self._keys("", name)}
        return tuple(sorted(name for name in set(held_out) if not known.intersection(key for key, _ in self._keys("", name))))

    def _keys(self, cell_type: str, perturbation: str) -> list[tuple[tuple[str, object], str]]:
        """What a condition is known by, with the word for it; the closest first."""
        place = canonical(cell_type).strip()
        keys: list[tuple[tuple[str, object], str]] = [
            ((cell_type, perturbation), "name"),
            ((place, identity(perturbation, self._control, self._separator)), "parts"),
        ]
        if perturbation in self._digest:
            keys.append(((place, self._digest[perturbation]), "features"))
        return keys


def warn_of_constant_features(config: CellSetsConfig, features: PerturbationFeatures) -> None:
    """Say so where all perturbations have one vector: whatever is predicted, it is the same for all."""
    if config.perturbation_features_file is not None and _is_constant(features, config.control):
        log.warning(
            "%s: all %d perturbations of the data have the same vector; the model cannot tell them apart",
            config.perturbation_features_file, len(set(features.names) - {config.control}),
        )  # fmt: skip


def _is_constant(features: PerturbationFeatures, control: str) -> bool:
    perturbed = features.vectors[[i for i, name in enumerate(features.names) if name != control]]
    return len(perturbed) > 1 and bool(np.equal(perturbed, perturbed[0]).all())
