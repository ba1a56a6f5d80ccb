"""The rules of the house that no linter knows (imports between rooms are `lint-imports`' business)."""

import argparse
import ast
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fabfile
from tests.tools.programs import path_of
from training.__main__ import parser

ROOT = Path(__file__).parent.parent


def git(*words: str) -> subprocess.CompletedProcess[str]:
    """A git command in the repository."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)


LISTED = git("ls-files", "--cached", "--others", "--exclude-standard") if path_of("git") else None
FILES = [Path(name) for name in sorted(LISTED.stdout.splitlines() if LISTED else []) if (ROOT / name).is_file()]
SOURCES = [path for path in FILES if path.suffix == ".py"]
PACKAGES = [path.parent for path in SOURCES if path.name == "__init__.py"]
VERBS = next(action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)).choices

pytestmark = [
    pytest.mark.needs("git"),
    pytest.mark.skipif(
        LISTED is not None and LISTED.returncode != 0, reason="not a git checkout: which files belong to the project is unknown"
    ),
]


def text_of(path: Path) -> str:
    """What a file of the repository holds; of one that is not text, what looks like it."""
    return (ROOT / path).read_text(encoding="utf-8", errors="ignore")


def test_a_file_has_at_most_400_lines_and_a_function_50():
    assert len(SOURCES) > 20
    long = [f"{path}: {n} lines" for path in SOURCES if (n := text_of(path).count("\n")) > 400]
    for path in SOURCES:
        for node in ast.walk(ast.parse(text_of(path))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                n = (node.end_lineno or 0) - node.lineno + 1
                long += [f"{path}: {node.name}: {n} lines"] * (n > 50)

    assert long == []


def test_no_drawer_without_a_label():
    assert [str(path) for path in SOURCES if path.stem in ("utils", "helpers", "common", "misc")] == []


def test_the_init_of_a_package_is_empty():
    assert Path("training") in PACKAGES
    assert [str(path) for path in PACKAGES if text_of(path / "__init__.py")] == []


def test_each_room_has_a_short_readme():
    missing, long = [], []
    for room in [*PACKAGES, Path("configs")]:
        readme = room / "README.md"
        if readme not in FILES:
            missing.append(str(readme))
        elif text_of(readme).count("\n") > (80 if room == Path("training") else 60):
            long.append(str(readme))

    assert (missing, long) == ([], [])


def rooms_of_the_map() -> Iterator[str]:
    """Folders of the README's map; how far a line is indented says what it lies in."""
    (tree,) = re.findall(r"```text\n(.*?)```", text_of(Path("README.md")), re.DOTALL)
    above: list[tuple[int, str]] = []
    for indent, name in re.findall(r"^( *)(\w+)/ ", tree, re.MULTILINE):
        above = [(depth, room) for depth, room in above if depth < len(indent)]
        above.append((len(indent), name))
        yield "/".join(room for _, room in above)


def test_the_readmes_map_is_the_house():
    top = {path.parts[0] for path in FILES if len(path.parts) > 1 and not path.parts[0].startswith(".")}

    assert sorted(rooms_of_the_map()) == sorted(top | {str(path) for path in PACKAGES})


def test_no_file_names_a_package_index_or_a_place_on_some_machine():
    hosts = [
        r"pypi\b\.org",
        r"pythonhosted\b\.org",
        r"download\b\.pytorch\.org",
        r"(?i:index[-_ ]?(?:url)?)\W{1,4}https?://(?!127\.)",
    ]
    places = [rf"(?<![\w./~>-])/{place}(?:/|\b)" for place in ("work", "root", "Users", "home/(?!<)")]
    named = re.compile("|".join([*hosts, *places]))

    found = [f"{path}: {match[0]}" for path in FILES for match in named.finditer(text_of(path))]

    assert found == []


def test_nothing_of_the_house_is_ignored_by_mistake():
    ignored = git("ls-files", "--others", "--ignored", "--exclude-standard", "bootstrap", "configs", "infra", "tests", "training")

    assert [line for line in ignored.stdout.splitlines() if not line.endswith(".pyc")] == []


def test_the_lock_stays_out():
    assert git("check-ignore", "--quiet", "uv.lock").returncode == 0
    assert Path("uv.lock") not in FILES


def test_fab_lists_its_verbs():
    listed = subprocess.run([sys.executable, "-P", "-m", "bootstrap.command", "--list"], cwd=ROOT, capture_output=True, text=True)

    assert listed.returncode == 0, listed.stderr
    assert re.findall(r"^  (\w+)  ", listed.stdout, re.MULTILINE) == [
        "adopt", "bench", "bootstrap", "check", "cost", "demo", "down", "init", "lock", "logs", "preflight", "pull", "status",
        "stop", "sweep", "train", "up",
    ]  # fmt: skip


@pytest.mark.parametrize("verb", sorted(fabfile.__all__))
def test_help_of_a_verb_of_fab_has_an_example_and_says_what_each_option_is_without_it(verb):
    task = getattr(fabfile, verb)
    parameters = set(inspect.signature(task.body).parameters) - {"c"}

    (example,) = re.findall(r"^ +Example: \./fab (.*)$", task.__doc__ or "", re.MULTILINE)
    typed, *words = shlex.split(example)

    assert typed == verb
    assert {word[2:].replace("-", "_") for word in words if word.startswith("--")} <= parameters
    assert {name.replace("_", "-") for name in parameters} == set(task.help)
    assert [name for name, text in task.help.items() if "default" not in text and "several times" not in text] == []


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example_that_can_be_typed(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")

    with pytest.raises(SystemExit, match=r"^0$"):
        parser().parse_args([verb, "--help"])

    (example,) = re.findall(r"^example: training (.*)$", capsys.readouterr().out, re.MULTILINE)
    words = shlex.split(example)
    assert words[0] == verb
    parser().parse_args(words)
    assert [word for word in words if word.endswith((".yaml", ".toml")) and not (ROOT / word).exists()] == []
