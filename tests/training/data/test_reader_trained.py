"""`training/data/reader.py` with the columns of a trained model: by name, whatever else a file has."""

import logging

import anndata
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from training.config import CellSetsConfig
from training.data.h5ad import H5adFile
from training.data.reader import Genes, H5adReader, open_reader
from training.errors import UserError

CELLS = np.array([79, 3, 3, 40, 0])


def open_all(files: list[H5adFile], trained: Genes | None = None, **choices) -> tuple[H5adReader, Genes]:
    """A reader of all cells of the files, in their order."""
    config = CellSetsConfig(split="s.toml", control="control", **choices)
    file_of_cell = np.repeat(np.arange(len(files)), [file.n_obs for file in files])
    rows = np.concatenate([np.arange(file.n_obs) for file in files])
    return open_reader(config, files, file_of_cell, rows, trained)


@pytest.fixture
def one(write_h5ad, tmp_path) -> tuple[anndata.AnnData, H5adFile]:
    return write_h5ad(tmp_path / "one.h5ad", obsm={"X_hvg": 5, "X_state": 7}), H5adFile(tmp_path / "one.h5ad")


class TestTrainedModel:
    """Columns are those of the model, by name, whatever else a file has."""

    NAMES = ("G5", "G1", "G8")

    @pytest.mark.parametrize("gene_alignment", ["refuse", "by_name"])
    def test_genes_are_taken_by_name_from_every_file(self, write_h5ad, tmp_path, caplog, gene_alignment):
        caplog.set_level(logging.INFO)
        genes = [[f"G{i}" for i in range(12)], ["G8", "other", "G5", "G1"], ["G1", "G5", "G8"]]
        adatas = [write_h5ad(tmp_path / f"{i}.h5ad", genes=names, seed=i) for i, names in enumerate(genes)]
        files = [H5adFile(tmp_path / f"{i}.h5ad") for i in range(3)]
        caplog.clear()
        reader, found = open_all(files, Genes(3, self.NAMES, None), gene_alignment=gene_alignment)
        assert found == Genes(3, self.NAMES, None)
        expected = np.concatenate([adata[:, list(self.NAMES)].X.toarray() for adata in adatas])
        assert_array_equal(reader.read("input", np.arange(240)), expected)
        assert caplog.messages == [
            f"{files[0].path}: 9 genes of X that the model was not trained on are left out",
            f"{files[1].path}: 1 genes of X that the model was not trained on are left out",
        ]

    def test_missing_genes_are_named(self, one):
        trained = Genes(3, ("G5", "TP53", "MYC"), None)
        message = (
            r"one\.h5ad: 2 of the 3 genes that the model was trained on are not in X: TP53, MYC; accepted: all of them, in any"
        )
        with pytest.raises(UserError, match=message):
            open_all([one[1]], trained)

    def test_genes_that_occur_twice_are_refused(self, one):
        adata, file = one
        adata.var["symbol"] = ["G5", "G1", "G8", *["again"] * 9]
        path = file.path.with_name("twice.h5ad")
        adata.write_h5ad(path)
        with pytest.raises(UserError, match="more than once: again"):
            open_all([H5adFile(path)], Genes(3, self.NAMES, None), gene_name_column="symbol")

    @pytest.mark.parametrize("output_space", ["gene", "all"])
    def test_genes_of_the_decoder_and_the_width_of_an_embedding(self, one, output_space):
        adata, file = one
        names = tuple(adata.var_names[adata.var["highly_variable"]][[3, 0]]) if output_space == "gene" else self.NAMES
        trained = Genes(7, tuple(f"X_state_{i}" for i in range(7)), names)
        reader, found = open_all([file], trained, embed_key="X_state", output_space=output_space)
        assert found == trained
        assert_array_equal(reader.read("genes", CELLS), adata[:, list(names)].X.toarray()[CELLS])
        assert_array_equal(reader.read("input", CELLS), adata.obsm["X_state"][CELLS])
        wider = Genes(8, tuple(f"X_state_{i}" for i in range(8)), names)
        with pytest.raises(UserError, match=r"obsm/X_state has 7 columns \(accepted: 8, as the model was trained on\)"):
            open_all([file], wider, embed_key="X_state", output_space=output_space)

    @pytest.mark.parametrize("marked", [True, False])
    @pytest.mark.parametrize("embed_key", ["X_hvg", "X_state"])
    def test_without_x_hvg_the_genes_of_the_model_come_from_x(self, one, marked, embed_key):
        adata, file = one
        path = file.path.with_name("without.h5ad")
        del adata.obsm["X_hvg"]
        if not marked:
            del adata.var["highly_variable"]
        adata.write_h5ad(path)
        trained = (
            Genes(3, self.NAMES, None) if embed_key == "X_hvg" else Genes(7, tuple(f"X_state_{i}" for i in range(7)), self.NAMES)
        )
        reader, found = open_all([H5adFile(path)], trained, embed_key=embed_key, output_space="gene")
        assert found == trained
        values = reader.read("input" if embed_key == "X_hvg" else "genes", CELLS)
        assert_array_equal(values, adata[:, list(self.NAMES)].X.toarray()[CELLS])

    def test_highly_variable_genes_of_the_model_come_from_x_where_x_hvg_has_others(self, one, caplog):
        caplog.set_level(logging.INFO)
        adata, file = one
        names = tuple(adata.var_names[~adata.var["highly_variable"]][:2])
        reader, found = open_all([file], Genes(2, names, None), embed_key="X_hvg", output_space="gene")
        assert found.input_names == names
        assert_array_equal(reader.read("input", CELLS), adata[:, list(names)].X.toarray()[CELLS])
        assert caplog.messages == [f"{file.path}: obsm/X_hvg lacks 2 genes of the model; its columns are taken from X"]
        with pytest.raises(UserError, match=r"1 of the 1 genes .* are not in obsm/X_hvg: TP53"):
            open_all([file], Genes(1, ("TP53",), None), embed_key="X_hvg", output_space="gene")
