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
    ("words", "said"),
    [
        ([], "training: the following arguments are required: VERB (verbs: fit, check, "),
        (["fitt"], "training: fitt: no such verb (accepted: fit, check, show-config, predict, evaluate, reproduce, report, "),
        (["nonsense"], "training: nonsense: no such verb (accepted: fit, "),
        (["predict", "x"], "training predict: the following arguments are required: --output (usage: training predict [-h] "),
        (["report", "runs/x", "data.split=a"], "training: data.split=a: one word too many"),
        (["report", "a", "b"], "training: b: one word too many"),
        (["fit", "--frobnicate"], "training fit: --frobnicate: no such option (accepted: --help)"),
        (["--frobnicate", "fit"], "training: --frobnicate: no such option (accepted: --help)"),
        (
            ["check", "--write-feature=x", "a=b", "-x"],
            "training check: -x: no such option (accepted: --help, --write-features, --overfit)",
        ),
        (
            ["check", "--wirte-features=x"],
            "training check: --wirte-features: no such option (accepted: --help, --write-features, --overfit; did",
        ),
        (
            ["evaluate", "x", "--split", "tset"],
            "training evaluate: tset: no value of --split (accepted: test, val; did you mean test?)",
        ),
    ],
)
def test_a_command_line_that_is_none_is_one_sentence(words, said, capsys):
    assert main(words) == 2

    text = capsys.readouterr().err
    assert text.startswith(f"refused: {said}")
    assert text.count("\n") == 1
