from pathlib import Path

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from training.data.h5ad import H5adFile
from training.data.values import Source, check_values, read_values
from training.refusal import Refused

SMALL = Path(__file__).parents[4] / "shared" / "data" / "perturbseq_small.h5ad"


def source(n: int, obsm_key: str | None = None, are_genes: bool = True) -> Source:
    return Source(obsm_key, None, tuple(f"G{i}" for i in range(n)), are_genes)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "cells.h5ad"


def write(path: Path, x: np.ndarray, **obsm: np.ndarray) -> H5adFile:
    anndata.AnnData(x, obsm=obsm).write_h5ad(path)
    return H5adFile(path)


class TestImpossibleValues:
    @pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (-0.5, "-0.5")])
    @pytest.mark.parametrize("x", ["csr", "csc", "dense"])
    def test_genes_are_finite_and_not_negative(self, write_h5ad, path, x, value, shown):
        matrix = write_h5ad(path, x="dense").X
        matrix[40, 7] = value
        adata = anndata.AnnData(matrix if x == "dense" else sp.coo_matrix(matrix).asformat(x))
        adata.write_h5ad(path)
        file = H5adFile(path)
        assert read_values(file, source(12), np.array([41, 39])).shape == (2, 12)
        message = (
            rf"cells\.h5ad: X has the value {shown} in row 40, column 'G7' \(2 such values .*\); accepted: finite numbers, 0 or"
        )
        with pytest.raises(Refused, match=message):
            read_values(file, source(12), np.array([3, 40, 5, 40]))
        with pytest.raises(Refused, match="in row 40, column 'G7'"):
            check_values(file, source(12), "log1p")

    def test_the_gene_is_named_where_columns_are_chosen(self, path):
        file = write(path, np.array([[0.5, 1.5, -1.0]]))
        chosen = Source(None, np.array([2, 0]), ("third", "first"), are_genes=True)
        with pytest.raises(Refused, match="value -1 in row 0, column 'third'"):
            read_values(file, chosen, np.array([0]))

    def test_minus_zero_is_zero(self, path):
        file = write(path, np.array([[-0.0, 1.5]]))
        assert read_values(file, source(2), np.array([0])).tolist() == [[0, 1.5]]

    def test_an_embedding_may_be_negative_but_not_infinite(self, path):
        embedding = np.array([[-2.0, 1.0], [np.inf, 0.0]])
        file = write(path, np.ones((2, 1)), X_state=embedding)
        state = source(2, "X_state", are_genes=False)
        assert read_values(file, state, np.array([0])).tolist() == [[-2, 1]]
        with pytest.raises(Refused, match=r"obsm/X_state has the value inf in row 1, column 'G0' .*accepted: finite numbers$"):
            check_values(file, state, "log1p")

    def test_hvg_are_genes(self, path):
        file = write(path, np.ones((2, 1)), X_hvg=np.array([[0.5], [-0.5]]))
        with pytest.raises(Refused, match=r"obsm/X_hvg has the value -0\.5 in row 1"):
            check_values(file, source(1, "X_hvg"), "log1p")

    def test_a_double_too_large_for_a_float_is_infinite(self, path):
        with np.errstate(over="ignore"), pytest.raises(Refused, match="X has the value inf"):
            read_values(write(path, np.array([[1e300]])), source(1), np.array([0]))


class TestCountsOrLog1p:
    @pytest.mark.parametrize("dtype", ["float32", "int32", "int64", "uint16", "float64"])
    def test_counts_are_not_log1p(self, write_h5ad, path, dtype):
        write_h5ad(path, values="counts", dtype=dtype)
        file = H5adFile(path)
        check_values(file, source(12), "counts")
        message = (
            r"X looks like raw counts, and data\.values: log1p .* 100 % of the values that are not 0 are whole numbers, from 0 to "
        )
        with pytest.raises(Refused, match=message + r"\d+, for example \d+, \d+, \d+; accepted.*; .*or set data\.values: counts"):
            check_values(file, source(12), "log1p")

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_log1p_is_not_counts(self, write_h5ad, path, dtype):
        write_h5ad(path, dtype=dtype)
        file = H5adFile(path)
        check_values(file, source(12), "log1p")
        message = (
            r"X is not raw counts, which data\.values: counts expects: 0 % .*, for example \d\.\d+, .*; accepted: whole numbers"
        )
        with pytest.raises(Refused, match=message):
            check_values(file, source(12), "counts")

    def test_normalised_counts_without_logarithm_are_neither(self, write_h5ad, path):
        x = write_h5ad(path, x="dense").X
        file = write(path, np.expm1(x.astype(np.float64)))
        message = (
            r"X looks like normalised counts without a logarithm, .* the sum of X over its 12 genes is 10000 in each of 80 cells;"
        )
        with pytest.raises(Refused, match=message):
            check_values(file, source(12), "log1p")
        with pytest.raises(Refused, match="not raw counts"):
            check_values(file, source(12), "counts")

    def test_few_small_counts_are_still_counts(self, path):
        file = write(path, np.array([[0, 1, 0], [0, 0, 2]]))
        check_values(file, source(3), "counts")
        with pytest.raises(Refused, match=r"looks like raw counts.*from 0 to 2, for example 1, 2;"):
            check_values(file, source(3), "log1p")

    def test_log1p_values_may_be_whole_by_chance(self, path):
        check_values(write(path, np.array([[1.0, 2.0, 0.0, 2.5]])), source(4), "log1p")

    def test_one_fraction_among_many_counts_is_shown(self, path):
        x = np.ones((700, 4))
        x[650, 2] = 1.25
        with pytest.raises(Refused, match=r"100 % of .* from 1 to 1\.25, for example 1\.25;"):
            check_values(write(path, x), source(4), "counts")

    @pytest.mark.parametrize("expected", ["log1p", "counts"])
    def test_zeros_alone_say_nothing(self, path, expected):
        check_values(write(path, np.zeros((3, 2))), source(2), expected)

    @pytest.mark.parametrize("expected", ["log1p", "counts"])
    def test_an_embedding_is_neither(self, path, expected):
        file = write(path, np.ones((2, 1)), X_state=np.array([[-20.0, 3.0], [40.0, 2.5]]))
        check_values(file, source(2, "X_state", are_genes=False), expected)

    def test_the_small_data_set_is_log1p(self):
        if not SMALL.is_file():
            pytest.skip("the small data set is not beside the repository")
        check_values(H5adFile(SMALL), source(500), "log1p")
        with pytest.raises(Refused, match="X is not raw counts"):
            check_values(H5adFile(SMALL), source(500), "counts")


def test_a_large_file_is_sampled_from_end_to_end(path, monkeypatch):
    monkeypatch.setattr("training.data.values.SAMPLED_ROWS", 5)  # rows 0, 249, 499, 749, 999
    x = np.full((1000, 2), 0.5)
    x[1] = np.nan
    file = write(path, x)
    check_values(file, source(2), "log1p")
    x[1], x[499] = 0.5, np.nan
    with pytest.raises(Refused, match="value nan in row 499"):
        check_values(write(path.with_name("other.h5ad"), x), source(2), "log1p")
