"""Data of the laptop on a machine behind a real sshd: files come, go and differ, and no run reads what is not meant."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap import facts as machine_facts
from bootstrap.apply import apply
from bootstrap.bootstrap import _local
from bootstrap.data import _there, brought, compare, files_of, record_name, record_of
from bootstrap.facts import Facts
from bootstrap.steps import Wanted, folders
from bootstrap.steps import data as data_step
from training.errors import UserError
from training.runner.status import strays

NOTHING = Wanted(Path("uv"), "", "", (), 0, (), "", "", "", None, None, True, (), "")
SPLIT = '[datasets]\nscreen = "data/screen/*.h5ad"\n[training]\nscreen = "train"\n'


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A laptop's project with two files of data, in which one is."""
    folder = tmp_path / "project"
    (folder / "data" / "screen" / "more").mkdir(parents=True)
    (folder / "data" / "screen" / "a.h5ad").write_text("a")
    (folder / "data" / "screen" / "more" / "notes.txt").write_text("notes")
    (folder / "screen_split.toml").write_text(SPLIT)
    return folder


@pytest.fixture
def bring(host, project):
    """`fab bootstrap --data data/screen`, as far as it is about data; how many steps it took."""

    def to_machine(source: str = "data/screen") -> int:
        apply(host, folders(machine_facts.ask(host), NOTHING))
        found = machine_facts.ask(host)
        local = _local(host, found, project, project / source, files_of(project / source))
        return apply(host, data_step(found, replace(NOTHING, local_data=(local,))))

    return to_machine


@pytest.fixture
def shipped(machine, bring, project):
    """The data are there, and the split file, which travels as code."""
    bring()
    (machine.disk / "incubator" / "code" / "screen_split.toml").write_text(SPLIT)


def names(machine) -> set[str]:
    root = machine.disk / "incubator" / "data"
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def check(host, project) -> None:
    compare(host, machine_facts.ask(host), "screen_split.toml", None, project)


def test_a_file_that_was_renamed_here_has_its_new_name_alone_there(machine, bring, project):
    bring()
    (project / "data" / "screen" / "a.h5ad").rename(project / "data" / "screen" / "b.h5ad")
    (project / "data" / "screen" / "about.txt").touch()
    bring()
    (project / "data" / "screen" / "more" / "notes.txt").unlink()
    (project / "data" / "screen" / "more").rmdir()

    bring()

    assert names(machine) == {"screen/b.h5ad", "screen/about.txt"}
    assert not (machine.disk / "incubator" / "data" / "screen" / "more").exists()
    assert bring() == 0


def test_what_no_bootstrap_has_brought_stays(machine, bring, project):
    bring()
    (machine.disk / "incubator" / "data" / "screen" / "mine.h5ad").write_text("by hand")
    (project / "data" / "screen" / "more" / "notes.txt").unlink()

    bring()

    assert names(machine) == {"screen/a.h5ad", "screen/mine.h5ad"}


def test_a_file_alone_and_its_folder_are_recorded_apart(machine, bring, project):
    bring("data/screen/a.h5ad")
    assert names(machine) == {"screen/a.h5ad"}
    bring()
    (project / "data" / "screen" / "more" / "notes.txt").unlink()

    bring("data/screen/a.h5ad")

    assert names(machine) == {"screen/a.h5ad", "screen/more/notes.txt"}


def refused(bring, source: str) -> tuple[str, list[str]]:
    """Why, and the commands that the refusal has."""
    with pytest.raises(UserError) as refusal:
        bring(source)
    return str(refusal.value), re.findall(r"ssh -F \S+ \S+ '[^']*'", str(refusal.value))


def test_an_empty_folder_here_removes_nothing_until_one_says_so(machine, bring, project):
    bring()
    for path in (project / "data" / "screen").rglob("*.*"):
        path.unlink()

    why, (remove,) = refused(bring, "data/screen")
    kept = names(machine)
    subprocess.run(["sh", "-c", remove], check=True, stdin=subprocess.DEVNULL)

    assert "(2 files: a.h5ad, more/notes.txt): is a disk not mounted?" in why
    assert kept == {"screen/a.h5ad", "screen/more/notes.txt"}
    assert names(machine) == set()
    bring()


@pytest.mark.parametrize(("first", "then"), [("data/screen/a.h5ad", "data/screen"), ("data/screen/more", "data/screen")])
def test_what_came_alone_and_is_gone_here_goes_with_its_folder(machine, bring, project, first, then):
    bring(first)
    shutil.move(project / first, project / "elsewhere")

    bring(then)

    assert not names(machine) & {"screen/a.h5ad" if first.endswith("h5ad") else "screen/more/notes.txt"}
    assert bring(then) == 0


