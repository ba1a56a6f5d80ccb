"""`training/data/kinds.py`: what is the same in every cell, and where nothing is."""

from collections.abc import Callable

import anndata
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from training.data.kinds import evidence_of, looks_like, rows_to_look_at

FORWARD: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "log1p": np.log1p,
    "log2": lambda x: np.log2(x + 1),
    "log10": lambda x: np.log10(x + 1),
    "twice": lambda x: np.log1p(np.log1p(x)),
    "unlogged": lambda x: x,
}


def counts(n_cells=300, n_genes=2000, depth=3000, varies=0.5, seed=0):
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.4, 1, n_genes)
    depths = depth * np.exp(rng.normal(0, varies, n_cells))
    return rng.poisson(rate / rate.sum() * depths[:, None]).astype(np.float64)


def normalised(found, total):
    return total * found / found.sum(1, keepdims=True)


@pytest.mark.parametrize("kind", FORWARD)
@pytest.mark.parametrize("total", [1, 1e4, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_was_done_to_normalised_counts_is_seen(kind, total, dtype):
    evidence = evidence_of(FORWARD[kind](normalised(counts(), total)).astype(dtype).astype(np.float32))
    assert evidence is not None
    assert evidence.kind == kind
    assert evidence.total == pytest.approx(total, rel=1e-3)
    assert (evidence.n_cells, evidence.n_genes) == (300, 2000)


@pytest.mark.parametrize("kind", FORWARD)
@pytest.mark.parametrize("loss", ["half floats", "rare genes left out", "a few cells that are otherwise"])
def test_it_is_seen_though_the_sums_are_not_quite_the_same(kind, loss):
    found = counts()
    values = normalised(found, 1e4)
    if loss == "rare genes left out":
        values = values[:, (found > 0).mean(0) > 0.1]
    if loss == "a few cells that are otherwise":
        values[:10] *= 3
    values = FORWARD[kind](values).astype(np.float16 if loss == "half floats" else np.float32)
    evidence = evidence_of(values.astype(np.float32))
    assert evidence is not None
    assert evidence.kind == kind


def test_empty_cells_are_left_out():
    values = np.log1p(normalised(counts(), 1e4)).astype(np.float32)
    values[::3] = 0
    evidence = evidence_of(values)
    assert evidence is not None
    assert (evidence.kind, evidence.n_cells) == ("log1p", 200)


def highly_variable(values):
    return values[:, np.argsort(-values.var(0))[:500]]


@pytest.mark.parametrize("varies", [0.0, 0.1, 0.5])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda c: highly_variable(np.log1p(normalised(c, 1e4))), id="highly variable genes"),
        pytest.param(lambda c: np.log1p(c), id="counts of cells of all depths"),
        pytest.param(lambda c: np.log1p(c / (c.sum(1, keepdims=True) ** 0.8)), id="size factors"),
        pytest.param(lambda c: np.log1p(normalised(c, np.repeat([[1e4], [5e3], [2e4]], 100, 0))), id="several target sums"),
        pytest.param(lambda c: np.tile(np.log1p(c[:1]), (300, 1)), id="every cell the same"),
        pytest.param(lambda c: np.sort(np.tile(np.log1p(c[:1]), (300, 1)))[:, ::-1], id="quantile normalised"),
        pytest.param(lambda c: np.log1p(normalised(c, 1e4))[:19], id="too few cells"),
    ],
)
def test_where_nothing_or_everything_is_the_same_nothing_is_said(make, varies):
    assert evidence_of(make(counts(depth=20_000, varies=varies)).astype(np.float32)) is None


def test_a_screen_of_highly_variable_genes_has_the_others_left_out(small_screen):
    values = anndata.read_h5ad(small_screen).X.toarray().astype(np.float32)
    for rows in (np.arange(len(values)), rows_to_look_at(len(values))):
        assert evidence_of(values[rows]) is None
    assert looks_like(values) == "log1p values"


def test_in_words():
    found = counts()
    assert looks_like(found.astype(np.float32)) == "raw counts"
    assert looks_like(np.log1p(found).astype(np.float32)) == "log1p values"
    assert looks_like((found * 1.5).astype(np.float32)) == "values without a logarithm"
    assert looks_like(FORWARD["twice"](normalised(found, 1e4)).astype(np.float32)) == "log1p applied twice"
    assert looks_like((found - 1).astype(np.float32)) == "negative values"
    assert looks_like(np.zeros((3, 2), np.float32)) == "zeros"


def test_cells_are_looked_at_from_end_to_end():
    assert_array_equal(rows_to_look_at(7), np.arange(7))
    rows = rows_to_look_at(1_000_000)
    assert (rows[0], rows[-1], len(rows)) == (0, 999_999, 1024)
    assert len(rows_to_look_at(1100)) <= 1024
