"""Words that stand for no label, and one thing under two names."""

import gc
import shlex
import time
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest

from tests.tools.perturbation_run import load_config
from tests.training.data.few_cells import opened, write
from training.config import CellSetsConfig
from training.data.h5ad import Labels
from training.data.labels import canonical, check_labels, identity
from training.data.table import CellTable
from training.errors import UserError

REST = [("A", "P1", "g1", 8), ("B", "P2", "g1", 8), ("B", "P3", "g1", 8)]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def screen(*groups: tuple[str, str, str, int], control: str = "control", path: str = "d.h5ad") -> None:
    """Cell types A and B with controls, of which B's P2 and P3 are held out, and the groups asked for."""
    write([("A", control, "g1", 20), ("B", control, "g1", 20), *REST, *groups], path)


def refusal(**changes) -> str:
    with pytest.raises(UserError) as refused:
        opened(**changes)
    return str(refused.value)


def follow(message: str) -> None:
    """Runs the line of Python that a message ends with."""
    gc.collect()  # closes the file, as the end of the process does that was refused
    line = message[message.index("for path in ") :].splitlines()[0]
    exec(line.partition(" (where ")[0], {"anndata": anndata})


def names(column: str = "perturbation", path: str = "d.h5ad") -> set[str]:
    return set(anndata.read_h5ad(path).obs[column].astype(str))


class TestIdentity:
    @pytest.mark.parametrize(
        "label",
        [
            "A+B",
            "B+A",
            " B + A ",
            "A+ctrl+B",
            "A\u00a0+B",
            "\uff21+B",
            "\u0410+B",
            "\u0391+\u0392",
            "A\u200b+B",
            "A\uff0bB",
            "A +\tB",
        ],
    )
    def test_of_one_combination(self, label):
        assert identity(label, "ctrl", "+") == ("A", "B")

    def test_of_controls_is_empty(self):
        assert {identity(label, "ctrl", "+") for label in ("ctrl", "ctrl ", "ctrl+ctrl", "\u0441trl")} == {()}
        assert identity("NegCtrl0 ", "NegCtrl0_NegCtrl0", "_") == ()

    def test_different_labels_stay_different(self):
        labels = [
            "TP53_1", "TP53_2", "TP53", "Tp53", "[('DMSO_TF', 0.0, 'uM')]", "[('DMSO_TF', 0.5, 'uM')]", "IFNA", "IFN\u03b1",
            "KLF1+MYC", "KLF1+MYCN", "2i (LIF+MEKi)", "LIF+MEKi",
        ]  # fmt: skip
        assert len({identity(label, "ctrl", "+") for label in labels}) == len(labels)

    def test_without_a_separator_the_order_counts(self):
        assert identity("A+B", "ctrl", None) != identity("B+A", "ctrl", None)

    def test_blanks_are_one_blank(self):
        assert canonical("T \t cell") == "T cell"


class TestPlaceholders:
    @pytest.mark.parametrize("word", ["", " ", "nan", "NaN", "None", "<NA>", "NA", "n/a", "NULL", "*", "Unassigned"])
    def test_are_refused_and_dropped_as_told(self, word):
        screen(("A", word, "g1", 7), ("B", word, "g1", 4))
        message = refusal()
        assert message.startswith(f"d.h5ad: obs/perturbation: {word!r} (11 cells): such a word stands for no label; ")
        follow(message)
        assert opened().table.n_cells == 64

    @pytest.mark.parametrize("column", ["cell_type", "gem_group"])
    def test_of_other_columns(self, column):
        screen(("None", "control", "g1", 5) if column == "cell_type" else ("A", "P1", "None", 5))
        Path("split.toml").write_text('[datasets]\nd = "d.h5ad"\n[training]\nd = "train"\n[fewshot."d.B"]\nval = ["P2"]\n')
        message = refusal(gem_group_column="gem_group")
        assert f"d.h5ad: obs/{column}: 'None' (5 cells)" in message
        follow(message)
        assert opened(gem_group_column="gem_group").table.n_cells == 64

    def test_may_be_the_controls_label(self):
        screen(control="None")
        assert opened(control="None").table.control == "None"

    def test_in_words_are_none(self):
        screen(("A", "NANOG", "g1", 6), ("A", "none-of-these", "g1", 6))
        assert opened().table.n_cells == 76

    def test_of_several_files_are_all_dropped(self):
        screen(("A", "None", "g1", 3))
        screen(("A", "<NA>", "g1", 2), path="e.h5ad")
        Path("split.toml").write_text('[datasets]\nd = "[de].h5ad"\n[training]\nd = "train"\n[fewshot."d.B"]\nval = ["P2"]\n')
        message = refusal()
        assert message.startswith("d.h5ad, e.h5ad: obs/perturbation: '<NA>' (2 cells), 'None' (3 cells): ")
        follow(message)
        assert opened().table.n_cells == 128


