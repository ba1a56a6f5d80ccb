"""Predicted cells as an .h5ad that anybody can read, written window by window; nothing is clipped."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from training.cells import IntArray
from training.checkpoints.model_file import ModelCard
from training.data.assemble import Cells
from training.errors import RunError, UserError
from training.evaluation.draws import drawn
from training.evaluation.evaluate import gem_groups_of
from training.evaluation.model_predictor import ModelPredictor
from training.evaluation.requests import Request
from training.files import partial_file
from training.text import some

log = logging.getLogger(__name__)

MARK = "incubator"
"""Key in `uns` that says where a file of predictions comes from."""


@dataclass(frozen=True)
class Provenance:
    """Where predictions come from; stands in `uns`."""

    run: str
    checkpoint: str
    step: int
    asked: str
    """What was asked for: `split test`, or the table's name."""


def predict(cells: Cells, predictor: ModelPredictor, requests: Sequence[Request], output: Path, provenance: Provenance) -> None:
    """Write the predicted cells of all requests, in their order.

    Each request starts from controls of its cell type and data set, drawn by (seed, data set, cell type, perturbation) and so
    whatever else is asked for; a control is used again only where there are fewer of them than cells asked for. `X` holds genes,
    `obsm[embed_key]` the predicted embedding; a run that predicts an embedding alone has no `X`. One window of `set_size` cells
    is in memory at a time. The file appears under its name when it is complete.

    Raises: UserError if `output` does not end in .h5ad, cannot be written, or is a file that holds no predictions of ours.
        RunError if a predicted value is not finite or the disk is full.
    """
    _refuse_place(output)
    for request in requests:
        assert predictor.knows(request.condition.perturbation), request
    starts = _starts(cells, requests)
    try:
        with partial_file(output) as partial:
            _make(partial, output)
            _write_frame(partial, cells, predictor.card, requests, starts, provenance)
            _stream(partial, cells, predictor, requests, starts)
    except OSError as error:
        raise RunError(f"{output}: could not be written to the end: {error}") from error
    log.info("predict: %d cells of %d conditions in %s", sum(map(len, starts)), len(requests), output)


def _make(file: Path, output: Path) -> None:
    """Create `file`, which will be `output`, and its folder before anything is computed."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.filename}: {error.strerror}") from None


def _refuse_place(output: Path) -> None:
    if output.suffix != ".h5ad":
        raise UserError(f"{output}: predictions are written to an .h5ad file")
    if output.exists() and not _holds_predictions(output):
        raise UserError(f"{output}: exists already and holds no predictions of this project; it is not overwritten")


def _holds_predictions(path: Path) -> bool:
    try:
        with h5py.File(path) as file:
            return f"uns/{MARK}" in file
    except OSError:
        return False


def _starts(cells: Cells, requests: Sequence[Request]) -> list[IntArray]:
    """Control cells of each request."""
    controls = [cells.controls_of(request.condition) for request in requests]
    short = [(r, len(own)) for r, own in zip(requests, controls, strict=True) if r.n_cells > len(own)]
    if short:
        listed = some([f"{r.condition.perturbation} in {r.condition.cell_type}: {r.n_cells} of {n}" for r, n in short], limit=3)
        log.warning("predict: where more cells are asked for than there are controls, some controls are used again (%s)", listed)
    return [
        drawn(own, request.n_cells, seed=cells.seed, purpose="predict", condition=request.condition)
        for request, own in zip(requests, controls, strict=True)
    ]


def _write_frame(
    path: Path, cells: Cells, card: ModelCard, requests: Sequence[Request], starts: Sequence[IntArray], provenance: Provenance
) -> None:
    """Everything but the values: obs, var, uns, and the matrices, still empty."""
    obs = _obs(cells, requests, starts)
    widths = _widths(card)
    var = pd.DataFrame(index=list(card.judged_names) if "X" in widths else [])
    ad.AnnData(obs=obs, var=var, uns={MARK: asdict(provenance) | {"seed": cells.seed}}).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        for key, width in widths.items():
            matrix = file.create_dataset(key, (len(obs), width), np.float32)
            matrix.attrs["encoding-type"], matrix.attrs["encoding-version"] = "array", "0.2.0"


def _widths(card: ModelCard) -> dict[str, int]:
    """Place of each predicted matrix in the file, and its columns."""
    embedding = {} if card.input_is_genes and not card.sizes.num_decoder_genes else {_embedding(card): card.sizes.input_dim}
    genes = card.sizes.num_decoder_genes or (card.sizes.input_dim if card.input_is_genes else None)
    return embedding if genes is None else {"X": genes} | embedding


def _embedding(card: ModelCard) -> str:
    return f"obsm/{card.embed_key}"


def _obs(cells: Cells, requests: Sequence[Request], starts: Sequence[IntArray]) -> pd.DataFrame:
    """What was asked for, and the control cell that each prediction started from."""
    lengths = [len(start) for start in starts]
    controls = np.concatenate(starts)
    obs = pd.DataFrame(index=[str(i) for i in range(len(controls))])
    for name in ("perturbation", "cell_type", "dataset"):
        obs[name] = pd.Categorical([getattr(request.condition, name) for request in requests]).repeat(lengths)
    table = cells.table
    obs["control_file"] = pd.Categorical([Path(name).name for name in table.file.names]).take(table.file.codes[controls])
    obs["control_row"] = table.row[controls]
    if table.gem_group is not None:
        obs["gem_group"] = pd.Categorical(table.gem_group.names).take(table.gem_group.codes[controls])
    return obs


def _stream(path: Path, cells: Cells, predictor: ModelPredictor, requests: Sequence[Request], starts: Sequence[IntArray]) -> None:
    keys = _widths(predictor.card)
    done = 0
    with h5py.File(path, "r+") as file:
        for request, start in zip(requests, starts, strict=True):
            for window in predictor.windows(len(start)):
                chosen = start[window]
                values = cells.reader.read("input", chosen)
                predicted = predictor.predict_cells(request.condition.perturbation, values, gem_groups_of(cells, chosen))
                for key in keys:
                    file[key][done : done + len(chosen)] = predicted.judged if key == "X" else predicted.cells
                done += len(chosen)
