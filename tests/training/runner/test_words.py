"""The words of `python -m training.runner`; what its verbs do is tested beside this file."""

import pytest

from training.runner.__main__ import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "python -m training.runner: the following arguments are required: --root, VERB (verbs: supervise, push, "),
        (["--root", "x", "statsu"], "python -m training.runner: statsu: no such verb (accepted: supervise, push, boot, "),
        (["--root", "x", "status", "a", "b"], "python -m training.runner: b: one word too many (verbs: supervise, "),
        (["--root", "x", "stop", "a", "--second=9", "--quick"], "python -m training.runner stop: --quick: no such option ("),
        (
            ["--root", "x", "stop", "a", "--seconds", "long"],
            "python -m training.runner stop: argument --seconds: invalid float",
        ),
    ],
)
def test_words_that_are_none_are_one_sentence(words, said, capsys):
    assert main(words) == 2

    text = capsys.readouterr().err
    assert text.startswith(f"refused: {said}")
    assert text.count("\n") == 1
