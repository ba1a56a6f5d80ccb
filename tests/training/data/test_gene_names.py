"""`training/data/gene_names.py`: files that have no gene name in common, and what is offered there, followed."""

import numpy as np
import pytest

from training.config import CellSetsConfig
from training.data.h5ad import H5adFile
from training.data.reader import Genes, H5adReader, open_reader
from training.errors import UserError


def open_all(files: list[H5adFile], trained: Genes | None = None, **choices) -> tuple[H5adReader, Genes]:
    """A reader of all cells of the files, in their order."""
    config = CellSetsConfig(split="s.toml", control="control", **choices)
    file_of_cell = np.repeat(np.arange(len(files)), [file.n_obs for file in files])
    rows = np.concatenate([np.arange(file.n_obs) for file in files])
    return open_reader(config, files, file_of_cell, rows, trained)


class TestNothingShared:
    """Symbols in one file, Ensembl ids in the other: `by_name` is no way out."""

    def write(self, write_h5ad, tmp_path, second: dict[str, list[str]], first: dict[str, list[str]] | None = None):
        for name, genes, columns in (("a", ("KLF1", "BAK1", "MYC"), first or {}), ("b", ("E1", "E2", "E3"), second)):
            adata = write_h5ad(tmp_path / f"{name}.h5ad", genes=genes)
            for column, values in columns.items():
                adata.var[column] = values
            adata.write_h5ad(tmp_path / f"{name}.h5ad")

    def opened(self, tmp_path, names="ab", **choices):
        return open_all([H5adFile(tmp_path / f"{name}.h5ad") for name in names], **choices)

    def refusal(self, tmp_path, **choices) -> str:
        try:
            self.opened(tmp_path, **choices)
        except UserError as error:
            return str(error)
        pytest.fail("was not refused")

    @pytest.mark.parametrize("alignment", ["refuse", "by_name"])
    @pytest.mark.parametrize("order", ["ab", "ba"])
    def test_the_file_that_has_the_others_names_in_a_column_is_renamed(self, write_h5ad, tmp_path, follow, alignment, order):
        self.write(write_h5ad, tmp_path, {"gene_name": ["KLF1", "BAK1", "MYC"], "chromosome": ["1", "2", "1"]})
        message = self.refusal(tmp_path, names=order, gene_alignment=alignment)
        assert "have no gene of X in common: the first has " in message
        assert "data.gene_name_column is one for all files; var column 'gene_name' of " in message
        assert "b.h5ad has 3 of the other's names; rename its genes: " in message
        assert "by_name" not in message
        follow(message)
        assert self.opened(tmp_path)[1].input_names == ("KLF1", "BAK1", "MYC")

    def test_a_column_is_renamed_where_a_column_names_the_genes(self, write_h5ad, tmp_path, follow):
        self.write(
            write_h5ad, tmp_path, {"id": ["E1", "E2", "E3"], "symbol": ["s1", "BAK1", "BAK1"]}, {"id": ["KLF1", "BAK1", "MYC"]}
        )
        follow(self.refusal(tmp_path, gene_name_column="id"))
        assert self.opened(tmp_path, gene_name_column="id", gene_alignment="by_name")[1].input_names == ("BAK1",)

    def test_a_column_that_both_have_is_named(self, write_h5ad, tmp_path):
        self.write(write_h5ad, tmp_path, {"symbol": ["A", "B", "C"]}, {"symbol": ["A", "B", "C"]})
        assert self.refusal(tmp_path).endswith("; set data.gene_name_column: symbol, which has shared names in both")
        assert self.opened(tmp_path, gene_name_column="symbol")[1].input_names == ("A", "B", "C")

    def test_no_column_helps(self, write_h5ad, tmp_path):
        self.write(write_h5ad, tmp_path, {})
        assert self.refusal(tmp_path).endswith("; no column of var has the other's names: name the genes alike in both files")

    def test_no_gene_is_in_all_of_three_files(self, write_h5ad, tmp_path):
        for name, genes in (("a", "AB"), ("b", "BC"), ("c", "AC")):
            write_h5ad(tmp_path / f"{name}.h5ad", genes=tuple(genes))
        with pytest.raises(
            UserError, match=r"no gene of X is in all of .*c\.h5ad; .*a\.h5ad has A, B, .*; name the genes alike in all"
        ):
            self.opened(tmp_path, names="abc", gene_alignment="by_name")
