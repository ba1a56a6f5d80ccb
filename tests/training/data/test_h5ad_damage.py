"""`training/data/h5ad.py`: files whose bytes were overwritten or that lack parts."""

import gzip
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import anndata
import h5py
import numpy as np
import pytest

from training.data.h5ad import H5adFile
from training.data.h5ad_errors import why_not_read
from training.errors import UserError

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
        UserError, match=DAMAGED if part != "column" or frame == "obs" else r"cells\.h5ad: .*X_hvg have no gene names"
    ):
        read_all(path)


@pytest.mark.parametrize("order", [None, "perturbation", b"perturbation", np.array([b"perturbation", b"cell_type"])])
def test_the_order_of_columns_may_be_missing_or_a_single_word(write_h5ad, path, order):
    """As R's writers leave it."""
    adata = write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file["obs"].attrs["column-order"]
        if order is not None:
            file["obs"].attrs["column-order"] = order
        file["var"].attrs["_index"] = np.array([b"_index"])
    read = H5adFile(path)
    labels = read.labels("perturbation")
    assert [labels.names[code] for code in labels.codes] == list(adata.obs["perturbation"])
    assert read.gene_names(None) == tuple(adata.var_names)
    if order is None or isinstance(order, np.ndarray):
        assert read.labels("cell_type").names == ("A", "B")
    else:
        with pytest.raises(UserError, match=r"obs has no column 'cell_type'; it has perturbation$"):
            read.labels("cell_type")


@pytest.mark.parametrize(
    ("where", "attribute", "message"),
    [
        ("obs", "_index", "'obs' lacks the attribute '_index' "),
        ("X", "shape", "X lacks the attribute 'shape', which anndata writes; write the file again from its source with anndata$"),
        ("obs/cell_type", "ordered", "obs/cell_type lacks the attribute 'ordered'"),
    ],
)
def test_a_missing_attribute_is_named(write_h5ad, path, where, attribute, message):
    write_h5ad(path, obsm={"X_hvg": 3})
    with h5py.File(path, "r+") as file:
        del file[where].attrs[attribute]
    with pytest.raises(UserError, match=rf"cells\.h5ad: .*{message}"):
        read_all(path)


@pytest.mark.parametrize(("number", "name"), [(32015, "zstd"), (32001, "blosc"), (40000, "unknown")])
@pytest.mark.parametrize("place", ["X", "obs/cell_type/codes"])
def test_a_filter_that_is_not_here_is_named(write_h5ad, path, number, name, place):
    write_h5ad(path, x="dense", obsm={"X_hvg": 3})
    with h5py.File(path, "r+") as file:
        values, attributes = file[place][()], dict(file[place].attrs)
        del file[place]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk(values.shape)
        properties.set_filter(number, h5py.h5z.FLAG_OPTIONAL, (3,))
        kind, space = h5py.h5t.py_create(values.dtype), h5py.h5s.create_simple(values.shape)
        h5py.h5d.create(file.id, place.encode(), kind, space, properties).write_direct_chunk((0,) * values.ndim, values.tobytes())
        file[place].attrs.update(attributes)
    what = place.removesuffix("/codes")
    message = rf"cells\.h5ad: {what} is compressed with the filter {name} \(id {number}\), which this HDF5 lacks; .* hdf5plugin"
    with pytest.raises(UserError, match=message):
        read_all(path)


def test_the_line_that_is_offered_for_a_filter(write_h5ad, path, follow, monkeypatch):
    """gzip in the part of a filter that is missing; where it is not, hdf5plugin is an import without effect."""
    expected = write_h5ad(path, x="dense", compression="gzip").X
    with monkeypatch.context() as patch:
        patch.setattr(h5py.h5z, "filter_avail", lambda number: False)
        message = why_not_read(path, "X", h5py.File(path), OSError("Can't synchronously read data"))
    assert "X is compressed with the filter gzip (id 1)" in message
    monkeypatch.setitem(sys.modules, "hdf5plugin", ModuleType("hdf5plugin"))
    follow(message)
    with h5py.File(path) as file:
        assert file["X"].compression is None
    np.testing.assert_array_equal(H5adFile(path).read_x(np.arange(80)), expected)


def test_a_file_that_another_process_writes(write_h5ad, path):
    write_h5ad(path)
    holds = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print(flush=True); sys.stdin.read(); file.close()"
    with subprocess.Popen(
        [sys.executable, "-c", holds, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UserError, match=r"cells\.h5ad: another process holds the file open for writing .*; close it there, "):
            H5adFile(path)
        other.communicate("")
    assert H5adFile(path).n_obs == 80


def test_a_column_that_is_shorter_than_its_frame(write_h5ad, path):
    write_h5ad(path, categorical=False, obsm={"X_hvg": 3})
    with h5py.File(path, "r+") as file:
        del file["obs/cell_type"]
        file["obs"].create_dataset("cell_type", data=["A"] * 79)
        file["obs/cell_type"].attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
    with pytest.raises(UserError, match=r"obs/cell_type has shape \(79,\), but obs has 80 rows; write the file again"):
        read_all(path)


@pytest.mark.parametrize("part", ["obsm", "uns", "var"])
def test_a_group_that_is_a_number(write_h5ad, path, part):
    write_h5ad(path, obsm={} if part == "uns" else {"X_hvg": 3})
    with h5py.File(path, "r+") as file:
        del file[part]
        file[part] = 1
    message = "no table 'var'" if part == "var" else f"{part} cannot be read; the file is damaged"
    with pytest.raises(UserError, match=rf"cells\.h5ad: .*{message}"):
        read_all(path)


def test_an_encoding_that_anndata_does_not_know(write_h5ad, path):
    write_h5ad(path, obsm={"X_hvg": 3})
    with h5py.File(path, "r+") as file:
        file["obs/cell_type"].attrs["encoding-type"] = "categorica1"
    with pytest.raises(
        UserError, match=r"obs/cell_type is stored as 'categorica1', version '0\.2\.0', which anndata \S+ cannot read"
    ):
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
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert all("cells.h5ad: " in message for message in refused)


def test_an_archive_is_to_be_unpacked(write_h5ad, path):
    write_h5ad(path)
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(UserError, match=r"cells\.h5ad: this is a gzip file; gunzip it first \(\d+ bytes"):
        H5adFile(path)


def test_links_that_lead_nowhere(path):
    path.symlink_to("gone.h5ad")
    with pytest.raises(UserError, match=r"cells\.h5ad: is a link to .*/gone\.h5ad, which does not exist$"):
        H5adFile(path)
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(UserError, match=r"cells\.h5ad: is a link to .*/cells\.h5ad, which leads back to itself$"):
        H5adFile(path)


def test_no_columns(path):
    anndata.AnnData(np.zeros((4, 0), np.float32), obsm={"X_state": np.zeros((4, 0), np.float32)}).write_h5ad(path)
    with pytest.raises(UserError, match=r"cells\.h5ad: X has no columns \(shape \(4, 0\)\); accepted: at least one"):
        H5adFile(path).read_x(np.arange(4))
    with pytest.raises(UserError, match=r"obsm/X_state has no columns \(shape \(4, 0\)\)"):
        H5adFile(path).obsm_width("X_state")


def test_an_embedding_of_three_dimensions(write_h5ad, path):
    write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["obsm/X_state"] = np.zeros((80, 2, 3), np.float32)
    message = r"obsm/X_state has shape \(80, 2, 3\), but there are 80 cells \(accepted: a matrix with a row for each\)$"
    with pytest.raises(UserError, match=message):
        H5adFile(path).obsm_width("X_state")
