"""`training simulate-table` and `training pack-table`, as they are typed."""

import numpy as np

from training.__main__ import main


def test_a_made_up_table_is_packed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert main(["simulate-table", "p.csv", "--rows", "60"]) == 0
    assert "p.csv" in capsys.readouterr().out
    assert (
        main(["pack-table", "p.csv", "--target", "Survived", "--columns", "Sex,Age", "--probability", "SurvivalProbability"]) == 0
    )

    assert "Sex: female 0, male 1" in capsys.readouterr().out
    assert np.load("train_data.npz")["columns"].tolist() == ["Sex", "Age"]
    assert np.load("val_data.npz")["probability_val"].shape == (12,)


def test_a_refusal_is_one_message_and_exits_with_2(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["simulate-table", "p.csv"]) == 0

    assert main(["pack-table", "p.csv", "--target", "Survivd"]) == 2

    assert "did you mean Survived?" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]
