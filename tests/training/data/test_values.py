import re
from pathlib import Path
from typing import Literal

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from training.data.h5ad import H5adFile
from training.data.values import Source, check_values, read_values
from training.errors import UserError


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
        with pytest.raises(UserError, match=message):
            read_values(file, source(12), np.array([3, 40, 5, 40]))
        with pytest.raises(UserError, match="in row 40, column 'G7'"):
            check_values(file, source(12), "log1p")

    def test_the_gene_is_named_where_columns_are_chosen(self, path):
        file = write(path, np.array([[0.5, 1.5, -1.0]]))
        chosen = Source(None, np.array([2, 0]), ("third", "first"), are_genes=True)
        with pytest.raises(UserError, match="value -1 in row 0, column 'third'"):
            read_values(file, chosen, np.array([0]))

    def test_minus_zero_is_zero(self, path):
        file = write(path, np.array([[-0.0, 1.5]]))
        assert read_values(file, source(2), np.array([0])).tolist() == [[0, 1.5]]

    def test_an_embedding_may_be_negative_but_not_infinite(self, path):
        embedding = np.array([[-2.0, 1.0], [np.inf, 0.0]])
        file = write(path, np.ones((2, 1)), X_state=embedding)
        state = source(2, "X_state", are_genes=False)
        assert read_values(file, state, np.array([0])).tolist() == [[-2, 1]]
        with pytest.raises(UserError, match=r"obsm/X_state has the value inf in row 1, column 'G0' .*accepted: finite numbers$"):
            check_values(file, state, "log1p")

    def test_hvg_are_genes(self, path):
        file = write(path, np.ones((2, 1)), X_hvg=np.array([[0.5], [-0.5]]))
        with pytest.raises(UserError, match=r"obsm/X_hvg has the value -0\.5 in row 1"):
            check_values(file, source(1, "X_hvg"), "log1p")

    def test_a_double_too_large_for_a_float_is_infinite(self, path):
        with np.errstate(over="ignore"), pytest.raises(UserError, match="X has the value inf"):
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
        with pytest.raises(
            UserError, match=message + r"\d+, for example \d+, \d+, \d+; accepted.*; set data\.values: counts, or make "
        ):
            check_values(file, source(12), "log1p")

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_log1p_is_not_counts(self, write_h5ad, path, dtype):
        write_h5ad(path, dtype=dtype)
        file = H5adFile(path)
        check_values(file, source(12), "log1p")
        message = (
            r"X is not raw counts, which data\.values: counts expects: 0 % .*, for example \d\.\d+, .*; accepted: whole numbers"
        )
        with pytest.raises(UserError, match=message):
            check_values(file, source(12), "counts")

    def test_normalised_counts_without_logarithm_are_neither(self, write_h5ad, path):
        x = write_h5ad(path, x="dense").X
        file = write(path, np.expm1(x.astype(np.float64)))
        message = (
            r"X looks like normalised counts without a logarithm, .* the sum of X over its 12 genes is 10000 in each of 80 cells;"
        )
        with pytest.raises(UserError, match=message):
            check_values(file, source(12), "log1p")
        with pytest.raises(UserError, match="not raw counts"):
            check_values(file, source(12), "counts")

    def test_few_small_counts_are_still_counts(self, path):
        file = write(path, np.array([[0, 1, 0], [0, 0, 2]]))
        check_values(file, source(3), "counts")
        with pytest.raises(UserError, match=r"looks like raw counts.*from 0 to 2, for example 1, 2;"):
            check_values(file, source(3), "log1p")

    def test_log1p_values_may_be_whole_by_chance(self, path):
        check_values(write(path, np.array([[1.0, 2.0, 0.0, 2.5]])), source(4), "log1p")

    def test_one_fraction_among_many_counts_is_shown(self, path):
        x = np.ones((700, 4))
        x[650, 2] = 1.25
        with pytest.raises(UserError, match=r"100 % of .* from 1 to 1\.25, for example 1\.25;"):
            check_values(write(path, x), source(4), "counts")

    @pytest.mark.parametrize("expected", ["log1p", "counts"])
    def test_zeros_alone_say_nothing(self, path, expected):
        check_values(write(path, np.zeros((3, 2))), source(2), expected)

    @pytest.mark.parametrize("expected", ["log1p", "counts"])
    def test_an_embedding_is_neither(self, path, expected):
        file = write(path, np.ones((2, 1)), X_state=np.array([[-20.0, 3.0], [40.0, 2.5]]))
        check_values(file, source(2, "X_state", are_genes=False), expected)

    def test_a_screen_in_the_shape_of_published_ones_is_log1p(self, small_screen):
        check_values(H5adFile(small_screen), source(500), "log1p")
        with pytest.raises(UserError, match="X is not raw counts"):
            check_values(H5adFile(small_screen), source(500), "counts")


