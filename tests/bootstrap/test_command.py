"""Words of `./fab` that mean nothing: what is accepted stands in one line, and the exit code is that of wrong input."""

import sys
from pathlib import Path

import pytest

import fabfile
from bootstrap import command

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fab(monkeypatch, capsys):
    """Exit code and error output of `./fab WORDS`."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(command, "end_at_closed_pipe", lambda: None)
    for verb in fabfile.__all__:  # invoke takes the texts out of it as it reads them
        monkeypatch.setattr(getattr(fabfile, verb), "help", getattr(fabfile, verb).help.copy())

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["fab", *words])
        with pytest.raises(SystemExit) as ended:
            command.main()
        return ended.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize("words", [["nonsense"], ["cost", "nonsense"], ["--help", "nonsense"]], ids=" ".join)
def test_a_word_that_is_no_verb(fab, words):
    code, err = fab(*words)

    assert code == 2
    assert err.startswith("refused: nonsense: not a verb of fab (accepted: bench, bootstrap, check, ")
    assert err.count("\n") == 1


def test_a_verb_with_a_typing_error(fab):
    assert fab("statsu")[1].endswith("; nearest: status)\n")


def test_an_option_with_a_typing_error(fab):
    assert fab("cost", "--stak", "l4") == (
        2,
        "refused: --stak: not an option of cost (accepted: --stack, --until; nearest: --stack)\n",
    )


def test_the_option_of_another_verb(fab):
    assert fab("status", "--swap-gib", "8")[1].startswith("refused: --swap-gib: not an option of status (accepted: ")


def test_an_option_without_its_value(fab):
    assert fab("cost", "--stack") == (2, "refused: --stack: needs a value (./fab cost --help says which)\n")
    assert fab("cost", "--help")[0] == 0


def test_a_core_option_that_there_is_not(fab):
    assert fab("--nonsense")[0] == 2
