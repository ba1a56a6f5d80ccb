"""Of two laptops that start one run, one wins with its own files, and the other is told."""

import threading
from pathlib import Path

import pytest

from training.errors import RunError, UserError
from training.runner.job import JobPaths
from training.runner.staging import FILES, is_staged, take, turn_away, wait_until_taken


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    folder = tmp_path / ".staged" / "screen.1234"
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text("name: screen\n")
    (folder / "job.json").write_text("{}")
    return folder


@pytest.fixture
def paths(tmp_path: Path) -> JobPaths:
    (tmp_path / "jobs" / "screen").mkdir(parents=True)
    return JobPaths(tmp_path, "screen")


def test_what_is_taken_replaces_what_was_there(staged, paths):
    paths.run_file.write_text("of an earlier start")

    take(paths, staged)

    assert (paths.run_file.read_text(), paths.job_file.read_text()) == ("name: screen\n", "{}")
    assert not staged.exists()


@pytest.mark.parametrize("name", ["run.yaml", "job.json"])
def test_half_a_start_changes_nothing(staged, paths, name):
    (staged / name).unlink()

    with pytest.raises(UserError, match=f"has no {name}"):
        take(paths, staged)

    assert list(paths.folder.iterdir()) == []


def test_who_waits_is_told_when_it_was_taken(staged, paths):
    threading.Timer(0.3, take, (paths, staged)).start()

    wait_until_taken(staged, 20)

    assert paths.job_file.exists()


def test_who_waits_is_told_when_it_was_turned_away(staged):
    threading.Timer(0.3, turn_away, (staged, "screen: has a living supervisor already")).start()

    with pytest.raises(UserError, match="has a living supervisor already"):
        wait_until_taken(staged, 20)

    assert not staged.exists()


def test_nobody_waits_for_ever(staged):
    with pytest.raises(RunError, match=r"no supervisor took it within 0\.3 seconds"):
        wait_until_taken(staged, 0.3)


def test_who_is_at_it_is_waited_for(staged, paths):
    """A bucket that is asked first may take longer to answer than anybody waits for nobody."""
    looks = [True, True, False]

    def is_at_it() -> bool:
        if len(looks) == 1:
            take(paths, staged)
        return looks.pop(0)

    wait_until_taken(staged, 0.05, is_at_it)

    assert paths.job_file.exists()


def test_what_nobody_waits_for_any_more_is_not_taken_later(staged, paths):
    with pytest.raises(RunError, match="it is withdrawn"):
        wait_until_taken(staged, 0.1)

    with pytest.raises(UserError, match=r"has no run\.yaml"):
        take(paths, staged)
    assert list(paths.folder.iterdir()) == list(staged.parent.iterdir()) == []


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_kill_in_the_middle_leaves_what_the_next_start_takes(staged, paths, moved):
    taken = staged.rename(staged.with_name(f"{staged.name}.taken"))
    for name in FILES[:moved]:
        (taken / name).rename(paths.folder / name)
    assert is_staged(staged)

    take(paths, staged)

    assert (paths.run_file.read_text(), paths.job_file.read_text()) == ("name: screen\n", "{}")
    assert not is_staged(staged)


def test_nobody_is_left_to_tell(tmp_path):
    turn_away(tmp_path / "gone", "too late")

    assert not (tmp_path / "gone").exists()