@pytest.mark.parametrize("source", ["runs/screen", "runs/screen/more", "runs", "runs/loose.h5ad"])
def test_data_never_go_where_a_run_is_or_beside_it(machine, bring, project, source):
    (project / "runs" / "screen" / "more").mkdir(parents=True)
    (project / "runs" / "screen" / "more" / "model.pt").write_text("mine")
    (project / "runs" / "loose.h5ad").write_text("cells")
    (machine.disk / "incubator" / ("jobs/screen" if source == "runs/screen" else "runs/screen")).mkdir(parents=True)

    with pytest.raises(UserError, match=r"accepted: a folder such as runs/NAME|runs/screen of incubator-l4 is the folder of a run"):
        bring(source)

    assert list((machine.disk / "incubator" / "runs").rglob("*.*")) == []


@pytest.mark.parametrize("source", ["runs/demo_data", "runs/demo_data/more"])
def test_a_folder_below_runs_that_is_no_run_is_marked_and_is_brought_again(machine, bring, project, source):
    (project / "runs" / "demo_data" / "more").mkdir(parents=True)
    (project / "runs" / "demo_data" / "more" / "demo.h5ad").write_text("cells")

    bring(source)

    assert strays(machine.disk / "incubator") == []
    assert bring(source) == 0


@pytest.mark.parametrize(
    ("name", "left"), [("a.h5ad", {"screen/a.h5ad"}), ("b.h5ad", {"screen/a.h5ad", "screen/b.h5ad"})], ids=["replaced", "gone"]
)
def test_a_folder_of_the_same_name_elsewhere_takes_nothing_away(machine, bring, project, tmp_path, name, left):
    for folder, text, file in (("one", "first", "a.h5ad"), ("two", "second", name)):
        (tmp_path / folder / "screen").mkdir(parents=True)
        (tmp_path / folder / "screen" / file).write_text(text)
    bring(str(tmp_path / "one" / "screen"))

    why, (remove, forget) = refused(bring, str(tmp_path / "two" / "screen"))
    kept = (machine.disk / "incubator" / "data" / "screen" / "a.h5ad").read_text()
    subprocess.run(["sh", "-c", forget], check=True, stdin=subprocess.DEVNULL)
    bring(str(tmp_path / "two" / "screen"))

    assert f":{tmp_path}/one/screen, and " in why
    assert f":{tmp_path}/two/screen would remove or replace 1 of its files (a.h5ad). Rename one of the two" in why
    assert "rm -rf -- data/screen/a.h5ad brought/data%2Fscreen.json" in remove
    assert kept == "first"
    assert names(machine) == left


def test_a_record_of_older_code_names_no_source(machine, bring, project):
    bring()
    (record,) = (machine.disk / "incubator" / "brought").iterdir()
    old = json.loads(record.read_text())
    del old["origin"]
    record.write_text(json.dumps(old) + "\n")
    (project / "data" / "screen" / "a.h5ad").unlink()

    bring()

    assert names(machine) == {"screen/more/notes.txt"}


def test_a_file_in_the_projects_root_has_a_record_that_is_read_again(machine, host, project):
    (project / "a.h5ad").write_text("a")
    found = Facts(root="/mnt/data/incubator")

    local = _local(host, found, project, project / "a.h5ad", ("a.h5ad",))
    place = machine.disk / "incubator" / "brought"
    place.mkdir(parents=True)
    (place / local.record).write_text(record_of(local.to, local.files, local.source))
    (place / "old.json").write_text('{"format": 1, "to": "code/.", "files": ["b.h5ad"]}\n')

    assert local.to == "code"
    assert [(each.to, *each.files) for each in brought(host, found)] == [("code", "a.h5ad"), ("code", "b.h5ad")]


@pytest.mark.parametrize("text", ["[]", '{"to": "../../etc", "files": []}', '{"to": "data", "files": ["../x"]}', "\x1b[2J"])
def test_a_record_that_is_none_removes_nothing(machine, bring, text):
    bring()
    (record,) = (machine.disk / "incubator" / "brought").iterdir()
    record.write_text(f"{text}\n")

    with pytest.raises(Exception, match=r"a record in /mnt/data/incubator/brought is none"):
        bring()

    assert names(machine) == {"screen/a.h5ad", "screen/more/notes.txt"}


def test_a_run_that_reads_what_is_here_is_let_through(host, project, shipped):
    check(host, project)


def rename(machine, project):
    (project / "data" / "screen" / "a.h5ad").rename(project / "data" / "screen" / "b.h5ad")


def change(machine, project):
    (project / "data" / "screen" / "a.h5ad").write_text("changed")


def change_split(machine, project):
    (project / "screen_split.toml").write_text(SPLIT + '[zeroshot]\n"screen.k562" = "test"\n')


def forget_split(machine, project):
    (machine.disk / "incubator" / "code" / "screen_split.toml").unlink()


