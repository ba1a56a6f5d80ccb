import gc
import os
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal

from training.data.h5ad import H5adFile
from training.errors import UserError

ROWS = np.array([7, 3, 3, 4, 5, 79, 0, 7, 78])


def dense(matrix: Any) -> np.ndarray:
    return np.asarray(matrix if isinstance(matrix, np.ndarray) else matrix.toarray(), dtype=np.float32)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "cells.h5ad"


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize(
    ("x", "dtype", "values"),
    [("dense", "float16", "log1p")]  # scipy has no sparse float16
    + [
        (x, dtype, "counts" if dtype == "int32" else "log1p")
        for x in ("csr", "csc", "dense")
        for dtype in ("float32", "float64", "int32")
    ],
)
def test_rows_of_x_come_in_the_order_asked_for_with_repeats(write_h5ad, path, x, dtype, values, compression):
    expected = dense(write_h5ad(path, x=x, dtype=dtype, values=values, compression=compression).X)
    read = H5adFile(path).read_x(ROWS)
    assert read.dtype == np.float32
    assert read.flags.c_contiguous
    assert_array_equal(read, expected[ROWS])


@pytest.mark.parametrize("x", ["csr", "csc", "dense"])
def test_columns_come_in_the_order_asked_for(write_h5ad, path, x):
    expected = dense(write_h5ad(path, x=x).X)
    columns = np.array([5, 0, 11])
    assert_array_equal(H5adFile(path).read_x(ROWS, columns), expected[np.ix_(ROWS, columns)])


@pytest.mark.parametrize("x", ["csr", "dense"])
def test_no_rows_and_all_rows(write_h5ad, path, x):
    expected = dense(write_h5ad(path, x=x).X)
    file = H5adFile(path)
    assert file.read_x(np.array([], dtype=np.int64)).shape == (0, 12)
    assert_array_equal(file.read_x(np.arange(80)), expected)


def test_a_row_without_values_and_repeated_entries_are_read_as_scipy_reads_them(path):
    x = sp.csr_matrix((np.array([1.0, 2.0, 4.0]), np.array([1, 1, 0]), np.array([0, 0, 2, 2, 3])), shape=(4, 2))
    anndata.AnnData(x).write_h5ad(path)
    assert_array_equal(H5adFile(path).read_x(np.array([3, 0, 1])), [[4, 0], [0, 0], [0, 3]])


@pytest.mark.parametrize("sparse", [False, True])
def test_obsm_is_read_dense_and_sparse(write_h5ad, path, sparse):
    adata = write_h5ad(path, obsm={"X_hvg": 5, "X_state": 7}, sparse_obsm=sparse)
    file = H5adFile(path)
    for key, width in (("X_hvg", 5), ("X_state", 7)):
        assert file.obsm_width(key) == width
        assert_array_equal(file.read_obsm(key, ROWS), dense(adata.obsm[key])[ROWS])
        assert_array_equal(file.read_obsm(key, ROWS, np.array([4, 1])), dense(adata.obsm[key])[ROWS][:, [4, 1]])
    assert file.has_obsm("X_hvg")
    assert not file.has_obsm("X_pca")


def test_a_screen_in_the_shape_of_published_ones(small_screen):
    adata, file = anndata.read_h5ad(small_screen), H5adFile(small_screen)
    rows = np.random.default_rng(0).integers(0, adata.n_obs, 300)
    assert (file.n_obs, file.n_vars) == adata.shape
    assert file.n_vars == 500
    assert_array_equal(file.read_x(rows), dense(adata.X)[rows])
    assert file.gene_names(None) == tuple(adata.var_names)
    labels = file.labels("perturbation")
    assert [labels.names[code] for code in labels.codes[:200]] == list(adata.obs["perturbation"].iloc[:200])


