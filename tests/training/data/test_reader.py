import logging
import pickle

import anndata
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from torch.utils.data import DataLoader, Dataset

from training.cells import CellReader, FloatArray
from training.config import CellSetsConfig
from training.data.h5ad import H5adFile
from training.data.reader import Genes, H5adReader, open_reader
from training.errors import UserError

OBSM = {"X_hvg": 5, "X_state": 7}


def config(**choices) -> CellSetsConfig:
    return CellSetsConfig(split="s.toml", control="control", **choices)


def open_all(files: list[H5adFile], **choices) -> tuple[H5adReader, Genes]:
    """A reader of all cells of the files, in their order."""
    file_of_cell = np.repeat(np.arange(len(files)), [file.n_obs for file in files])
    return open_reader(config(**choices), files, file_of_cell, np.concatenate([np.arange(file.n_obs) for file in files]))


@pytest.fixture
def one(write_h5ad, tmp_path) -> tuple[anndata.AnnData, H5adFile]:
    return write_h5ad(tmp_path / "one.h5ad", obsm=OBSM), H5adFile(tmp_path / "one.h5ad")


CELLS = np.array([79, 3, 3, 40, 0])


class TestModes:
    @pytest.mark.parametrize(
        ("embed_key", "output_space", "inputs", "decoder"),
        [
            (None, "all", "X", None),
            (None, "gene", "X", None),
            ("X_hvg", "gene", "X_hvg", None),
            ("X_hvg", "embedding", "X_hvg", None),
            ("X_hvg", "all", "X_hvg", "X"),
            ("X_state", "gene", "X_state", "X_hvg"),
            ("X_state", "all", "X_state", "X"),
            ("X_state", "embedding", "X_state", None),
        ],
    )
    def test_what_goes_in_and_comes_out(self, one, embed_key, output_space, inputs, decoder):
        adata, file = one
        hvg = tuple(adata.var_names[adata.var["highly_variable"]])
        expected = {
            "X": (adata.X.toarray(), tuple(adata.var_names)),
            "X_hvg": (adata.obsm["X_hvg"], hvg),
            "X_state": (adata.obsm["X_state"], tuple(f"X_state_{i}" for i in range(7))),
        }
        reader, genes = open_all([file], embed_key=embed_key, output_space=output_space)
        values, names = expected[inputs]
        assert (genes.input_dim, genes.input_names) == (len(names), names)
        assert_array_equal(reader.read("input", CELLS), values[CELLS])
        if decoder is None:
            assert genes.decoder_names is None
            with pytest.raises(AssertionError, match="no gene decoder"):
                reader.read("genes", CELLS)
        else:
            values, names = expected[decoder]
            assert genes.decoder_names == names
            assert_array_equal(reader.read("genes", CELLS), values[CELLS])

    def test_without_x_hvg_the_marked_columns_of_x_serve(self, one):
        adata, file = one
        marked = adata.X.toarray()[:, adata.var["highly_variable"]]
        del adata.obsm["X_hvg"]
        path = file.path.with_name("marked.h5ad")
        adata.write_h5ad(path)
        reader, genes = open_all([H5adFile(path)], embed_key="X_state", output_space="gene")
        assert genes.decoder_names == tuple(adata.var_names[adata.var["highly_variable"]])
        assert_array_equal(reader.read("genes", CELLS), marked[CELLS])

    def test_names_come_from_the_column_asked_for(self, one):
        adata, file = one
        adata.var["symbol"] = [f"S{i}" for i in range(12)]
        path = file.path.with_name("named.h5ad")
        adata.write_h5ad(path)
        file = H5adFile(path)
        assert open_all([file], gene_name_column="symbol")[1].input_names == tuple(adata.var["symbol"])
        hvg = open_all([file], gene_name_column="symbol", embed_key="X_hvg", output_space="gene")[1].input_names
        assert hvg == tuple(adata.var["symbol"][adata.var["highly_variable"]])

    def test_a_misspelt_embedding_is_refused(self, one):
        with pytest.raises(UserError, match=r"obsm has no key 'X_stat'; did you mean X_state\?"):
            open_all([one[1]], embed_key="X_stat")

    def test_values_are_checked_in_all_representations(self, one, write_h5ad, tmp_path):
        with pytest.raises(UserError, match="X is not raw counts"):
            open_all([one[1]], values="counts")
        with pytest.raises(UserError, match="obsm/X_hvg is not raw counts"):
            open_all([one[1]], values="counts", embed_key="X_state", output_space="gene")
        write_h5ad(tmp_path / "counts.h5ad", values="counts", obsm=OBSM)
        with pytest.raises(UserError, match=r"counts\.h5ad: X looks like raw counts"):
            open_all([one[1], H5adFile(tmp_path / "counts.h5ad")], embed_key="X_state")