@pytest.mark.parametrize(
    ("harm", "lines"),
    [
        (
            rename,
            ["data/screen/a.h5ad: is there, and not here: it would be trained on", "data/screen/b.h5ad: is here, and not there"],
        ),
        (change, ["data/screen/a.h5ad: is another one there"]),
        (change_split, ["screen_split.toml: is another one there"]),
        (forget_split, ["screen_split.toml: is not there"]),
    ],
)
def test_what_differs_is_listed_before_a_run_begins(machine, host, project, shipped, harm, lines):
    harm(machine, project)

    with pytest.raises(UserError) as refusal:
        check(host, project)

    head, *told = str(refusal.value).splitlines()
    assert head == "incubator-l4: what the run reads there is not what is here:"
    assert told == [*(f"  {line}" for line in lines), "To make it the same: ./fab bootstrap --data data/screen"]


def test_what_no_bootstrap_removes_is_removed_by_the_command_that_the_message_has(machine, host, project, shipped):
    (machine.disk / "incubator" / "data" / "screen" / "it's mine.h5ad").write_text("by hand")

    with pytest.raises(UserError, match=r"it's mine\.h5ad: is there, and not here") as refusal:
        check(host, project)
    command = re.search(r"No bootstrap removes .*?: (.*)", str(refusal.value))
    assert command is not None
    subprocess.run(["sh", "-c", command[1]], check=True, stdin=subprocess.DEVNULL)

    check(host, project)
    assert names(machine) == {"screen/a.h5ad", "screen/more/notes.txt"}


def test_a_data_set_in_the_projects_root_is_compared_too(machine, host, project):
    (project / "screen_split.toml").write_text('[datasets]\nscreen = "*.h5ad"\n')
    (project / "a.h5ad").write_text("a")
    os.utime(project / "a.h5ad", (10**9, 10**9))
    code = machine.disk / "incubator" / "code"
    code.mkdir(parents=True)
    for name in ("a.h5ad", "screen_split.toml"):
        shutil.copy2(project / name, code)
    found = Facts(root="/mnt/data/incubator")
    compare(host, found, "screen_split.toml", None, project)
    (project / "a.h5ad").write_text("changed")
    (code / "old.h5ad").touch()

    with pytest.raises(UserError) as refusal:
        compare(host, found, "screen_split.toml", None, project)

    _, *lines, remedy, remove = str(refusal.value).splitlines()
    assert lines == ["  old.h5ad: is there, and not here: it would be trained on", "  a.h5ad: is another one there"]
    assert remedy == "To make it the same: ./fab bootstrap --data a.h5ad"
    assert remove.startswith("No bootstrap removes old.h5ad: ssh ")


def test_what_the_machine_has_downloaded_itself_is_no_difference(machine, host, project, shipped):
    folder = machine.disk / "incubator" / "data"
    (folder / "screen" / "atlas.h5ad").write_text("from the hub")
    (folder / ".sources.json").write_text(json.dumps({"screen/atlas.h5ad": {}}))

    check(host, project)


def test_a_laptop_without_the_data_compares_nothing(host, project, shipped):
    (project / "data" / "screen" / "a.h5ad").unlink()
    (project / "screen_split.toml").unlink()

    check(host, project)


def test_a_size_that_no_file_has_is_passed_over(machine, host):
    (machine.disk / "incubator" / "code").mkdir(parents=True)
    machine.program("find", f"echo F {'9' * 5000} 1 data/a.h5ad; echo F 2 1.5 data/b.h5ad")

    assert _there(host, Facts(root="/mnt/data/incubator"), ["data"], [])[0] == {"data/b.h5ad": (2, 1)}


def test_a_record_of_a_deep_folder_has_a_name_that_a_disk_takes(tmp_path):
    names = {record_name(f"data/{'ä' * 60}/{last}", tmp_path) for last in "ab"}

    assert len(names) == 2
    assert max(map(len, names)) <= 200


def dangling(folder):
    (folder / "old.h5ad").symlink_to("/gone/cells.h5ad")


def loop(folder):
    (folder / "again").symlink_to(folder)


def pipe(folder):
    os.mkfifo(folder / "pipe")


def odd_name(folder):
    (folder / "a\nb.h5ad").touch()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (dangling, r"old\.h5ad is a link to /gone/cells\.h5ad, which is not there \(accepted: files and folders; remove it: rm "),
        (loop, r"again is a link to a folder that it lies in"),
        (pipe, r"pipe is no file: a pipe, a socket or a device"),
        (odd_name, r"'a\\nb\.h5ad': a file of this name cannot be copied to a machine; rename it"),
    ],
)
def test_what_cannot_be_copied_is_one_refusal(project, make, said):
    make(project / "data" / "screen")

    with pytest.raises(UserError, match=said) as refusal:
        files_of(project / "data" / "screen")

    assert str(refusal.value).startswith(f"--data: {project / 'data' / 'screen'}: ")
    assert str(refusal.value).isprintable()


def test_links_to_files_and_folders_are_followed(project, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.h5ad").touch()
    (project / "data" / "screen" / "linked").symlink_to(tmp_path / "elsewhere")
    (project / "data" / "screen" / "b.h5ad").symlink_to(tmp_path / "elsewhere" / "c.h5ad")

    assert files_of(project / "data" / "screen") == ("a.h5ad", "b.h5ad", "linked/c.h5ad", "more/notes.txt")