class TestLabels:
    @pytest.mark.parametrize("categorical", [True, False])
    def test_categorical_and_plain_columns_say_the_same(self, write_h5ad, path, categorical):
        adata = write_h5ad(path, categorical=categorical, gem_groups=("2", "10"))
        for column, names in (("perturbation", ("P1", "P2", "P3", "control")), ("gem_group", ("10", "2"))):
            labels = H5adFile(path).labels(column)
            assert labels.names == names
            assert labels.codes.dtype == np.int32
            assert [labels.names[code] for code in labels.codes] == list(adata.obs[column])

    def test_only_labels_that_occur_are_named(self, write_h5ad, path):
        adata = write_h5ad(path)
        adata.obs["cell_type"] = pd.Categorical(adata.obs["cell_type"].astype(str), categories=["Z", "B", "A"])
        adata.write_h5ad(path)
        assert H5adFile(path).labels("cell_type").names == ("A", "B")

    @pytest.mark.parametrize("values", [np.arange(80) % 3, pd.Categorical(np.arange(80) % 3)])
    def test_integers_become_words(self, write_h5ad, path, values):
        adata = write_h5ad(path)
        adata.obs["plate"] = values
        adata.write_h5ad(path)
        labels = H5adFile(path).labels("plate")
        assert labels.names == ("0", "1", "2")
        assert_array_equal(labels.codes, np.arange(80) % 3)

    def test_a_misspelt_column_is_refused_with_the_nearest(self, write_h5ad, path):
        write_h5ad(path)
        with pytest.raises(
            UserError, match=r"cells\.h5ad: obs has no column 'celltype'; did you mean cell_type\?; it has .*perturbation"
        ):
            H5adFile(path).labels("celltype")

    @pytest.mark.parametrize("plain", [False, True])
    def test_missing_values_are_refused_with_their_rows(self, write_h5ad, path, plain):
        adata = write_h5ad(path)
        values = adata.obs["cell_type"].astype(str).astype("string" if plain else object)
        values.iloc[[5, 9]] = pd.NA if plain else np.nan
        adata.obs["cell_type"] = values if plain else pd.Categorical(values)
        with anndata.settings.override(allow_write_nullable_strings=True):
            adata.write_h5ad(path)
        with pytest.raises(UserError, match=r"obs column 'cell_type' has no value in 2 of 80 cells \(rows 5, 9\)") as refusal:
            H5adFile(path).labels("cell_type")
        remedy = str(refusal.value).partition("or drop these: ")[2]
        del refusal
        gc.collect()  # closes the file, as the end of the process does
        with anndata.settings.override(allow_write_nullable_strings=True):
            exec(remedy, {"anndata": anndata})
        assert len(H5adFile(path).labels("cell_type").codes) == 78

    def test_a_column_of_fractions_is_refused(self, write_h5ad, path):
        adata = write_h5ad(path)
        adata.obs["dose"] = 0.5
        adata.write_h5ad(path)
        with pytest.raises(
            UserError, match=r"obs column 'dose' holds numbers \(float64, for example 0\.5\), not labels; accepted: text"
        ):
            H5adFile(path).labels("dose")

    @pytest.mark.filterwarnings("ignore:Element .* without encoding metadata")  # anndata says so, rightly
    def test_a_file_of_anndata_0_7_keeps_categories_apart(self, write_h5ad, path):
        adata = write_h5ad(path)
        with h5py.File(path, "r+") as file:
            obs = file["obs"]
            for column in ("cell_type", "perturbation"):
                categories, codes = obs[f"{column}/categories"][()], obs[f"{column}/codes"][()]
                del obs[column]
                obs[f"__categories/{column}"] = categories
                obs[column] = codes
                obs[column].attrs["categories"] = obs[f"__categories/{column}"].ref
            obs.attrs["encoding-version"] = "0.1.0"
        labels = H5adFile(path).labels("perturbation")
        assert [labels.names[code] for code in labels.codes] == list(adata.obs["perturbation"])


def refusal(path: Path, column: str | None) -> str:
    """The message about gene names, when the file is closed again."""
    try:
        H5adFile(path).gene_names(column)
    except UserError as error:
        return str(error)
    pytest.fail("was not refused")