class TestSeveralFiles:
    def test_cells_come_from_their_files_in_the_order_asked_for(self, write_h5ad, tmp_path):
        x = [write_h5ad(tmp_path / f"{i}.h5ad", x=kind, seed=i).X for i, kind in enumerate(("csr", "dense", "csr"))]
        files = [H5adFile(tmp_path / f"{i}.h5ad") for i in range(3)]
        rng = np.random.default_rng(0)
        file_of_cell, row_of_cell = rng.integers(0, 3, 500), rng.integers(0, 80, 500)
        reader, _ = open_reader(config(), files, file_of_cell, row_of_cell)
        cells = rng.integers(0, 500, 64)
        read = reader.read("input", cells)
        assert read.dtype == np.float32
        for values, cell in zip(read, cells, strict=True):
            matrix = x[file_of_cell[cell]]
            expected = matrix if isinstance(matrix, np.ndarray) else matrix.toarray()
            assert_array_equal(values, expected[row_of_cell[cell]])
        assert reader.read("input", cells[:0]).shape == (0, 12)

    def test_a_bad_value_is_refused_with_file_row_and_gene(self, write_h5ad, tmp_path, monkeypatch):
        monkeypatch.setattr("training.data.values.SAMPLED_ROWS", 2)  # the first and the last
        write_h5ad(tmp_path / "good.h5ad")
        bad = write_h5ad(tmp_path / "bad.h5ad", x="dense")
        bad.X[4, 2] = np.nan
        bad.write_h5ad(tmp_path / "bad.h5ad")
        reader, _ = open_all([H5adFile(tmp_path / "good.h5ad"), H5adFile(tmp_path / "bad.h5ad")])
        assert np.isfinite(reader.read("input", np.array([4, 83, 85]))).all()
        with pytest.raises(UserError, match=r"bad\.h5ad: X has the value nan in row 4, column 'G2'"):
            reader.read("input", np.array([4, 84]))


