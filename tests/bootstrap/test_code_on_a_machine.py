"""Code as it is brought to a machine: files come, go, and become folders."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap import facts
from bootstrap.apply import apply
from bootstrap.bootstrap import Here, _code_changes, _local, _removed
from bootstrap.data import files_of
from bootstrap.shipping import Code
from bootstrap.steps import Wanted, folders
from bootstrap.steps import code as code_step
from bootstrap.steps import data as data_step

NOTHING = Wanted(Path("uv"), "", "", (), 0, (), "", "", "", None, None, True, (), "")


@pytest.fixture
def bring(host, tmp_path):
    """Bring these files (name -> text, or None for an executable) to the machine; how many steps it took.

    `data` is a source of `--data` in the project; the files below it that are not `tracked` are no code.
    """
    project = tmp_path / "project"

    def to_machine(data=None, tracked=True, **files):
        shutil.rmtree(project, ignore_errors=True)
        for name, text in files.items():
            path = project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text or "")
            path.chmod(0o644 if text else 0o755)
            os.utime(path, (10**9, 10**9))
        code = tuple(sorted(name for name in files if tracked or not data or not Path(name).is_relative_to(data)))
        local = ((project / data, files_of(project / data)),) if data else ()
        here = Here(Code(project, code, "1234"), local, "", "")
        apply(host, folders(facts.ask(host), NOTHING))
        found = facts.ask(host)
        changed, removed = _code_changes(host, found, here.project), _removed(host, found, here)
        wanted = replace(NOTHING, code=str(project), files=code, code_changes=len(changed), removed=removed, commit="1234")
        wanted = replace(wanted, local_data=tuple(_local(host, found, project, *each) for each in local))
        return apply(host, code_step(found, wanted)) + apply(host, data_step(found, wanted))

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


@pytest.mark.parametrize("data", ["screens", "screens/a.h5ad"], ids=["folder", "file"])
def test_code_that_becomes_data_is_there_after_one_bootstrap(machine, bring, data):
    files = {"a.py": "1", "screens/a.h5ad": "cells"}
    bring(data, tracked=True, **files)

    bring(data, tracked=False, **files)

    assert names(machine) == {"a.py", "screens/a.h5ad"}
    assert bring(data, tracked=False, **files) == 0
