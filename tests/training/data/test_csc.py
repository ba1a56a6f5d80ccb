import logging
import shutil
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal

from training.data import csc
from training.data.h5ad import H5adFile
from training.errors import RunError, UserError

ROWS = np.array([7, 3, 3, 4, 5, 79, 0, 7, 78])


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "cells.h5ad"


@pytest.mark.parametrize("block", [7, 50, 10**6])
def test_the_transposed_copy_is_that_of_scipy(write_h5ad, path, cache, block):
    x = write_h5ad(path, x="csc", values="counts", dtype="int32").X.tocsr()
    with h5py.File(path) as file:
        data, indices, indptr = csc.row_major(file["X"], "X", f"block-{block}", block)
    assert (str(data.dtype), str(indices.dtype)) == ("float32", "int32")
    for found, expected in ((data, x.data), (indices, x.indices), (indptr, x.indptr)):
        assert_array_equal(found, expected)


def test_it_is_written_once_and_found_by_a_copy(write_h5ad, path, cache, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    expected = write_h5ad(path, x="csc").X.toarray()
    H5adFile(path).read_x(ROWS)
    assert [record.getMessage() for record in caplog.records if "is CSC" in record.getMessage()] == [
        f"{path}: X is CSC: its rows are written once to {next(cache.iterdir())} (0.0 GB)"
    ]
    caplog.clear()
    copy = shutil.copy(path, tmp_path / "copy.h5ad")
    assert_array_equal(H5adFile(Path(copy)).read_x(ROWS), expected[ROWS])
    assert len(list(cache.iterdir())) == 1
    assert caplog.records == []


def test_a_copy_that_was_broken_off_is_not_used(write_h5ad, path, cache, monkeypatch):
    expected = write_h5ad(path, x="csc").X.toarray()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sp.csc_matrix, "tocsr", full)
        with pytest.raises(RunError, match=r"X: its rows do not fit into .*incubator any more"):
            H5adFile(path).read_x(ROWS)
    assert list(cache.iterdir()) == []
    assert_array_equal(H5adFile(path).read_x(ROWS), expected[ROWS])


def test_no_room_is_refused_before_anything_is_written(write_h5ad, path, cache, monkeypatch):
    write_h5ad(path, x="csc")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(
        UserError, match=r"X is CSC .* needs 0\.0 GB in .*incubator; .* set XDG_CACHE_HOME .* store the matrix as CSR"
    ):
        H5adFile(path).read_x(ROWS)
    assert list(cache.iterdir()) == []


def test_a_cache_folder_that_cannot_be_made_is_refused(write_h5ad, path, tmp_path, monkeypatch):
    write_h5ad(path, x="csc")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(
        UserError, match=r"X is CSC .* needs a folder .*file/incubator, which cannot be made .*; set XDG_CACHE_HOME"
    ):
        H5adFile(path).read_x(ROWS)


def test_unsorted_rows_are_refused(path):
    x = sp.csc_matrix((np.ones(3), np.array([2, 0, 1]), np.array([0, 2, 3])), shape=(3, 2))
    anndata.AnnData(x).write_h5ad(path)
    with pytest.raises(UserError, match="CSC with unsorted rows in a column; store it as CSR"):
        H5adFile(path).read_x(np.array([0]))