class TestAlignment:
    GENES = ("A", "B", "C", "D", "E", "F")
    OTHER = ("E", "D", "Z", "A", "F", "B")

    @pytest.fixture
    def two(self, write_h5ad, tmp_path) -> tuple[list[anndata.AnnData], list[H5adFile]]:
        paths = [tmp_path / "first.h5ad", tmp_path / "second.h5ad"]
        adatas = [
            write_h5ad(path, genes=names, obsm={"X_state": 3}) for path, names in zip(paths, (self.GENES, self.OTHER), strict=True)
        ]
        return adatas, [H5adFile(path) for path in paths]

    def test_different_genes_are_refused(self, two):
        message = (
            r"first\.h5ad and .*second\.h5ad differ in the genes of X: column 0 is 'A' in the first and 'E' in the second, "
            r"6 columns differ; 1 genes are only in the first, 1 only in the second; set data\.gene_alignment: by_name"
        )
        with pytest.raises(UserError, match=message):
            open_all(two[1])

    def test_another_order_is_refused_and_called_so(self, write_h5ad, tmp_path):
        for name, genes in (("a", "ABCD"), ("b", "ABCD"), ("c", "ABDC")):
            write_h5ad(tmp_path / f"{name}.h5ad", genes=tuple(genes))
        with pytest.raises(
            UserError, match=r"a\.h5ad and .*c\.h5ad .* column 2 is 'C' .* 'D' .*, 2 columns differ; the order differs;"
        ):
            open_all([H5adFile(tmp_path / f"{name}.h5ad") for name in "abc"])

    def test_genes_missing_at_the_end_are_refused(self, write_h5ad, tmp_path):
        write_h5ad(tmp_path / "a.h5ad", genes=("A", "B", "C"))
        write_h5ad(tmp_path / "b.h5ad", genes=("A", "B"))
        with pytest.raises(
            UserError, match="column 2 is 'C' in the first and missing in the second, 1 columns differ; 1 genes are only"
        ):
            open_all([H5adFile(tmp_path / "a.h5ad"), H5adFile(tmp_path / "b.h5ad")])

    def test_by_name_keeps_the_shared_genes_in_the_first_files_order(self, two, caplog):
        caplog.set_level(logging.INFO)
        adatas, files = two
        reader, genes = open_all(files, gene_alignment="by_name")
        shared = ["A", "B", "D", "E", "F"]
        assert genes.input_names == tuple(shared)
        assert_array_equal(reader.read("input", np.arange(160)), np.concatenate([adata[:, shared].X.toarray() for adata in adatas]))
        assert caplog.messages == [f"{file.path}: 5 of 6 genes of X are in all files, 1 left out" for file in files]

    def test_by_name_aligns_the_decoder_too(self, two):
        adatas, files = two
        reader, genes = open_all(files, gene_alignment="by_name", embed_key="X_state")
        assert genes.input_dim == 3
        assert genes.decoder_names == ("A", "B", "D", "E", "F")
        assert_array_equal(
            reader.read("genes", np.array([80, 0])), [a[0, list(genes.decoder_names)].X.toarray()[0] for a in adatas[::-1]]
        )

    def test_by_name_aligns_x_hvg(self, write_h5ad, tmp_path):
        adatas = [write_h5ad(tmp_path / f"{seed}.h5ad", obsm={"X_hvg": 8}, seed=seed) for seed in (0, 1)]
        files = [H5adFile(tmp_path / f"{seed}.h5ad") for seed in (0, 1)]
        hvg = [adata.var_names[adata.var["highly_variable"]] for adata in adatas]
        shared = [name for name in hvg[0] if name in hvg[1]]
        assert 0 < len(shared) < 8
        with pytest.raises(UserError, match="differ in the genes of obsm/X_hvg"):
            open_all(files, embed_key="X_hvg", output_space="gene")
        reader, genes = open_all(files, embed_key="X_hvg", output_space="gene", gene_alignment="by_name")
        assert genes.input_names == tuple(shared)
        assert_array_equal(reader.read("input", np.arange(160)), np.concatenate([adata[:, shared].X.toarray() for adata in adatas]))

    def test_by_name_aligns_marked_columns(self, write_h5ad, tmp_path):
        adatas = [write_h5ad(tmp_path / f"{seed}.h5ad", obsm=OBSM | {"X_hvg": 8}, seed=seed) for seed in (0, 1)]
        for seed, adata in enumerate(adatas):
            del adata.obsm["X_hvg"]
            adata.write_h5ad(tmp_path / f"{seed}.h5ad")
        files = [H5adFile(tmp_path / f"{seed}.h5ad") for seed in (0, 1)]
        reader, genes = open_all(files, embed_key="X_state", output_space="gene", gene_alignment="by_name")
        assert genes.decoder_names is not None
        assert 0 < len(genes.decoder_names) < 8
        expected = np.concatenate([adata[:, list(genes.decoder_names)].X.toarray() for adata in adatas])
        assert_array_equal(reader.read("genes", np.arange(160)), expected)

    def test_no_shared_gene_is_refused(self, write_h5ad, tmp_path):
        write_h5ad(tmp_path / "a.h5ad", genes=("KLF1", "BAK1"))
        write_h5ad(tmp_path / "b.h5ad", genes=("ENSG1", "ENSG2"))
        files = [H5adFile(tmp_path / "a.h5ad"), H5adFile(tmp_path / "b.h5ad")]
        with pytest.raises(
            UserError,
            match=r"no gene of X in common: the first has KLF1, BAK1, the second ENSG1, ENSG2 in the index of var, and data\.gene",
        ):
            open_all(files, gene_alignment="by_name")

    @pytest.mark.parametrize("gene_alignment", ["refuse", "by_name"])
    def test_embeddings_of_different_width_are_refused(self, write_h5ad, tmp_path, gene_alignment):
        for width in (3, 4):
            write_h5ad(tmp_path / f"{width}.h5ad", obsm={"X_state": width})
        files = [H5adFile(tmp_path / f"{width}.h5ad") for width in (3, 4)]
        with pytest.raises(UserError, match=r"obsm/X_state has 3 columns in .*3\.h5ad and 4 in .*4\.h5ad; .* same width"):
            open_all(files, embed_key="X_state", output_space="embedding", gene_alignment=gene_alignment)


