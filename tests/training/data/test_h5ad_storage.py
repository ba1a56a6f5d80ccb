"""`training/data/h5ad.py`: processes, fingerprints and layouts."""

import multiprocessing
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from training.data.h5ad import H5adFile

ROWS = np.array([7, 3, 3, 4, 5, 79, 0, 7, 78])


def dense(matrix: Any) -> np.ndarray:
    return np.asarray(matrix if isinstance(matrix, np.ndarray) else matrix.toarray(), dtype=np.float32)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "cells.h5ad"


class TestProcesses:
    def test_a_pickled_file_opens_its_own_handle(self, write_h5ad, path):
        expected = dense(write_h5ad(path).X)
        file = H5adFile(path)
        file.read_x(ROWS)
        copy = pickle.loads(pickle.dumps(file))
        assert (copy.path, copy.n_obs, copy.n_vars, copy._handle) == (path, 80, 12, None)
        assert_array_equal(copy.read_x(ROWS), expected[ROWS])

    def test_forked_workers_and_their_parent_read_at_the_same_time(self, write_h5ad, path):
        expected = dense(write_h5ad(path, n_cells=2000, compression="gzip").X)
        file = H5adFile(path)
        file.read_x(ROWS)  # opens the parent's handle
        context = multiprocessing.get_context("fork")
        workers = [context.Process(target=_read_often, args=(file, seed, expected)) for seed in (1, 2)]
        for worker in workers:
            worker.start()
        _read_often(file, 0, expected)
        for worker in workers:
            worker.join(30)
        assert [worker.exitcode for worker in workers] == [0, 0]

    def test_a_forked_worker_does_not_use_its_parents_handle(self, write_h5ad, path):
        write_h5ad(path)
        file = H5adFile(path)
        file.read_x(ROWS)
        before = file._handle
        worker = multiprocessing.get_context("fork").Process(target=_read_with_own_handle, args=(file,))
        worker.start()
        worker.join(30)
        assert worker.exitcode == 0
        assert file._handle is before is not None
        assert before.id.valid


def _read_often(file, seed, expected):
    rng = np.random.default_rng(seed)
    for _ in range(100):
        rows = rng.integers(0, len(expected), 50)
        assert_array_equal(file.read_x(rows), expected[rows])


def _read_with_own_handle(file):
    parents = file._handle
    file.read_x(ROWS)
    assert file._pid == os.getpid()
    assert file._handle is not parents
    assert not parents.id.valid


class TestFingerprint:
    def test_a_copy_has_the_same(self, write_h5ad, path, tmp_path):
        write_h5ad(path, obsm={"X_state": 3})
        copy = shutil.copy(path, tmp_path / "other.h5ad")
        os.utime(copy, (0, 0))
        assert H5adFile(copy).fingerprint() == H5adFile(path).fingerprint()

    @pytest.mark.parametrize("part", ["X", "obsm", "genes"])
    def test_one_change_shows(self, write_h5ad, path, part):
        adata = write_h5ad(path, obsm={"X_state": 3})
        before = H5adFile(path).fingerprint()
        if part == "X":
            adata.X.data[17] += 1
        elif part == "obsm":
            adata.obsm["X_state"][5, 1] += 1
        else:
            adata.var_names = [*adata.var_names[:-1], "other"]
        adata.write_h5ad(path)
        assert H5adFile(path).fingerprint() != before

    def test_a_large_array_is_sampled_over_its_whole_length(self, write_h5ad, path, monkeypatch):
        monkeypatch.setattr("training.data.fingerprint._BLOCK_BYTES", 200)
        write_h5ad(path, n_cells=5000, x="dense")
        before = H5adFile(path).fingerprint()
        for row in (0, 4999):
            with h5py.File(path, "r+") as opened:
                opened["X"][row] += 1
            after = H5adFile(path).fingerprint()
            assert after != before
            before = after


class TestLayout:
    def test_many_chunks_per_row_are_reported_once(self, write_h5ad, path, caplog):
        expected = write_h5ad(path, obsm={"X_state": 70}).obsm["X_state"]
        with h5py.File(path, "r+") as file:
            del file["obsm/X_state"]
            file["obsm"].create_dataset("X_state", data=expected, chunks=(40, 7))
        file = H5adFile(path)
        assert_array_equal(file.read_obsm("X_state", ROWS), expected[ROWS])
        pickle.loads(pickle.dumps(file)).read_obsm("X_state", ROWS)
        (record,) = caplog.records
        assert "obsm/X_state is slow to read by row: a row of 280 bytes touches 10 chunks of 1120 bytes (not" in record.getMessage()

    def test_large_compressed_chunks_are_reported(self, write_h5ad, path, caplog):
        write_h5ad(path, n_cells=4000, compression="gzip")
        with h5py.File(path, "r+") as file:
            data = file["X/data"][:]
            del file["X/data"]
            file["X"].create_dataset("data", data=data, chunks=(10_000,), compression="gzip")
        H5adFile(path).read_x(ROWS)
        (record,) = caplog.records
        assert "X/data is slow" in record.getMessage()
        assert "touches 1 chunks of 40000 bytes (compressed with gzip)" in record.getMessage()

    def test_large_plain_chunks_are_reported(self, write_h5ad, path, caplog):
        write_h5ad(path)
        with h5py.File(path, "r+") as file:
            file["obsm"].create_dataset("X_state", shape=(80, 5000), dtype="f4", chunks=(80, 5000))
        H5adFile(path).read_obsm("X_state", ROWS)
        (record,) = caplog.records
        assert "touches 1 chunks of 1600000 bytes (not compressed)" in record.getMessage()

    def test_an_ordinary_file_is_not(self, write_h5ad, path, caplog):
        write_h5ad(path, obsm={"X_state": 70})
        file = H5adFile(path)
        file.read_x(ROWS)
        file.read_obsm("X_state", ROWS)
        assert caplog.records == []
