"""The trained model as one more predictor."""

from dataclasses import dataclass

import numpy as np
import torch

from training.cells import Condition, ControlCells, FloatArray, IntArray
from training.errors import RunError
from training.models.state_transition import StateTransition
from training.tasks.perturbation.spec import PerturbationSpec


@dataclass(frozen=True)
class PredictedCells:
    """What the model says of N cells.

    Shape: cells (N, D); genes (N, G), None where there is no gene decoder.
    """

    cells: FloatArray
    genes: FloatArray | None

    @property
    def judged(self) -> FloatArray:
        """The representation that metrics compare: (N, J)."""
        return self.cells if self.genes is None else self.genes


class ModelPredictor:
    """Predicts cells from windows of at most `set_size` controls, without dropout; nothing is clipped or rounded."""

    name = "model"

    def __init__(self, model: StateTransition, spec: PerturbationSpec, device: torch.device) -> None:
        self.spec, self.device = spec, device
        self._model = model.to(device).eval()
        self._row_of = {name: row for row, name in enumerate(spec.perturbation_names)}

    def knows(self, perturbation: str) -> bool:
        """Whether the model has a vector for a perturbation."""
        return perturbation in self._row_of

    def predict(self, condition: Condition, controls: ControlCells) -> FloatArray | None:
        """Predicted cells in the judged representation; None for a perturbation without a vector.

        Shape: controls of N cells -> (N, J).
        Raises: RunError if a predicted value is NaN or infinite.
        """
        if not self.knows(condition.perturbation):
            return None
        return self.predict_cells(condition.perturbation, controls.input, controls.gem_group).judged

    def predict_cells(self, perturbation: str, controls: FloatArray, gem_group: IntArray | None) -> PredictedCells:
        """Predicted cells of both heads, one for each control.

        Shape: controls (N, D), gem_group (N,).
        Raises: RunError if a predicted value is NaN or infinite.
        """
        row = self._row_of[perturbation]
        vector = self.spec.perturbation_vectors[row : row + 1].to(self.device)
        predicted = []
        for window in self.windows(len(controls)):
            codes = None if gem_group is None else gem_group[window]
            predicted.append(self._predict_window(vector, controls[window], codes))
        genes = [window.genes for window in predicted if window.genes is not None]
        whole = PredictedCells(np.concatenate([window.cells for window in predicted]), np.concatenate(genes) if genes else None)
        if not (np.isfinite(whole.cells).all() and np.isfinite(whole.judged).all()):
            raise RunError(f"the model predicts NaN or infinite values for perturbation {perturbation}: its weights are of no use")
        return whole

    def windows(self, n: int) -> list[slice]:
        """`n` cells cut into the fewest windows of at most `set_size`, as even as they come.

        Even, because a short rest of a window would be a set of a size that the model has hardly seen.
        """
        count = -(-n // self.spec.set_size)
        return [slice(n * i // count, n * (i + 1) // count) for i in range(count)]

    @torch.inference_mode()
    def _predict_window(self, vector: torch.Tensor, controls: FloatArray, gem_group: IntArray | None) -> PredictedCells:
        codes = None if gem_group is None else torch.tensor(gem_group, device=self.device)[None]
        prediction = self._model(torch.tensor(controls, device=self.device)[None], vector, codes)
        genes = None if prediction.genes is None else prediction.genes[0].float().cpu().numpy()
        return PredictedCells(prediction.cells[0].float().cpu().numpy(), genes)
