"""`fab demo` and `fab check` as typed, in a copy of the tasks and with a uv that notes what it is asked for."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

import fabfile
from bootstrap import tasks
from bootstrap.shipping import Code
from training.__main__ import parser

ROOT = Path(__file__).parents[2]
FAB = Path(sys.executable).parent / "fab"
PYTEST = "pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder"


@dataclass(frozen=True)
class Done:
    """A task that has ended."""

    code: int
    out: str
    asked: list[str]
    """What uv was asked for, in this order, and where."""


@pytest.fixture
def house(tmp_path) -> Path:
    """The tasks without the rest, so that a test touches nobody's runs/."""
    shutil.copy(ROOT / "fabfile.py", tmp_path)
    shutil.copytree(ROOT / "bootstrap", tmp_path / "bootstrap")
    (tmp_path / "requirements.lock").touch()
    return tmp_path


@pytest.fixture
def fab(house) -> Callable[..., Done]:
    """`fab VERB` from a folder further down; its uv `prints` a line, and fails with 3 where `failing` is in its command."""

    def run(*words: str, failing: str = "nothing", prints: str = "") -> Done:
        notes, uv, below = house / "notes", house / "its tools" / "uv", house / "below"
        uv.parent.mkdir()
        below.mkdir()
        uv.write_text(
            f'#!/bin/sh\n[ "$1" = export ] && exit\necho "$PWD: $*" >>"{notes}"\necho "{prints}"\n'
            f'case "$*" in *"{failing}"*) exit 3 ;; esac\n'
        )
        uv.chmod(0o755)
        done = subprocess.run(
            [FAB, *words], cwd=below, env=os.environ | {"UV": str(uv)}, capture_output=True, text=True, timeout=60
        )
        return Done(done.returncode, done.stdout, notes.read_text().splitlines())

    return run


def words_of(asked: list[str], house: Path, before: str) -> list[str]:
    """Each command without where it ran and how uv was told to run it, which are the same for all."""
    assert all(line.startswith(f"{house}: {before}") for line in asked), asked
    return [line.removeprefix(f"{house}: {before}") for line in asked]


def test_demo_runs_the_whole_way_and_its_commands_are_of_the_command_line(fab, house):
    (house / "runs/demo_data").mkdir(parents=True)

    done = fab("demo")

    assert done.code == 0
    commands = words_of(done.asked, house, "run --group training training ")
    assert [command.split()[0] for command in commands] == ["simulate", "fit", "predict", "evaluate"]
    for command in commands:
        parser().parse_args(shlex.split(command))
        assert f"$ 'its tools/uv' run --group training training {command}\n" in done.out
    assert not (house / "runs/demo_data").exists()  # simulate refuses to overwrite, and a demo may be repeated


def test_demo_stops_at_the_first_failure_with_its_exit_code(fab, house):
    done = fab("demo", failing="training predict")

    assert done.code == 3
    assert len(done.asked) == 3


def test_check_runs_all_five_whatever_fails_and_ends_with_a_table(fab, house):
    done = fab("check", failing="mypy")

    assert done.code == 1
    assert done.asked[0] == f"{house}: sync --inexact --all-groups"
    assert words_of(done.asked[1:], house, "run --no-sync ") == [
        "python -m tests.tools.programs",
        "ruff format --check",
        "ruff check",
        "mypy",
        "lint-imports",
        f"{PYTEST} -m not slow and not cloud",
    ]
    rows = [line.rsplit(maxsplit=3)[:2] for line in done.out.splitlines()[-5:]]
    assert rows == [["ruff format", "ok"], ["ruff check", "ok"], ["mypy", "FAILED"], ["lint-imports", "ok"], ["pytest", "ok"]]


def test_check_is_done_with_0_when_all_is_well(fab):
    assert fab("check").code == 0


def test_check_ends_with_what_was_left_out(fab):
    line = "left out: 2 tests, for want of rsync. To run them: sudo apt-get install rsync"

    assert fab("check", prints=line).out.splitlines()[-2:] == ["", line]


def test_check_of_all_leaves_no_test_out(fab, house):
    assert words_of(fab("check", "--all").asked[1:], house, "run --no-sync ")[-1] == PYTEST


