"""Held-out conditions that are trained on under another name, or with the same vector."""

from pathlib import Path

import numpy as np
import pytest

from tests.training.data.few_cells import opened, write
from training.cells import Condition
from training.config import CellSetsConfig
from training.data.leaks import Sameness
from training.data.perturbations import PerturbationFeatures, one_hot

CONTROLS = [("A", "control", "g1", 20), ("B", "control", "g1", 20)]
HELD_OUT = [("A", "P1", "g1", 8), ("B", "P1", "g1", 8), ("B", "P2", "g1", 8), ("B", "P3", "g1", 8)]
PLAIN = CellSetsConfig(split="s.toml", control="control")
WITH_FILE = CellSetsConfig(split="s.toml", control="control", perturbation_features_file="f.npz")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write([*CONTROLS, *HELD_OUT])
    return tmp_path


def features(**vectors: list[float]) -> PerturbationFeatures:
    names = tuple(sorted(vectors))
    return PerturbationFeatures(names, np.array([vectors[name] for name in names], np.float32))


@pytest.mark.parametrize(
    ("held_out", "trained", "same"),
    [
        (("t", "A+B"), ("t", "A+B"), "name"),
        (("t", "A+B"), ("t", "B+A"), "parts"),
        (("t", "A"), ("t", "control+A"), "parts"),
        (("t", "A"), ("t ", "A"), "parts"),
        (("t", "A"), ("u", "A"), None),
        (("t", "A"), ("t", "A+B"), None),
    ],
)
def test_names_of_one_condition(held_out, trained, same):
    condition = Condition("d", *held_out)
    found = Sameness(PLAIN, one_hot(["A", "B"])).trained_as([condition], [trained])
    assert found == ({} if same is None else {condition: (trained, same)})


def test_equal_vectors_are_one_perturbation_to_the_model():
    vectors = features(X=[1, 0], Y=[1, -0.0], Z=[0, 1], N=[0, 0], M=[0, 0], control=[0, 0])
    trained = [("t", "Y"), ("t", "M"), ("t", "control")]
    asked = [Condition("d", "t", name) for name in "XZN"] + [Condition("d", "u", "X")]
    assert Sameness(WITH_FILE, vectors).trained_as(asked, trained) == {asked[0]: (("t", "Y"), "features")}
    assert Sameness(WITH_FILE, vectors).never_trained("XZN", "Y") == ("N", "Z")
    assert Sameness(PLAIN, vectors).trained_as(asked, trained) == {}


def test_the_report_names_the_other_name_and_why():
    write([("B", "control", "g1", 20), ("B", "P3+control", "g1", 9), ("B", "P1", "g1", 8)], "e.h5ad")
    Path("split.toml").write_text(
        '[datasets]\nd = "d.h5ad"\ne = "e.h5ad"\n[training]\nd = "train"\ne = "train"\n'
        '[fewshot."d.B"]\nval = ["P2"]\ntest = ["P3"]\n'
    )
    cells = opened()
    assert cells.report.leaks == (
        "test: P3 in d.B: trained on in data set e as 'P3+control' in 'B', which has the same parts (9 cells)",
    )
    assert cells.report.unseen == ("P2",)
    assert "Leak check: 1 held-out conditions are trained on: test: P3 in d.B" in cells.summary()


def test_the_report_names_equal_vectors():
    np.savez("f.npz", P1=np.array([1.0, 0]), P2=np.array([0, 1.0]), P3=np.array([1.0, 0]), control=np.zeros(2))
    cells = opened(perturbation_features_file="f.npz")
    assert cells.report.leaks == ("test: P3 in d.B: trained on there too as 'P1' in 'B', which has the same features (8 cells)",)
    assert cells.report.unseen == ("P2",)


def test_constant_vectors_are_one_warning_and_no_leaks(caplog):
    np.savez("f.npz", P1=np.ones(2), P2=np.ones(2), P3=np.ones(2), control=np.zeros(2))
    assert opened(perturbation_features_file="f.npz").report.leaks == ()
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING" and "f.npz" in record.message]
    assert warnings == ["f.npz: all 3 perturbations of the data have the same vector; the model cannot tell them apart"]