KINDS = {
    "log2": (
        r"log2\(x \+ 1\) of normalised counts, .*: the sum of 2\*\*X - 1 over its 12 genes is 1e\+06 in each of 80 cells; .*ln 2:"
    ),
    "log10": (
        r"log10\(x \+ 1\) of normalised counts, .*: the sum of 10\*\*X - 1 over its 12 genes is 10000 in .*; multiply by ln 10:"
    ),
    "twice": r"log1p applied twice, .*: the sum of expm1\(expm1\(X\)\) over its 12 genes is 10000 in .*; undo one logarithm:",
    "fractions": r"normalised counts without a logarithm, .*: the sum of X over its 12 genes is 1 in .*; take the logarithm:",
    "cpm": r"normalised counts without a logarithm, .*: the sum of X over its 12 genes is 1e\+06 in .*; take the logarithm:",
}


def of_kind(kind: str, log1p: np.ndarray) -> np.ndarray:
    """Values of a kind, and what they come to when the remedy was followed."""
    share = np.expm1(log1p.astype(np.float64)) / 1e4
    made = {
        "log2": np.log2(share * 1e6 + 1),
        "log10": np.log10(share * 1e4 + 1),
        "twice": np.log1p(log1p.astype(np.float64)),
        "fractions": share,
        "cpm": share * 1e6,
    }
    return made[kind].astype(np.float32)


def refusal(path: Path, place: Source, expected: Literal["log1p", "counts"] = "log1p") -> str:
    """The message, when the file is closed again: what pytest.raises keeps would hold it open."""
    try:
        check_values(H5adFile(path), place, expected)
    except UserError as error:
        return str(error)
    pytest.fail("was not refused")