def test_check_does_not_go_on_where_the_groups_cannot_be_brought(fab):
    done = fab("check", failing="sync")

    assert done.code == 3
    assert len(done.asked) == 1


def test_a_fab_without_any_uv_says_so(house):
    environment = {key: value for key, value in os.environ.items() if key != "UV"} | {"PATH": str(house / "no programs")}

    done = subprocess.run([FAB, "demo"], cwd=house, env=environment, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stderr) == (1, "failed: there is no uv here; ./fab brings one\n")


BOX = {"host": "me@127.0.0.1:9"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (BOX | {"data": ["nothere"]}, "--data nothere: no name in configs/data"),
        (BOX | {"data": [""]}, "--data '': no name in configs/data"),
        (BOX | {"data": ["se600n"]}, "did you mean se600m"),
        (BOX | {"data": ["ftp://host/file"]}, "ftp:// is no source of data"),
        (BOX | {"data": ["gs://"]}, "no name of a bucket"),
        (BOX | {"data": ["hf://ORG/NAME/FILE"]}, "the revision is missing"),
        (BOX | {"data": ["https://host/file"]}, "the hash is missing"),
        (BOX | {"data": ["a" * 300]}, "File name too long"),
        (BOX | {"data": ["cells\x1b[2J"]}, r"cells\x1b[2J: no name in configs/data"),
        (BOX | {"data": ["tests", "tests"]}, "tests and tests would both land in"),
        (BOX | {"data": [], "swap_gib": "0"}, "--swap-gib: 0 (accepted: a whole number, 1 or more)"),
        (BOX | {"data": [], "idle_minutes": "1.5"}, "--idle-minutes: 1.5 (accepted: a whole number, 0 or more)"),
        (BOX | {"data": [], "folder": "relative/path"}, "--folder: relative/path: accepted: a path from / or ~/"),
        (BOX | {"data": [], "stack": "l4"}, "--stack l4 --host me@127.0.0.1:9: one machine at a time"),
        ({"data": [], "host": "a b"}, "--host: a b: accepted: [user@]host[:port]"),
        ({"data": [], "host": "me@box:99999"}, "--host: me@box:99999: accepted: [user@]host[:port]"),
    ],
)
def test_bad_input_of_bootstrap_is_refused_in_a_sentence_before_any_machine_is_asked(words, sentence, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(tasks, "connect", lambda machine: pytest.fail(f"{machine} was asked"))
    monkeypatch.setattr("bootstrap.bootstrap.code", lambda: Code(ROOT, (), ""))

    with pytest.raises(Exit) as refusal:
        fabfile.bootstrap.body(Context(), **words)

    message = refusal.value.message or ""
    assert refusal.value.code == 2
    assert message.startswith("refused: ")
    assert sentence in message
    assert message.isprintable()


@pytest.mark.parametrize(
    ("verb", "flag", "values"),
    [("bootstrap", "--data", {"data": []}), ("train", "--set", {"set": [], "run": "configs/runs/demo.yaml"})],
)
def test_a_flag_without_its_value_is_refused(verb, flag, values, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fab", verb, flag])

    with pytest.raises(Exit, match=f"refused: {flag}: has no value"):
        getattr(fabfile, verb).body(Context(), **values)


@pytest.fixture
def benchmark(house):
    (house / "tests" / "benchmarks").mkdir(parents=True)
    (house / "tests" / "benchmarks" / "loading.py").write_text('"""How fast it loads."""\n')


def test_bench_runs_one_benchmark(fab, house, benchmark):
    done = fab("bench", "loading")

    assert done.code == 0
    assert words_of(done.asked, house, "")[1:] == ["run --no-sync python -m tests.benchmarks.loading"]


@pytest.mark.parametrize(
    ("name", "code", "printed"),
    [("list", 0, "loading             How fast it loads.\n"), ("load", 2, "bench: load: no such benchmark (accepted: loading)")],
)
def test_bench_names_the_benchmarks(house, benchmark, name, code, printed):
    done = subprocess.run([FAB, "bench", name], cwd=house, capture_output=True, text=True, timeout=60)

    assert (done.returncode, printed in done.stdout + done.stderr) == (code, True)
