"""Code as it is brought to a machine: files come, go, and become folders."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap import facts
from bootstrap.apply import apply
from bootstrap.bootstrap import _code_changes, _removed
from bootstrap.shipping import Code
from bootstrap.steps import Wanted, folders
from bootstrap.steps import code as code_step

NOTHING = Wanted(Path("uv"), "", "", (), 0, (), "", "", "", None, None, True, (), "")


@pytest.fixture
def bring(host, tmp_path):
    """Bring these files (name -> text, or None for an executable) to the machine; what was done."""
    project = tmp_path / "project"

    def to_machine(**files):
        shutil.rmtree(project, ignore_errors=True)
        for name, text in files.items():
            path = project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text or "")
            path.chmod(0o644 if text else 0o755)
        here = Code(project, tuple(sorted(files)), "1234")
        apply(host, folders(facts.ask(host), NOTHING))
        found = facts.ask(host)
        changed, removed = _code_changes(host, found, here), _removed(host, found, here)
        wanted = replace(NOTHING, code=str(project), files=here.files, code_changes=len(changed), removed=removed, commit="1234")
        return apply(host, code_step(found, wanted))

    return to_machine


def names(machine):
    root = machine.disk / "incubator" / "code"
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")}


def test_files_come_and_go(machine, bring):
    bring(**{"a.py": "1", "b/c.py": "2", "b/d.py": "3"})
    assert names(machine) == {"a.py", "b/c.py", "b/d.py"}

    bring(**{"a.py": "1", "e/f.py": "4"})

    assert names(machine) == {"a.py", "e/f.py"}
    assert not (machine.disk / "incubator" / "code" / "b").exists()
    assert bring(**{"a.py": "1", "e/f.py": "4"}) == 0


def test_a_file_becomes_a_folder_and_a_folder_a_file(machine, bring):
    bring(**{"notes": "1", "more/a": "2"})

    bring(**{"notes/a": "1", "more": "2"})

    assert names(machine) == {"notes/a", "more"}


def test_a_mode_that_changes_is_a_change(machine, bring):
    bring(**{"run": None})
    assert bring(**{"run": None}) == 0

    bring(**{"run": "text"})

    assert (machine.disk / "incubator" / "code" / "run").stat().st_mode & 0o777 == 0o644


def test_what_nobody_shipped_stays(machine, bring):
    bring(**{"a.py": "1"})
    (machine.disk / "incubator" / "code" / "mine.txt").write_text("by hand")

    bring(**{"b.py": "1"})

    assert names(machine) == {"b.py", "mine.txt"}
