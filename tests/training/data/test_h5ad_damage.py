"""`training/data/h5ad.py`: files whose bytes were overwritten or that lack parts."""

import gzip
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest

from training.data.h5ad import H5adFile
from training.refusal import Refused

DAMAGED = r"^.*cells\.h5ad: .* cannot be read; the file is damaged, copy or write it again \(\w+: .*\)$"


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "cells.h5ad"


def read_all(path):
    file = H5adFile(path)
    file.labels("perturbation")
    file.labels("cell_type")
    file.gene_names(None)
    file.hvg_names(3, None)
    file.read_x(np.arange(5))
    file.read_obsm("X_hvg", np.arange(5))
    file.fingerprint()


@pytest.mark.parametrize("frame", ["obs", "var"])
@pytest.mark.parametrize("part", ["_index", "column"])
def test_a_frame_that_lacks_a_part(write_h5ad, path, frame, part):
    write_h5ad(path, obsm={"X_hvg": 3})
    with h5py.File(path, "r+") as file:
        del file[frame][part if part == "_index" else {"obs": "perturbation", "var": "highly_variable"}[frame]]
    with pytest.raises(
        Refused, match=DAMAGED if part != "column" or frame == "obs" else r"cells\.h5ad: .*X_hvg have no gene names"
    ):
        read_all(path)


@pytest.mark.parametrize("order", [None, "perturbation"])
def test_columns_are_found_without_a_list_of_them(write_h5ad, path, order):
    """Some R writers leave `column-order` out, or write a text where a frame has one column."""
    write_h5ad(path, obsm={"X_hvg": 3})
    with h5py.File(path, "r+") as file:
        if order is None:
            del file["obs"].attrs["column-order"]
        else:
            del file["obs/cell_type"]
            file["obs"].attrs["column-order"] = order

    assert H5adFile(path).labels("perturbation").names == ("P1", "P2", "P3", "control")


def test_a_column_that_is_shorter_than_its_frame(write_h5ad, path):
    write_h5ad(path, categorical=False, obsm={"X_hvg": 3})
    with h5py.File(path, "r+") as file:
        del file["obs/cell_type"]
        file["obs"].create_dataset("cell_type", data=["A"] * 79)
        file["obs/cell_type"].attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
    with pytest.raises(Refused, match=r"obs/cell_type has shape \(79,\), but obs has 80 rows; write the file again"):
        read_all(path)


@pytest.mark.parametrize("part", ["obsm", "uns", "var"])
def test_a_group_that_is_a_number(write_h5ad, path, part):
    write_h5ad(path, obsm={} if part == "uns" else {"X_hvg": 3})
    with h5py.File(path, "r+") as file:
        del file[part]
        file[part] = 1
    message = "no table 'var'" if part == "var" else f"{part} cannot be read; the file is damaged"
    with pytest.raises(Refused, match=rf"cells\.h5ad: .*{message}"):
        read_all(path)


def test_an_encoding_that_anndata_does_not_know(write_h5ad, path):
    write_h5ad(path, obsm={"X_hvg": 3})
    with h5py.File(path, "r+") as file:
        file["obs/cell_type"].attrs["encoding-type"] = "categorica1"
    with pytest.raises(Refused, match=r"obs/cell_type is stored as 'categorica1'.* which anndata .* cannot read"):
        read_all(path)


@pytest.mark.filterwarnings("ignore")  # of values that anndata finds odd
def test_overwritten_bytes_are_refused_or_read(write_h5ad, path):
    write_h5ad(path, n_cells=16, obsm={"X_hvg": 3})
    read_all(path)
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), list[str]()
    for _ in range(150):
        at = int(rng.integers(0, len(whole) - 64))
        path.write_bytes(whole[:at] + rng.bytes(64) + whole[at + 64 :])
        try:
            read_all(path)
        except Refused as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert all("cells.h5ad: " in message for message in refused)


def test_an_archive_is_to_be_unpacked(write_h5ad, path):
    write_h5ad(path)
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(Refused, match=r"cells\.h5ad: this is a gzip file; gunzip it first \(\d+ bytes"):
        H5adFile(path)


def test_links_that_lead_nowhere(path):
    path.symlink_to("gone.h5ad")
    with pytest.raises(Refused, match=r"cells\.h5ad: is a link to .*/gone\.h5ad, which does not exist$"):
        H5adFile(path)
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(Refused, match=r"cells\.h5ad: is a link to .*/cells\.h5ad, which leads back to itself$"):
        H5adFile(path)


def test_no_columns(path):
    anndata.AnnData(np.zeros((4, 0), np.float32), obsm={"X_state": np.zeros((4, 0), np.float32)}).write_h5ad(path)
    with pytest.raises(Refused, match=r"cells\.h5ad: X has no columns \(shape \(4, 0\)\); accepted: at least one"):
        H5adFile(path).read_x(np.arange(4))
    with pytest.raises(Refused, match=r"obsm/X_state has no columns \(shape \(4, 0\)\)"):
        H5adFile(path).obsm_width("X_state")


def test_an_embedding_of_three_dimensions(write_h5ad, path):
    write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["obsm/X_state"] = np.zeros((80, 2, 3), np.float32)
    message = r"obsm/X_state has shape \(80, 2, 3\), but there are 80 cells \(accepted: a matrix with a row for each\)$"
    with pytest.raises(Refused, match=message):
        H5adFile(path).obsm_width("X_state")
