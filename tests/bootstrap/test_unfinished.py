"""A run that has not finished, on a machine behind a real sshd, and data that a second bootstrap would change."""

import fcntl
import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap import facts
from bootstrap.apply import apply
from bootstrap.bootstrap import _local
from bootstrap.connection import Host
from bootstrap.data import files_of
from bootstrap.steps import Wanted, folders
from bootstrap.steps import data as data_step
from tests.tools.ssh_machine import SshMachine
from training.errors import UserError

NOTHING = Wanted(Path("uv"), "", "", (), 0, (), "", "", "", None, None, True, (), "")
SPLIT = '[datasets]\nscreen = "data/screen/{a,b,c}*.h5ad"\n[training]\nscreen = "train"\n'
Bring = Callable[[], int]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three files of a laptop, of which a run reads two, and its features."""
    folder = tmp_path / "project" / "data" / "screen"
    folder.mkdir(parents=True)
    for name in ("a.h5ad", "b.h5ad", "other.h5ad", "genes.npz"):
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def bring(host: Host, data: Path) -> Bring:
    """`fab bootstrap --data data/screen`, as far as it is about data; how many steps it took."""

    def to_machine() -> int:
        apply(host, folders(facts.ask(host), NOTHING))
        found = facts.ask(host)
        local = _local(host, found, data.parents[1], data, files_of(data))
        return apply(host, data_step(found, replace(NOTHING, local_data=(local,))))

    return to_machine


def start(machine: SshMachine, phase: str, split: str = "split.toml", has_checkpoint: bool = True) -> Path:
    """A run called screen, as a supervisor that has ended leaves it."""
    root = machine.disk / "incubator"
    (root / "jobs" / "screen").mkdir(parents=True)
    (root / "jobs" / "screen" / "job.json").write_text("{}")
    (root / "jobs" / "screen" / "run.yaml").write_text(
        f"data:\n  split: {split}  # held-out conditions\n  perturbation_features_file: data/screen/genes.npz\n"
    )
    (root / "jobs" / "screen" / "state.json").write_text(json.dumps({"format": 1, "phase": phase}, indent=1))
    (root / "code" / "split.toml").write_text(SPLIT)
    if has_checkpoint:
        checkpoint = root / "runs" / "screen" / "checkpoints" / "step=000000008"
        checkpoint.mkdir(parents=True)
        (checkpoint / "MANIFEST.json").touch()
    return root


def there(machine: SshMachine) -> dict[str, str]:
    return {path.name: path.read_text() for path in (machine.disk / "incubator" / "data" / "screen").iterdir()}


def remove(data: Path) -> None:
    (data / "a.h5ad").unlink()


def replace_file(data: Path) -> None:
    (data / "b.h5ad").write_text("longer than it was")


def add(data: Path) -> None:
    (data / "c.h5ad").touch()


def change_features(data: Path) -> None:
    (data / "genes.npz").write_text("others")


@pytest.mark.parametrize(
    ("change", "name"), [(remove, "a.h5ad"), (replace_file, "b.h5ad"), (add, "c.h5ad"), (change_features, "genes.npz")]
)
def test_what_a_stopped_run_reads_stays_as_it_is(machine, bring, data, change, name):
    bring()
    start(machine, "stopped")
    before = there(machine)
    change(data)

    with pytest.raises(
        UserError, match=rf"screen has not finished, and this would change 1 files of data/screen that it reads \({name}\)"
    ):
        bring()

    assert there(machine) == before


def test_what_no_run_reads_comes_and_goes(machine, bring, data):
    bring()
    start(machine, "stopped")
    (data / "other.h5ad").unlink()
    (data / "new.h5ad").write_text("new")
    os.utime(data / "a.h5ad", (10**9, 10**9))  # copied anew on the laptop, and the same

    bring()

    assert set(there(machine)) == {"a.h5ad", "b.h5ad", "genes.npz", "new.h5ad"}


@pytest.mark.parametrize(
    ("phase", "has_checkpoint", "is_kept"),
    [
        ("running", False, True),  # its machine was switched off: the next boot goes on with it
        ("interrupted", False, True),
        ("failed", True, True),
        ("failed", False, False),
        ("stopped", False, False),
        ("finished", True, False),
    ],
)
def test_a_run_keeps_its_data_as_long_as_it_may_go_on(machine, bring, data, phase, has_checkpoint, is_kept):
    bring()
    start(machine, phase, has_checkpoint=has_checkpoint)
    remove(data)

    if is_kept:
        with pytest.raises(UserError, match="screen has not finished"):
            bring()
    else:
        bring()

    assert ("a.h5ad" in there(machine)) == is_kept


def test_a_run_that_lives_keeps_its_data(machine, bring, data):
    bring()
    root = start(machine, "failed", has_checkpoint=False)  # and `train` has just been said again
    remove(data)
    with (root / "jobs" / "screen" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        with pytest.raises(UserError, match="screen has not finished"):
            bring()


@pytest.mark.parametrize("split", ["gone.toml", "/mnt/data/incubator/code/split.toml", "[]"])
def test_a_run_whose_split_file_is_elsewhere_or_unknown_keeps_its_data(machine, bring, data, split):
    bring()
    start(machine, "stopped", split)
    remove(data)

    with pytest.raises(UserError, match="screen has not finished"):
        bring()


def test_a_run_that_is_given_up_as_the_message_says_keeps_nothing(machine, bring, data):
    bring()
    root = start(machine, "stopped")
    remove(data)

    with pytest.raises(UserError) as refusal:
        bring()
    command = re.search(r"then (ssh .*)$", str(refusal.value))
    assert command is not None
    subprocess.run(["sh", "-c", command[1]], check=True, stdin=subprocess.DEVNULL)
    bring()

    assert "a.h5ad" not in there(machine)
    assert not (root / "runs" / "screen").exists()
