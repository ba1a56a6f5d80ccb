"""Words of `./fab` that mean nothing: what is accepted stands in one line, and the exit code is that of wrong input."""

import io
import os
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

import fabfile
from bootstrap import command, streams

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
    assert err.startswith("refused: nonsense: not a verb of fab (accepted: adopt, bench, bootstrap, check, ")
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


def test_a_terminal_without_the_character_is_written_to_all_the_same():
    code = """
import sys
from bootstrap import command, streams
sys.argv = ["fab", "--version"]
try:
    command.main()
except SystemExit:
    streams.show([sys.executable, "-c", "import sys; sys.stdout.buffer.write(bytes([195, 169]) * 3)"])
"""
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}

    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)

    assert done.stdout.endswith("\\xe9\\xe9\\xe9"), done.stderr


def test_what_cannot_be_written_is_read_to_the_end(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    program = "import sys; sys.stdout.buffer.write(bytes([195, 169]) * 500_000)"  # more than a pipe holds
    ended = []
    thread = Thread(target=lambda: ended.append(streams.show([sys.executable, "-c", program]).code), daemon=True)

    thread.start()
    thread.join(30)

    assert ended == [0]
