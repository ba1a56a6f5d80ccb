"""Which perturbations a label names."""

import pytest

from training.data.combinations import has_idle_separator, joined_by, parts


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("KLF1", ("KLF1",)),
        ("MYC+KLF1", ("KLF1", "MYC")),
        ("KLF1+MYC", ("KLF1", "MYC")),
        (" MYC + KLF1 ", ("KLF1", "MYC")),
        ("KLF1+ctrl", ("KLF1",)),
        ("ctrl+KLF1", ("KLF1",)),
        ("KLF1+KLF1", ("KLF1",)),
        ("ctrl", ()),
        ("ctrl+ctrl", ()),
        ("ctrl2+KLF1", ("KLF1", "ctrl2")),
        ("TP53_1", ("TP53_1",)),
        ("A|B", ("A|B",)),
    ],
)
def test_parts_without_the_control(label, expected):
    assert parts(label, "ctrl", "+") == expected


def test_parts_of_the_controls_label_count_for_nothing():
    labels = ["NegCtrl0_NegCtrl0", "KLF1_NegCtrl0", "NegCtrl0_MYC", "MYC_KLF1", "NegCtrl0", "NegCtrl10_NegCtrl0"]
    found = [parts(label, "NegCtrl0_NegCtrl0", "_") for label in labels]
    assert found == [(), ("KLF1",), ("MYC",), ("KLF1", "MYC"), (), ("NegCtrl10",)]
    assert parts("KLF1_non_targeting", "non_targeting", "_") == ("KLF1",)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("2i (LIF+MEKi+GSK3i)", ("2i (LIF+MEKi+GSK3i)",)),
        ("2i (LIF+MEKi+GSK3i)+Dox", ("2i (LIF+MEKi+GSK3i)", "Dox")),
        ("(+)-JQ1", ("(+)-JQ1",)),
        ("(+)-JQ1+Dox", ("(+)-JQ1", "Dox")),
        ("drug [1 uM]+KLF1", ("KLF1", "drug [1 uM]")),
        ("A)+B", ("A)+B",)),
        ("B+A)", ("B+A)",)),
        ("B+A(", ("B+A(",)),
        ("A)(+B", ("A)(+B",)),
        ("Ca2+", ("Ca2+",)),
        ("A++B", ("A++B",)),
        ("+", ("+",)),
    ],
)
def test_a_separator_inside_brackets_or_beside_nothing_joins_nothing(label, expected):
    assert parts(label, "ctrl", "+") == expected


def test_tahoes_labels_are_whole_whatever_the_separator():
    for label in ("[('DMSO_TF', 0.0, 'uM')]", "[('(R)-(+)-Verapamil', 5.0, 'uM')]"):
        for separator in "+,_'":
            assert parts(label, "other", separator) == (label,)


def test_without_a_separator_no_label_is_a_combination():
    assert parts(" KLF1+MYC", "ctrl", None) == ("KLF1+MYC",)
    assert parts("ctrl", "ctrl", None) == parts("ctrl ", "ctrl", None) == ()
    assert not has_idle_separator("Ca2+", None)


def test_a_separator_of_several_letters():
    assert parts("KLF1 and MYC", "ctrl", " and ") == ("KLF1", "MYC")


def test_separators_that_join_nothing_are_known():
    labels = ["KLF1", "KLF1+MYC", "2i (LIF+MEKi)", "2i (LIF+MEKi)+Dox", "Ca2+"]
    assert [has_idle_separator(label, "+") for label in labels] == [False, False, True, True, True]


def test_labels_joined_out_of_others():
    assert joined_by(["ctrl", "KLF1", "MYC", "MYC|KLF1", "MYC|GATA1"], "ctrl", "|") == ["MYC|KLF1"]
    norman = ["NegCtrl0_NegCtrl0", "KLF1_NegCtrl0", "NegCtrl0_MYC", "MYC_KLF1"]
    assert joined_by(norman, "NegCtrl0_NegCtrl0", "_") == ["MYC_KLF1"]
    assert joined_by(["TP53_1", "TP53_2", "TP53", "HLA-A", "HLA-B", "non-targeting"], "non-targeting", "_") == []
    assert joined_by(["TP53_1", "HLA-A", "HLA-B", "HLA", "non-targeting"], "non-targeting", "-") == []
