"""What kind of values a file holds is told by what is the same in every cell, and each remedy that is offered works."""

import gc
import re
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from training.config import CellSetsConfig
from training.data.assemble import open_cells
from training.data.kinds import evidence_of
from training.refusal import Refused

REAL = Path("../shared/data/perturbseq_small.h5ad").resolve()


@pytest.fixture
def counts():
    """300 cells x 60 genes of different depth."""
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.5, 4, 60) * np.exp(rng.normal(size=(300, 60)) * 0.5) * rng.uniform(0.5, 2, (300, 1))
    return rng.poisson(rates).astype(np.float64) + np.eye(300, 60)


def normalised(counts):
    return 1e4 * counts / counts.sum(1, keepdims=True)


KINDS = {
    "log1p": lambda x: np.log1p(normalised(x)),
    "twice": lambda x: np.log1p(np.log1p(normalised(x))),
    "log2": lambda x: np.log2(normalised(x) * 100 + 1),
    "log10": lambda x: np.log10(normalised(x) + 1),
    "unlogged": lambda x: x / x.sum(1, keepdims=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_function_whose_sum_is_one_number_tells_the_kind(counts, kind):
    evidence = evidence_of(KINDS[kind](counts).astype(np.float32))

    assert evidence is not None
    assert evidence.kind == kind


def test_some_of_the_genes_tell_nothing(counts):
    for kind, of in KINDS.items():
        assert evidence_of(of(counts)[:, :20].astype(np.float32)) is None, kind


@pytest.mark.skipif(not REAL.exists(), reason="the real data set lies beside the repository, not in it")
def test_highly_variable_genes_of_real_cells_tell_nothing():
    assert evidence_of(anndata.read_h5ad(REAL)[:1000].X.toarray()) is None


@pytest.fixture
def screen(write_h5ad, tmp_path, monkeypatch, counts):
    """Writes a screen whose X is made of the counts, and opens it."""
    monkeypatch.chdir(tmp_path)
    Path("split.toml").write_text('[datasets]\nd = "cells.h5ad"\n[training]\nd = "train"\n')

    def opened(change=None, **settings):
        if change is not None:
            adata = write_h5ad(tmp_path / "cells.h5ad", n_cells=300, n_genes=60)
            change(adata, counts)
            adata.write_h5ad("made.h5ad")
            Path("made.h5ad").replace("cells.h5ad")
        config = CellSetsConfig(**({"split": "split.toml", "control": "control", "validation": "none"} | settings))
        return open_cells(config, 8, 0)

    return opened


def refusal(screen, change):
    """What the screen is refused with; nothing of it stays open, as after the command has ended."""
    try:
        screen(change)
    except Refused as refused:
        message = str(refused)
    gc.collect()
    return message


def follow(message):
    """Run the line of Python that a message ends with."""
    (line,) = re.findall(r"import anndata.*?\.write_h5ad\('[^']*'\)", message)
    exec(line, {})


def holding(kind):
    def change(adata, counts):
        adata.X = sp.csr_matrix(KINDS[kind](counts).astype(np.float32))

    return change


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "log1p"])
def test_another_kind_is_refused_and_the_remedy_makes_it_right(screen, kind, counts):
    message = refusal(screen, holding(kind))
    assert "in each of 300 cells" in message

    follow(message)

    values = anndata.read_h5ad("cells.h5ad").X
    sums = np.expm1(values.toarray() if sp.issparse(values) else values).sum(1)  # type: ignore[attr-defined]
    assert np.ptp(sums) < 1e-3 * sums.mean()  # log1p of library-normalised counts, by another road
    screen()


def test_log1p_passes(screen):
    assert screen(holding("log1p")).table.n_cells == 300


def test_scaled_values_name_the_raw_ones_and_the_remedy_works(screen):
    def change(adata, counts):
        adata.X = KINDS["log1p"](counts).astype(np.float32)
        adata.raw = adata.copy()
        adata.X = ((adata.X - adata.X.mean(0)) / adata.X.std(0)).astype(np.float32)

    message = refusal(screen, change)
    assert "z-scored" in message
    assert "raw" in message
    follow(message)
    screen()


def test_layers_are_named_where_there_is_no_x_and_the_remedy_works(screen):
    def change(adata, counts):
        adata.layers["logged"] = KINDS["log1p"](counts).astype(np.float32)
        del adata.X

    message = refusal(screen, change)
    assert re.search("there is no X.*logged", message)
    follow(message)
    screen()


def test_a_filter_that_this_hdf5_lacks_is_named(screen):
    screen(holding("log1p"))
    with h5py.File("cells.h5ad", "r+") as file:
        shape, attributes = (300, 60), {"encoding-type": "array", "encoding-version": "0.2.0"}
        del file["X"]
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((300, 60))
        plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
        dataset = h5py.h5d.create(file.id, b"X", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple(shape), plist)
        dataset.write_direct_chunk((0, 0), np.ones(shape, np.float32).tobytes(), 0)
        file["X"].attrs.update(attributes)

    with pytest.raises(Refused, match=r"(?i)zstd.*hdf5plugin"):
        screen()