class TestOtherKinds:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("x", ["dense", "csr", "csc"])
    def test_the_line_that_is_offered_makes_log1p_values(self, write_h5ad, path, follow, kind, x):
        adata = write_h5ad(path, x="dense")
        log1p = adata.X
        made = of_kind(kind, log1p)
        adata.X = made if x == "dense" else sp.coo_matrix(made).asformat(x)
        adata.write_h5ad(path)
        message = refusal(path, source(12))
        assert re.search(rf"cells\.h5ad: X looks like {KINDS[kind]}", message)
        follow(message)
        check_values(H5adFile(path), source(12), "log1p")
        after = H5adFile(path).read_x(np.arange(80))
        expected = np.log1p(np.expm1(log1p) * 100) if kind in ("log2", "cpm") else log1p  # a million a cell, or 10,000
        np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("kind", KINDS)
    def test_x_hvg_is_judged_by_the_rows_of_x_that_it_is_from_and_both_are_mended(self, write_h5ad, path, follow, kind):
        adata = write_h5ad(path, x="dense", obsm={"X_hvg": 5})
        marked, log1p = adata.var["highly_variable"].to_numpy(), adata.X
        adata.X = of_kind(kind, log1p)
        adata.obsm["X_hvg"] = adata.X[:, marked]
        adata.write_h5ad(path)
        some_columns = Source("X_hvg", np.array([3, 1]), ("a", "b"), are_genes=True)
        message = refusal(path, some_columns)
        assert re.search(rf"cells\.h5ad: obsm/X_hvg looks like {KINDS[kind]}", message)
        follow(message)
        file = H5adFile(path)
        check_values(file, some_columns, "log1p")
        check_values(file, source(12), "log1p")
        np.testing.assert_array_equal(file.read_x(np.arange(80))[:, marked], file.read_obsm("X_hvg", np.arange(80)))

    def test_marked_columns_are_judged_by_whole_rows(self, write_h5ad, path):
        adata = write_h5ad(path, x="dense")
        adata.X = of_kind("twice", adata.X)
        adata.write_h5ad(path)
        with pytest.raises(UserError, match="over its 12 genes"):
            check_values(H5adFile(path), Source(None, np.array([3, 1]), ("a", "b"), are_genes=True), "log1p")

    def test_x_hvg_that_is_not_from_x_is_judged_alone(self, write_h5ad, path):
        adata = write_h5ad(path, x="dense", obsm={"X_hvg": 5})
        adata.X = of_kind("twice", adata.X)
        adata.write_h5ad(path)
        check_values(H5adFile(path), source(5, "X_hvg"), "log1p")

    def test_x_by_column_is_not_turned_to_rows_for_x_hvg(self, write_h5ad, path, cache):
        write_h5ad(path, x="csc", obsm={"X_hvg": 5})
        check_values(H5adFile(path), source(5, "X_hvg"), "log1p")
        assert not cache.exists()

    def test_log1p_of_a_large_total_may_be_above_15(self, write_h5ad, path):
        x = write_h5ad(path, x="dense").X
        file = write(path, np.log1p(np.expm1(x) * 1e5))
        check_values(file, source(12), "log1p")

    @pytest.mark.parametrize(("highest", "base_2"), [(20, True), (40, False)])
    def test_high_values_without_evidence(self, path, follow, highest, base_2):
        x = np.random.default_rng(0).gamma(0.5, 1, (50, 6)).astype(np.float32)
        x[7, 3] = highest
        write(path, x)
        message = refusal(path, source(6))
        assert re.search(r"normalised counts without a logarithm, .*; take the logarithm:", message)
        logged, *base = message.split("; if they are log2(x + 1) instead: ")
        follow(logged)
        check_values(H5adFile(path), source(6), "log1p")
        assert H5adFile(path).read_x(np.array([7]))[0, 3] == pytest.approx(np.log1p(highest))
        assert bool(base) == base_2
        if base_2:
            write(path, x)
            follow(base[0])
            check_values(H5adFile(path), source(6), "log1p")

    def test_raw_counts_are_mended(self, write_h5ad, path, follow):
        write_h5ad(path, values="counts")
        message = refusal(path, source(12))
        assert re.search("raw counts", message)
        follow(message)
        check_values(H5adFile(path), source(12), "log1p")

    @pytest.mark.parametrize(("kind", "said"), [("log1p", "set data.values: log1p$"), ("log2", r"these are log2\(x \+ 1\)")])
    def test_where_counts_are_expected_the_kind_is_said(self, write_h5ad, path, kind, said):
        x = write_h5ad(path, x="dense").X
        file = write(path, x if kind == "log1p" else of_kind(kind, x))
        with pytest.raises(UserError, match=rf"X is not raw counts, .*; accepted: whole numbers; {said}"):
            check_values(file, source(12), "counts")


def scaled(x: np.ndarray) -> np.ndarray:
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32)


