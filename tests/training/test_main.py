"""The command line itself; what the verbs do is tested end to end."""

import pytest

from training.__main__ import main


def test_settings_may_stand_before_and_after_options(capsys):
    code = main(["predict", "nowhere", "--output", "o.h5ad", "data.split=other.toml", "--split", "val"])

    assert code == 2
    assert capsys.readouterr().err.startswith("refused: nowhere: not a run directory")


def test_a_split_beside_a_table_is_refused(capsys):
    assert main(["predict", "nowhere", "--output", "o.h5ad", "--table", "t.csv", "--split", "val"]) == 2
    assert "--split val has no effect beside --table t.csv" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["fit", "a.yaml", "b.yaml"], ["fit", "optim.lr=1", "a.yaml"], ["fit", "word"]])
def test_at_most_one_run_file_which_comes_first(words, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("refused: ")


@pytest.mark.parametrize(
    "words", [[], ["fitt"], ["predict", "runs/x"], ["report", "runs/x", "data.split=a"], ["fit", "--frobnicate"]]
)
def test_a_command_line_that_is_none_ends_with_2(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "usage: training" in capsys.readouterr().err
