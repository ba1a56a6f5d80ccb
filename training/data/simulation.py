"""`training simulate`: cells with known truth, written block by block.

`simulation_settings.py` says what may be chosen, `simulation_truth.py` what is true; here counts are drawn and files are written:

    OUT.h5ad             X (log1p of normalised counts), layers/counts, obs, var, obsm, and the truth in uns
    OUT_features.npz     perturbation -> vector
    OUT_split.toml       perturbations that are held out in every cell type
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import anndata
import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd

from training.cells import FloatArray
from training.data.simulation_settings import CONTROL, CONTROL_FRACTION, Simulation
from training.data.simulation_truth import (
    LEVELS,
    TARGET_SUM,
    Float64Array,
    Labels,
    Network,
    Truth,
    draw_network,
    expected_truth,
    library_shares,
    states_from_uniforms,
)
from training.errors import RunError, UserError

__all__ = ["SimulatedFiles", "Simulation", "simulate"]

log = logging.getLogger(__name__)

DATASET = "simulated"
BLOCK_CELLS = 64
"""Cells drawn at a time, from a stream of random numbers of their own: a part of what a seed means, so no setting.

At 18,080 genes the process peaks at 0.78 GB with 64 cells and 0.94 GB with 256 (0.67 GB is imported libraries), as fast either way.
"""
DE_THRESHOLD = 0.1
"""A gene is differentially expressed where its expected log1p shifts by this much: about 10 % of a well expressed gene."""

_CHUNK = 1 << 14  # values of a chunk on disk: single rows of 3,500 values read as fast as from one piece, at 2^16 half as fast


@dataclass(frozen=True)
class SimulatedFiles:
    """What `simulate` has written."""

    h5ad: Path
    features: Path
    split: Path

    @classmethod
    def beside(cls, h5ad: Path) -> "SimulatedFiles":
        """`h5ad` and the names of the files that go with it."""
        return cls(h5ad, h5ad.with_name(f"{h5ad.stem}_features.npz"), h5ad.with_name(f"{h5ad.stem}_split.toml"))

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        """All of them."""
        return self.h5ad, self.features, self.split


def simulate(settings: Simulation, output: Path) -> SimulatedFiles:
    """Write simulated cells to `output`, with their feature file and split file beside it.

    The cells are never in memory together: what is held grows with genes x conditions, not with genes x cells. The split file
    names `output` as it is given here: a relative path starts from the working directory, as in a hand-written split file.

    Raises: UserError if `output` does not end in `.h5ad` or one of the three files exists; RunError if they cannot be written, and
        then none of them is.
    """
    if output.suffix != ".h5ad":
        raise UserError(f"simulate: the output is {output}; accepted: a file name that ends in .h5ad")
    files = SimulatedFiles.beside(output)
    for path in files.paths:
        if path.exists():
            raise UserError(f"simulate: {path} exists and is not overwritten; delete it or give another name")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
            unfinished = SimulatedFiles.beside(Path(folder) / output.name)
            _write(settings, unfinished, output)
            for path, done in zip(unfinished.paths, files.paths, strict=True):
                path.rename(done)
    except (OSError, RuntimeError) as error:  # on a full disk h5py raises the latter when it closes the file
        raise RunError(f"simulate: {output} could not be written: {error}") from error
    return files


def _write(settings: Simulation, files: SimulatedFiles, final: Path) -> None:
    network = draw_network(settings)
    truth = expected_truth(network)
    genes = settings.genes
    names = [genes[gene] for gene in network.target]
    np.savez(files.features, **dict(zip(names, network.features, strict=True)))
    files.split.write_text(_split_toml(settings, names, final), encoding="utf-8")
    labels = _draw_labels(settings, network)
    with h5py.File(files.h5ad, "w") as store:
        _write_tables(store, settings, names, truth, labels)
        _write_cells(store, settings, network, truth, labels)


def _split_toml(settings: Simulation, names: list[str], h5ad: Path) -> str:
    held_out = [names[i] for i in settings.rng(2).permutation(len(names))[: settings.n_held_out]]
    n_val = max(1, len(held_out) // 3)
    lines = ["[datasets]", f"{DATASET} = {json.dumps(str(h5ad), ensure_ascii=False)}", "", "[training]", f'{DATASET} = "train"']
    for cell_type in settings.cell_types:
        lines += ["", f'[fewshot."{DATASET}.{cell_type}"]']
        lines += [f"val = {json.dumps(sorted(held_out[:n_val]))}", f"test = {json.dumps(sorted(held_out[n_val:]))}"]
    return "\n".join(lines) + "\n"


def _draw_labels(settings: Simulation, network: Network) -> Labels:
    """Cells spread evenly over cell types and perturbations, in random order; unevenly over GEM groups."""
    rng = settings.rng(3)
    n_controls = round(CONTROL_FRACTION * settings.n_cells)
    number = np.arange(settings.n_cells)
    treated = np.maximum(number - n_controls, 0)
    perturbation = np.where(number < n_controls, 0, 1 + treated % settings.n_perturbations)
    cell_type = np.where(number < n_controls, number, treated // settings.n_perturbations) % settings.n_cell_types
    order = rng.permutation(settings.n_cells)
    perturbation, cell_type = perturbation[order], cell_type[order]
    edges = network.gem_group_share.cumsum(1)[:, :-1]
    gem_group = (rng.random(settings.n_cells)[:, None] > edges[perturbation]).sum(1)
    return Labels(cell_type, perturbation, gem_group)


def _write_tables(store: h5py.File, settings: Simulation, names: list[str], truth: Truth, labels: Labels) -> None:
    obs = {
        "perturbation": pd.Categorical.from_codes(labels.perturbation, pd.Index([CONTROL, *names])),
        "cell_type": pd.Categorical.from_codes(labels.cell_type, pd.Index(settings.cell_types)),
        "gem_group": pd.Categorical.from_codes(labels.gem_group, pd.Index(settings.gem_groups)),
    }
    store.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    elements = {
        "obs": pd.DataFrame(obs, index=pd.Index([f"cell_{i}" for i in range(settings.n_cells)])),
        "var": pd.DataFrame({"highly_variable": _highly_variable(truth, settings.n_hvg)}, index=pd.Index(settings.genes)),
        "uns": {
            "log1p": {},
            "simulation": asdict(settings),
            "truth": {
                "cell_types": np.array(settings.cell_types, dtype=object),
                "perturbations": np.array(names, dtype=object),
                "control_mean": truth.control_mean,
                "shift": truth.shift,
                "differentially_expressed": np.abs(truth.shift) >= DE_THRESHOLD,
            },
        },
        **{name: {} for name in ("layers", "obsm", "obsp", "varm", "varp")},
    }
    for name, element in elements.items():
        anndata.io.write_elem(store, name, element)


def _highly_variable(truth: Truth, number: int) -> npt.NDArray[np.bool_]:
    """The `number` genes whose expected log1p varies most between conditions: (G,)."""
    spread = (truth.control_mean[:, None] + truth.shift).std((0, 1))
    chosen = np.zeros(len(spread), bool)
    chosen[np.argsort(-spread)[:number]] = True
    return chosen


def _write_cells(store: h5py.File, settings: Simulation, network: Network, truth: Truth, labels: Labels) -> None:
    matrix = _CsrWriter(store, settings)
    hvg = np.flatnonzero(store["var/highly_variable"][:])
    encoder = _encoder(settings, network)
    for name, width in (("X_hvg", len(hvg)), ("X_state", encoder.shape[1])):
        if width:
            values = store["obsm"].create_dataset(name, (settings.n_cells, width), np.float32)
            values.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    centre = truth.control_mean.mean(0)
    for cells, counts in _blocks(settings, network, labels):
        log1p = np.log1p(counts * (np.float32(TARGET_SUM) / np.maximum(counts.sum(1, keepdims=True), 1)))
        matrix.append(counts, log1p)
        if len(hvg):
            store["obsm/X_hvg"][cells] = log1p[:, hvg]
        if encoder.shape[1]:
            store["obsm/X_state"][cells] = np.tanh((log1p - centre) @ encoder)
        if cells.stop // 100_000 > cells.start // 100_000:
            log.info("%d of %d cells", cells.stop, settings.n_cells)
    matrix.close()


def _blocks(settings: Simulation, network: Network, labels: Labels) -> Iterator[tuple[slice, FloatArray]]:
    """Which cells, and their counts: (cells, G), whole numbers."""
    theta = LEVELS[network.level].astype(np.float32)
    for block, start in enumerate(range(0, settings.n_cells, BLOCK_CELLS)):
        rng = settings.rng(4, block)
        rows = slice(start, min(start + BLOCK_CELLS, settings.n_cells))
        uniforms = rng.random((rows.stop - start, 5))
        states = states_from_uniforms(network, labels[rows], uniforms)
        mean = library_shares(network, labels[rows], states) * states.library[:, None]
        mean *= rng.standard_gamma(np.broadcast_to(theta, mean.shape), dtype=np.float32) / theta
        yield rows, rng.poisson(mean).astype(np.float32)


def _encoder(settings: Simulation, network: Network) -> FloatArray:
    """Weights of `X_state = tanh(centred log1p @ weights)`, the stand-in for a learned embedding.

    A column mixes the directions in which cells differ and as much of a random one, so that genes can be decoded, if not exactly.

    Shape: (G, n_embedding), columns of length 1.
    """
    rng = settings.rng(5)
    contrasts = network.baseline - network.baseline.mean(0)
    known = np.vstack([network.loadings, network.program_loadings, contrasts]).astype(np.float64)
    known /= np.maximum(np.linalg.norm(known, axis=1, keepdims=True), 1e-9)
    signal = known.T @ rng.normal(0, 1, (len(known), settings.n_embedding))
    noise = rng.normal(0, 1, signal.shape)
    weights = _unit_columns(signal) + _unit_columns(noise)
    return _unit_columns(weights).astype(np.float32)


def _unit_columns(weights: Float64Array) -> Float64Array:
    scaled: Float64Array = weights / np.linalg.norm(weights, axis=0, keepdims=True)
    return scaled


class _CsrWriter:
    """Appends rows to `X` and `layers/counts`, which share their indices on disk."""

    def __init__(self, store: h5py.File, settings: Simulation) -> None:
        self._store = store
        self._row_ends = np.zeros(settings.n_cells + 1, np.int64)
        self._n_rows = 0
        for name, dtype in (("X", np.float32), ("layers/counts", np.int32)):
            group = store.create_group(name)
            group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
            group.attrs["shape"] = np.array([settings.n_cells, settings.n_genes])
            group.create_dataset("data", (0,), dtype, maxshape=(None,), chunks=(_CHUNK,))
        indices = store["X"].create_dataset("indices", (0,), np.int32, maxshape=(None,), chunks=(_CHUNK,))
        store["layers/counts/indices"] = indices  # a hard link

    def append(self, counts: FloatArray, log1p: FloatArray) -> None:
        """Rows of both matrices: (rows, G)."""
        rows, columns = np.nonzero(counts)
        start = self._row_ends[self._n_rows]
        ends = slice(self._n_rows + 1, self._n_rows + 1 + len(counts))
        self._row_ends[ends] = start + np.bincount(rows, minlength=len(counts)).cumsum()
        self._n_rows += len(counts)
        values = (("X/data", log1p[rows, columns]), ("layers/counts/data", counts[rows, columns]), ("X/indices", columns))
        for name, block in values:
            self._store[name].resize((start + len(block),))
            self._store[name][start:] = block

    def close(self) -> None:
        """Write where the rows end."""
        self._store["layers/counts/indptr"] = self._store["X"].create_dataset("indptr", data=self._row_ends)