class TestScaled:
    """Negative values, and where the right ones are."""

    @pytest.mark.parametrize("more_genes", [False, True])
    def test_raw_with_log1p_values_is_taken(self, write_h5ad, path, follow, more_genes):
        raw = write_h5ad(path, x="csr", n_genes=15 if more_genes else 12)
        adata = raw[:, :12].copy()
        log1p, adata.raw = adata.X.toarray(), raw
        adata.X = scaled(log1p)
        adata.write_h5ad(path)
        message = refusal(path, source(12))
        assert "accepted: finite numbers, 0 or above; X looks z-scored (scanpy's pp.scale): on average its columns" in message
        assert "standard deviation 1; the file also has raw/X (log1p values); to use raw/X: " in message
        follow(message)
        check_values(H5adFile(path), source(12), "log1p")
        np.testing.assert_array_equal(H5adFile(path).read_x(np.arange(80)), log1p)

    def test_raw_that_calls_its_genes_otherwise_becomes_the_file(self, write_h5ad, path, follow):
        adata = write_h5ad(path, x="dense")
        adata.raw = adata.copy()
        adata.X = scaled(adata.X)
        adata.var_names = [f"ENSG{i}" for i in range(12)]
        adata.write_h5ad(path)
        message = refusal(path, source(12))
        assert "adata.raw.to_adata()" in message
        follow(message)
        check_values(H5adFile(path), source(12), "log1p")
        assert H5adFile(path).gene_names(None)[0] == "G0"

    def test_only_what_was_looked_at_is_called_log1p(self, write_h5ad, path, follow):
        adata = write_h5ad(path, x="dense")
        log1p = adata.X
        adata.X = scaled(log1p)
        adata.layers["by column"] = sp.csc_matrix(log1p)
        adata.layers["pearson"] = scaled(log1p)
        adata.layers["twice"] = of_kind("twice", log1p)
        adata.write_h5ad(path)
        assert refusal(path, source(12)).endswith(
            "; the file also has layers/by column (not looked at, stored by column), layers/pearson (negative values), "
            "layers/twice (log1p applied twice), none of which looks like log1p values"
        )
        adata.layers["counts"] = np.rint(np.expm1(log1p)).astype(np.float32)
        adata.write_h5ad(path)
        message = refusal(path, source(12))
        assert "; to use layers/counts: " in message
        follow(message)
        check_values(H5adFile(path), source(12), "log1p")
        adata.write_h5ad(path)
        follow(refusal(path, source(12), "counts"))
        check_values(H5adFile(path), source(12), "counts")

    def test_other_negative_values(self, write_h5ad, path):
        x = write_h5ad(path, x="dense").X
        write(path, x - x.mean(0))
        assert re.search(
            r"X looks centred, scaled or batch-corrected: [\d.]+ % of its values are negative$", refusal(path, source(12))
        )


class TestWithoutX:
    def test_a_layer_with_log1p_values_is_taken(self, write_h5ad, path, follow):
        adata = write_h5ad(path)
        adata.layers["lognorm"], log1p = adata.X, adata.X.toarray()
        adata.X = None
        adata.write_h5ad(path)
        expected = r"there is no X; name an obsm key .*; the file also has layers/lognorm \(log1p values\); to use layers/lognorm: "
        message = refusal(path, source(12))
        assert re.search(expected, message)
        follow(message)
        check_values(H5adFile(path), source(12), "log1p")
        np.testing.assert_array_equal(H5adFile(path).read_x(np.arange(80)), log1p)

    def test_nothing_else_is_there(self, path):
        anndata.AnnData(obs=pd.DataFrame(index=["a", "b"])).write_h5ad(path)
        with pytest.raises(UserError, match=r"there is no X; name an obsm key in data\.embed_key, or add X$"):
            check_values(H5adFile(path), source(1), "log1p")


def test_a_large_file_is_sampled_from_end_to_end(path, monkeypatch):
    monkeypatch.setattr("training.data.values.SAMPLED_ROWS", 5)  # rows 0, 249, 499, 749, 999
    x = np.full((1000, 2), 0.5)
    x[1] = np.nan
    file = write(path, x)
    check_values(file, source(2), "log1p")
    x[1], x[499] = 0.5, np.nan
    with pytest.raises(UserError, match="value nan in row 499"):
        check_values(write(path.with_name("other.h5ad"), x), source(2), "log1p")
