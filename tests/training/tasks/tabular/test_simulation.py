"""The made-up table: its truth is the one that is stated, and the files of the repository are those that the verbs make."""

import numpy as np
import pandas as pd
import pytest

from tests.training.tasks.tabular.conftest import ROOT
from training.errors import UserError
from training.tasks.tabular.simulation import COLUMNS, PROBABILITY, best_accuracy, simulate_table


@pytest.fixture
def frame(tmp_path):
    simulate_table(tmp_path / "many.csv", n_rows=40_000, seed=5)
    return pd.read_csv(tmp_path / "many.csv", keep_default_na=True)


def test_the_columns_are_the_lessons(frame):
    assert list(frame.columns) == [*COLUMNS, PROBABILITY]
    assert set(frame["Sex"]) == {"male", "female"}
    assert set(frame["Embarked"].dropna()) == {"C", "Q", "S"}
    assert set(frame["Pclass"]) == {1, 2, 3}
    assert 0.18 < frame["Age"].isna().mean() < 0.22


def test_the_stated_truth_is_that_of_the_written_row(frame):
    female = (frame["Sex"] == "female").astype(float)
    age = (frame["Age"] - 30).fillna(0)
    third = frame["Pclass"] == 3
    logit = -1.6 + 4 * female - 0.9 * (frame["Pclass"] - 2) - 1.8 * female * third - 0.05 * age - 0.4 * frame["SibSp"]

    np.testing.assert_allclose(frame[PROBABILITY], 1 / (1 + np.exp(-logit)), atol=1e-6)


def test_labels_follow_the_probabilities(frame):
    binned = frame.groupby(pd.cut(frame[PROBABILITY], 10), observed=True).agg(
        said=(PROBABILITY, "mean"), found=("Survived", "mean"), n=("Survived", "size")
    )
    error = np.sqrt(binned["said"] * (1 - binned["said"]) / binned["n"])

    assert (abs(binned["said"] - binned["found"]) < 4 * error).all()


def test_no_rule_is_better_than_the_best_accuracy(frame):
    p, survived = frame[PROBABILITY].to_numpy(), frame["Survived"].to_numpy()
    best, error = best_accuracy(p), 3 / np.sqrt(len(p))

    assert abs(((p > 0.5) == survived).mean() - best) < error
    assert 0.78 < best < 0.86
    assert ((frame["Sex"] == "female") == survived).mean() < best - 0.02  # sex alone is not all there is


def test_a_seed_means_the_same_table(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        simulate_table(tmp_path / f"{name}.csv", 50, seed)
    a, b, c = ((tmp_path / f"{name}.csv").read_text() for name in "abc")

    assert a == b != c


def test_the_files_of_the_repository_are_what_the_verbs_make(passengers):
    for made in passengers:
        kept = np.load(ROOT / "configs" / "data" / "passengers" / made.name, allow_pickle=False)
        own = np.load(made, allow_pickle=False)
        assert set(kept.files) == set(own.files)
        for name in kept.files:
            if kept[name].dtype.kind == "f":
                np.testing.assert_allclose(kept[name], own[name], rtol=1e-12, atol=1e-12)
            else:
                np.testing.assert_array_equal(kept[name], own[name])


def test_what_exists_is_left_alone_and_too_few_rows_are_refused(tmp_path):
    (tmp_path / "mine.csv").write_text("mine")

    with pytest.raises(UserError, match=r"mine\.csv: exists already"):
        simulate_table(tmp_path / "mine.csv")
    with pytest.raises(UserError, match=r"--rows 3 \(accepted: 10 to 10,000,000\)"):
        simulate_table(tmp_path / "few.csv", 3)
    with pytest.raises(UserError, match=r"--seed -1 \(accepted: 0 or more\)"):
        simulate_table(tmp_path / "few.csv", 30, -1)