class TestTwins:
    @pytest.mark.parametrize("twin", ["control ", "control+control", "\u0441ontrol"])
    def test_of_the_control_are_refused_and_become_controls_as_told(self, twin):
        screen(("A", twin, "g1", 9))
        message = refusal()
        assert f"obs/perturbation: {twin!r} (9 cells): would be trained on" in message
        assert "besides the control 'control'" in message
        follow(message)
        assert int(opened().table.is_control.sum()) == 49

    @pytest.mark.parametrize("twin", ["P3 ", "P3+control", "control+P3", "\u04203"])
    def test_of_a_held_out_perturbation_in_its_cell_type_are_refused_and_held_out_as_told(self, twin):
        screen(("B", twin, "g1", 6))
        message = refusal()
        assert message.startswith(f"split.toml: 'P3' of obs/perturbation is held out, but {twin!r} (6 cells) names the same thing")
        follow(message)
        cells = opened()
        assert [row.n_cells for row in cells.report.rows if row.split == "test"] == [14]
        assert twin not in names()

    def test_that_are_both_held_out_are_warned_of(self, caplog):
        screen(("B", "P3 ", "g1", 6))
        text = Path("split.toml").read_text()
        Path("split.toml").write_text(text.replace('["P3"]', '["P3", "P3 "]'))
        opened()
        assert "'P3' (8 cells) beside 'P3 ' (6 cells)" in caplog.text

    def test_in_another_cell_type_are_warned_of_and_made_one_as_told(self, caplog):
        screen(("A", "P1+P2", "g1", 6), ("A", "P2+P1", "g1", 7), ("A", "P1 ", "g1", 4))
        opened()
        (record,) = [record for record in caplog.records if record.levelname == "WARNING" and "same thing" in record.message]
        assert "d.h5ad: labels of obs/perturbation name the same thing, and count as different ones: " in record.message
        assert "'P1' (8 cells) beside 'P1 ' (4 cells), 'P1+P2' (6 cells) beside 'P2+P1' (7 cells)" in record.message
        follow(record.message)
        assert names() == {"control", "P1", "P2+P1", "P2", "P3"}
        caplog.clear()
        opened()
        assert "same thing" not in caplog.text

    def test_by_case_alone_are_warned_of(self, caplog):
        screen(("B", "p3", "g1", 6), ("A", "Control", "g1", 5))
        opened()
        assert "labels of obs/perturbation differ by case alone" in caplog.text
        assert "'Control' (5 cells) beside 'control' (40 cells), 'P3' (8 cells) beside 'p3' (6 cells)" in caplog.text

    def test_of_a_cell_type_that_is_held_out_are_refused_and_made_one_as_told(self):
        screen(("A ", "control", "g1", 6), ("A ", "P2", "g1", 6))
        split = '[datasets]\nd = "d.h5ad"\n[training]\nd = "train"\n[zeroshot]\n"d.A" = "test"\n[fewshot."d.B"]\nval = ["P2"]\n'
        Path("split.toml").write_text(split)
        message = refusal()
        assert message.startswith("split.toml: 'A' of obs/cell_type is held out, but 'A ' (12 cells) names the same thing")
        assert "in the same data set" in message
        follow(message)
        assert names("cell_type") == {"A", "B"}
        opened()

    def test_of_a_cell_type_are_warned_of_within_a_data_set_alone(self, caplog):
        screen(("A ", "control", "g1", 6), ("A ", "P1", "g1", 6))
        opened()
        assert (
            "labels of obs/cell_type name the same thing, and count as different ones: 'A' (28 cells) beside 'A ' (12 cells)"
            in caplog.text
        )
        caplog.clear()
        screen()
        write([("A ", "control", "g1", 6), ("A ", "P1", "g1", 6)], "e.h5ad")
        Path("split.toml").write_text(
            '[datasets]\nd = "d.h5ad"\ne = "e.h5ad"\n[training]\nd = "train"\ne = "train"\n[fewshot."d.B"]\nval = ["P2"]\n'
        )
        opened()
        assert "same thing" not in caplog.text

    def test_none_are_seen_where_there_are_none(self, caplog):
        labels = ["TP53_1", "TP53_2", "KLF1+MYC", "KLF1+control", "[('DMSO_TF', 0.0, 'uM')]", "[('DMSO_TF', 0.5, 'uM')]"]
        screen(*[("A", label, "g1", 6) for label in labels])
        opened()
        assert not [record for record in caplog.records if "same thing" in record.message or "case alone" in record.message]


