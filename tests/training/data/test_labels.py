"""Labels that stand for nothing, and labels that name one thing twice."""

import logging
import re
from pathlib import Path

import anndata
import pytest

from training.config import CellSetsConfig
from training.data.assemble import open_cells
from training.data.labels import identity
from training.refusal import Refused


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def opened(here, write_h5ad):
    """Opens a screen with these perturbations, of which some are held out in cell type B."""

    def make(perturbations, test=(), control="control", cell_types=("A", "B"), **changes):
        if not Path("cells.h5ad").exists():
            write_h5ad(here / "cells.h5ad", n_cells=240, perturbations=perturbations, control=control, cell_types=cell_types)
        held_out = f'[fewshot."d.{cell_types[-1]}"]\ntest = {list(test)}\n' if test else ""
        Path("split.toml").write_text(f'[datasets]\nd = "cells.h5ad"\n[training]\nd = "train"\n{held_out}')
        settings = {"split": "split.toml", "control": control, "validation": "none"} | changes
        return open_cells(CellSetsConfig(**settings), 8, 0)

    return make


def follow(message):
    """Do what a message offers, literally, to cells.h5ad."""
    (line,) = re.findall(r"adata(?:\.obs\[[^\n]*?)? = .*?(?=\.copy\(\)|\)\)? makes)", message)[:1] or [""]
    adata = anndata.read_h5ad("cells.h5ad")
    scope = {"adata": adata}
    exec(line + (".copy()" if line.startswith("adata = ") else ")"), scope)
    scope["adata"].write_h5ad("renamed.h5ad")
    Path("renamed.h5ad").replace("cells.h5ad")


@pytest.mark.parametrize("label", ["nan", "None", "<NA>", "NaN", "N/A", "*", "unassigned", " none "])
def test_placeholders_are_refused_with_their_cells_and_the_remedy_works(opened, label):
    with pytest.raises(Refused, match=r"cells.h5ad: obs.*perturbation.* (in 48 cells|no value in 48)") as refused:
        opened([label, "P1", "P2", "P3"])
    if "isin" in str(refused.value):
        follow(str(refused.value))
        assert opened([label, "P1", "P2", "P3"]).table.n_cells == 192


def test_a_control_that_is_called_so_is_no_placeholder(opened):
    assert opened(["P1", "P2"], control="None").table.control == "None"


@pytest.mark.parametrize("label", ["control ", "contrοl", "control+control"])  # noqa: RUF001
def test_a_second_spelling_of_the_control_is_refused_and_the_remedy_works(opened, label):
    with pytest.raises(Refused, match=r"names the control 'control' in another way") as refused:
        opened([label, "P1", "P2"])
    follow(str(refused.value))
    assert opened([label, "P1", "P2"]).table.perturbation.names == ("P1", "P2", "control")


@pytest.mark.parametrize(
    ("trained", "held_out"),
    [("A1+B1", "B1+A1"), ("A1", "A1+control"), ("control+A1", "A1"), ("TP53", "TP53 "), ("TP53", "TР53"), ("a b", "a  b")],  # noqa: RUF001
)
def test_one_perturbation_under_two_names_is_refused_where_it_leaks_and_the_remedy_works(opened, trained, held_out, caplog):
    with pytest.raises(Refused, match="name the same perturbation") as refused:
        opened([trained, held_out, "P1"], test=[held_out])
    assert repr(trained) in str(refused.value)
    assert repr(held_out) in str(refused.value)
    follow(str(refused.value))
    assert opened([], test=[trained]).report.leaks == ()


def test_two_names_are_named_where_nothing_leaks(opened, caplog):
    with caplog.at_level(logging.WARNING):
        opened(["A1+B1", "B1+A1", "Tp53", "TP53"])

    assert "obs/perturbation has 'A1+B1' (48 cells) and 'B1+A1' (48 cells), which are told apart" in caplog.text
    assert "'TP53' (48 cells) and 'Tp53' (48 cells)" in caplog.text


def test_cell_types_that_look_alike_are_named(opened, caplog):
    with caplog.at_level(logging.WARNING):
        opened(["P1", "P2"], cell_types=("K562", "k562 "))

    assert "obs/cell_type has 'K562'" in caplog.text


def test_labels_of_screens_are_told_apart(opened, caplog):
    labels = ["[('Adagrasib', 0.05, 'uM')]", "[('Adagrasib', 0.5, 'uM')]", "TP53_1", "TP53_2", "KLF1+MYC", "KLF1", "MYC"]
    with caplog.at_level(logging.WARNING):
        opened(labels, test=["KLF1+MYC"])

    assert "told apart" not in caplog.text


def test_a_leak_under_another_name_in_another_data_set_is_counted(here, write_h5ad):
    for name, label in (("one", "A1+B1"), ("two", "B1+A1")):
        write_h5ad(here / f"{name}.h5ad", perturbations=(label, "P1"), cell_types=("A",))
    Path("split.toml").write_text(
        '[datasets]\none = "one.h5ad"\ntwo = "two.h5ad"\n[training]\none = "train"\n[fewshot."two.A"]\ntest = ["P1"]\n'
        'val = ["B1+A1"]\n'
    )
    with pytest.raises(Refused, match="name the same perturbation"):
        open_cells(CellSetsConfig(split="split.toml", control="control"), 8, 0)


def test_an_identity_is_what_a_label_names():
    config = CellSetsConfig(split="s", control="ctrl")

    assert identity("B + A", config) == identity("A+B", config) == ("A", "B")
    assert identity("ctrl+A", config) == identity("A ", config) == ("A",)
    assert identity("ctrl", config) == ()
    assert identity("A+B", config.model_copy(update={"separator": None})) == ("A+B",)