class TestGeneNames:
    def test_the_index_of_var_whatever_its_name(self, write_h5ad, path):
        write_h5ad(path, genes=("B", "A", "C"), var_index_name="gene_symbol")
        assert H5adFile(path).gene_names(None) == ("B", "A", "C")
        assert H5adFile(path).gene_names("gene_symbol") == ("B", "A", "C")

    @pytest.mark.parametrize("categorical", [True, False])
    def test_a_column_of_var(self, write_h5ad, path, categorical):
        adata = write_h5ad(path, genes=("E1", "E2"))
        adata.var["gene_name"] = pd.Categorical(["KLF1", "GATA1"]) if categorical else ["KLF1", "GATA1"]
        adata.write_h5ad(path)
        assert H5adFile(path).gene_names("gene_name") == ("KLF1", "GATA1")
        with pytest.raises(UserError, match=r"var has no column 'genename'; did you mean gene_name\?"):
            H5adFile(path).gene_names("genename")

    def test_names_that_occur_twice_are_refused(self, write_h5ad, path):
        adata = write_h5ad(path, genes=("E1", "E2", "E3", "E4", "E5"))
        adata.var["symbol"] = ["A", "B", "A", "C", "B"]
        adata.write_h5ad(path)
        with pytest.raises(UserError, match=r"var column 'symbol' has gene names that occur more than once: A, B; "):
            H5adFile(path).gene_names("symbol")

    @pytest.mark.filterwarnings("ignore:Variable names are not unique")  # anndata says so, rightly
    def test_names_of_a_column_are_made_unique_or_the_index_taken(self, write_h5ad, path, follow):
        adata = write_h5ad(path, genes=("E1", "E2", "E3"))
        adata.var["symbol"] = pd.Categorical(["A", "B", "A"])
        adata.write_h5ad(path)
        message = refusal(path, "symbol")
        assert "; set data.gene_name_column: null (the index of var, whose names are unique) or make them unique: " in message
        assert H5adFile(path).gene_names(None) == ("E1", "E2", "E3")
        follow(message)
        assert H5adFile(path).gene_names("symbol") == ("A", "B", "A-1")
        adata.var_names = ["E1", "E1", "E3"]
        adata.write_h5ad(path)
        message = refusal(path, "symbol")
        assert "data.gene_name_column" not in message
        follow(message)
        assert H5adFile(path).gene_names("symbol") == ("A", "B", "A-1")

    @pytest.mark.filterwarnings("ignore:Variable names are not unique")  # anndata says so, rightly
    def test_names_of_the_index_are_made_unique(self, write_h5ad, path, follow):
        write_h5ad(path, genes=("A", "B", "A"))
        follow(refusal(path, None))
        assert H5adFile(path).gene_names(None) == ("A", "B", "A-1")

    def test_a_missing_name_is_refused(self, write_h5ad, path):
        adata = write_h5ad(path, genes=("E1", "E2", "E3"))
        adata.var["symbol"] = pd.Categorical(["A", None, "B"])
        adata.write_h5ad(path)
        with pytest.raises(UserError, match="var column 'symbol' has no gene name in rows 1"):
            H5adFile(path).gene_names("symbol")


class TestHighlyVariable:
    def test_names_follow_the_marks(self, write_h5ad, path):
        adata = write_h5ad(path, obsm={"X_hvg": 4})
        marked = np.flatnonzero(adata.var["highly_variable"])
        file = H5adFile(path)
        assert_array_equal(file.highly_variable(), marked)
        assert file.hvg_names(4, None) == tuple(adata.var_names[marked])
        assert_array_equal(file.read_x(ROWS, marked), file.read_obsm("X_hvg", ROWS))

    def test_names_listed_in_uns_serve_where_the_marks_do_not_fit(self, write_h5ad, path):
        adata = write_h5ad(path, obsm={"X_hvg": 4})
        adata.uns["hvg_names"] = np.array(["G1", "other"])
        adata.write_h5ad(path)
        assert H5adFile(path).hvg_names(2, None) == ("G1", "other")
        with pytest.raises(
            UserError, match=r"the 3 columns of obsm/X_hvg .* var/highly_variable marks 4 and uns/hvg_names has 2; mark 3"
        ):
            H5adFile(path).hvg_names(3, None)

    def test_without_any_list_it_is_refused(self, write_h5ad, path):
        write_h5ad(path)
        with pytest.raises(UserError, match="there is neither var/highly_variable nor uns/hvg_names"):
            H5adFile(path).hvg_names(3, None)
        with pytest.raises(UserError, match="var has no column 'highly_variable'"):
            H5adFile(path).highly_variable()