class TestSeparator:
    @pytest.mark.parametrize("joins", ["|", "_", ",", ";", "&", "/", "-", ":"])
    def test_that_joins_nothing_beside_one_that_does_is_told_how_to_set(self, caplog, joins):
        screen(("A", "P2", "g1", 6), ("A", f"P2{joins}P1", "g1", 6))
        opened()
        (message,) = [record.message for record in caplog.records if "data.separator" in record.message]
        assert message.startswith(f"obs/perturbation: data.separator '+' joins no labels, but {joins!r} joins 'P2{joins}P1'; ")
        override = shlex.split(message[message.index("'data.separator") :])[0]
        below_data = message.partition(", write ")[2].partition(" below data:")[0]
        text = "name: r\nmodel: state_sm\ntrainer: {{max_steps: 1}}\ndata:\n  split: split.toml\n  control: control\n  {}\n"
        Path("r.yaml").write_text(text.format("perturbation_column: perturbation"))
        Path("s.yaml").write_text(text.format(below_data))
        for config in (load_config(Path("r.yaml"), [override]), load_config(Path("s.yaml"))):
            assert config.data.separator == joins
        caplog.clear()
        opened(separator=joins)
        assert "data.separator" not in caplog.text

    @pytest.mark.parametrize("separator", ["+", None])
    def test_is_not_spoken_of_where_it_joins_or_is_none(self, caplog, separator):
        screen(("A", "P2", "g1", 6), ("A", "P2|P1", "g1", 6), ("A", "P1+P2", "g1", 6))
        opened(separator=separator)
        assert "data.separator" not in caplog.text


def test_a_million_cells_of_twenty_thousand_labels_take_seconds():
    n_cells, n_names = 1_000_000, 20_000
    singles = [f"GENE{i:05d}" for i in range(n_names // 2)]
    perturbations = tuple(sorted([*singles, *(f"{a}+control" for a in singles[1:]), "control"]))
    codes = np.arange(n_cells, dtype=np.int32)
    one = Labels(np.zeros(n_cells, np.int32), ("d",))
    table = CellTable(
        one, Labels(codes % 5, tuple("ABCDE")), Labels(codes % len(perturbations), perturbations), None,
        one, codes.astype(np.int64), np.zeros(n_cells, np.int8), "control",
    )  # fmt: skip
    begin = time.process_time()
    check_labels(table, CellSetsConfig(split="split.toml", control="control"))
    check_labels(
        replace(table, perturbation=Labels(table.perturbation.codes, perturbations)),
        CellSetsConfig(split="s", control="control", separator=None),
    )
    assert time.process_time() - begin < 10