class TestNoHvg:
    """An embedding whose genes are to be the highly variable ones, of which the file has neither values nor marks."""

    def test_both_ways_out(self, write_h5ad, tmp_path, follow):
        path = tmp_path / "cells.h5ad"
        adata = write_h5ad(path, obsm={"X_state": 3})
        try:
            open_all([H5adFile(path)], embed_key="X_state", output_space="gene")
        except UserError as error:
            message = str(error)
        assert (
            "data.output_space: gene predicts highly variable genes beside data.embed_key: X_state, and the file has neither "
            in message
        )
        assert (
            "set data.output_space: all to predict the 12 genes of X, or add them, GENES being a list of their names: " in message
        )
        assert open_all([H5adFile(path)], embed_key="X_state", output_space="all")[1].decoder_names == tuple(adata.var_names)
        follow(message, GENES=["G3", "G7"])
        reader, genes = open_all([H5adFile(path)], embed_key="X_state", output_space="gene")
        assert genes.decoder_names == ("G3", "G7")
        assert_array_equal(reader.read("genes", CELLS), adata[:, ["G3", "G7"]].X.toarray()[CELLS])

    def test_all_genes_are_offered_only_where_there_is_x(self, write_h5ad, tmp_path):
        adata = write_h5ad(tmp_path / "cells.h5ad", obsm={"X_state": 3})
        adata.X = None
        adata.write_h5ad(tmp_path / "cells.h5ad")
        with pytest.raises(UserError, match=r"nor var/highly_variable; add them"):
            open_all([H5adFile(tmp_path / "cells.h5ad")], embed_key="X_state", output_space="gene")


class Batches(Dataset[FloatArray]):
    """What a DataLoader worker does with a reader."""

    def __init__(self, reader: CellReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return 20

    def __getitem__(self, i: int) -> FloatArray:
        return self.reader.read("input", np.random.default_rng(i).integers(0, 160, 30))


def test_workers_and_pickled_readers_read_what_the_main_process_reads(write_h5ad, tmp_path):
    files = []
    for seed in (0, 1):
        write_h5ad(tmp_path / f"{seed}.h5ad", compression="gzip", seed=seed)
        files.append(H5adFile(tmp_path / f"{seed}.h5ad"))
    batches = Batches(open_all(files)[0])
    pickled: Batches = pickle.loads(pickle.dumps(batches))  # what a spawned worker gets
    for _ in range(2):
        for i, read in enumerate(DataLoader(batches, batch_size=None, num_workers=2, multiprocessing_context="fork")):
            assert_array_equal(read, batches[i])
            assert_array_equal(pickled[i], batches[i])