class TestBadFiles:
    def test_missing(self, write_h5ad, tmp_path):
        write_h5ad(tmp_path / "k562_cells.h5ad")
        with pytest.raises(UserError, match=r"k562-cell\.h5ad: there is no such file; did you mean k562_cells\.h5ad\?"):
            H5adFile(tmp_path / "k562-cell.h5ad")
        with pytest.raises(UserError, match=r"there is no such file; nor is there a folder .*nowhere"):
            H5adFile(tmp_path / "nowhere" / "k562.h5ad")
        with pytest.raises(UserError, match="this is a folder"):
            H5adFile(tmp_path)

    def test_truncated(self, write_h5ad, path):
        write_h5ad(path)
        os.truncate(path, path.stat().st_size // 2)
        with pytest.raises(UserError, match=r"cells\.h5ad: the file is cut short at \d+ bytes; copy it again"):
            H5adFile(path)

    def test_no_hdf5(self, path):
        path.write_text("<html>404</html>")
        with pytest.raises(UserError, match=r"this is no HDF5 file, so no \.h5ad \(16 bytes"):
            H5adFile(path)

    def test_hdf5_that_is_no_h5ad(self, path):
        with h5py.File(path, "w") as file:
            file["matrix"] = [1]
        with pytest.raises(UserError, match=r"not \.h5ad .*: no table 'obs' \(the file has matrix\)"):
            H5adFile(path)

    def test_no_cells(self, path):
        anndata.AnnData(np.zeros((0, 2), np.float32)).write_h5ad(path)
        with pytest.raises(UserError, match="the file has no cells"):
            H5adFile(path)

    def test_damage_inside_a_compressed_matrix(self, write_h5ad, path):
        write_h5ad(path, compression="gzip")
        with h5py.File(path) as file:
            chunk = file["X/data"].id.get_chunk_info(0)
        with path.open("r+b") as stream:
            stream.seek(chunk.byte_offset)
            stream.write(b"\xff" * 64)
        with pytest.raises(UserError, match=r"cells\.h5ad: X cannot be read; the file is damaged"):
            H5adFile(path).read_x(ROWS)

    def test_column_indices_beyond_the_matrix(self, write_h5ad, path):
        write_h5ad(path)
        with h5py.File(path, "r+") as file:
            file["X/indices"][3] = 12
        with pytest.raises(UserError, match=r"X is damaged \(column indices 0 to 12, but 12 columns\)"):
            H5adFile(path).read_x(np.arange(80))

    @pytest.mark.parametrize("x", ["csr", "csc"])
    @pytest.mark.parametrize(("part", "at", "value"), [("indptr", 3, 10**6), ("indptr", -1, 7), ("data", None, None)])
    def test_arrays_that_do_not_fit_each_other(self, write_h5ad, path, x, part, at, value):
        write_h5ad(path, x=x)
        with h5py.File(path, "r+") as file:
            if at is None:
                file[f"X/{part}"].resize((5,))
            else:
                file[f"X/{part}"][at] = value
        with pytest.raises(UserError, match="X is damaged: its indptr does not fit its shape, data and indices"):
            H5adFile(path).read_x(np.arange(80))

    def test_an_unknown_embedding_is_refused_with_the_nearest(self, write_h5ad, path):
        write_h5ad(path, obsm={"X_state": 3})
        with pytest.raises(
            UserError, match=r"obsm has no key 'X_States'; did you mean X_state\?; it has X_state \(outside of obsm there are X\)"
        ):
            H5adFile(path).read_obsm("X_States", ROWS)

    def test_an_embedding_that_is_a_table_is_refused(self, write_h5ad, path):
        adata = write_h5ad(path)
        adata.obsm["X_pca"] = pd.DataFrame({"PC1": 1.0}, index=adata.obs_names)
        adata.write_h5ad(path)
        with pytest.raises(UserError, match="obsm/X_pca is stored as dataframe; accepted: dense, csr_matrix, csc_matrix"):
            H5adFile(path).obsm_width("X_pca")

    def test_no_x(self, path):
        anndata.AnnData(obs=pd.DataFrame(index=["a", "b"]), obsm={"X_state": np.ones((2, 3))}).write_h5ad(path)
        assert_array_equal(H5adFile(path).read_obsm("X_state", np.array([1])), [[1, 1, 1]])
        with pytest.raises(UserError, match="there is no X"):
            H5adFile(path).read_x(np.array([0]))

    def test_x_of_another_shape_or_of_words(self, write_h5ad, path):
        write_h5ad(path, x="dense")
        with h5py.File(path, "r+") as file:
            del file["X"]
            file["X"] = np.zeros((80, 11))
        with pytest.raises(UserError, match=r"X has shape \(80, 11\), but there are 80 cells and 12 genes"):
            H5adFile(path).read_x(ROWS)
        with h5py.File(path, "r+") as file:
            del file["X"]
            file["X"] = np.full((80, 12), b"a")
        with pytest.raises(UserError, match=r"X holds \|S1; accepted"):
            H5adFile(path).read_x(ROWS)
