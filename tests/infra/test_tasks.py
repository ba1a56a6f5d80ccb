"""The verbs of the cloud as they are typed: what they print, and their exit codes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from invoke.exceptions import Exit

import fabfile
from infra import tasks
from infra.policy import INSTANCE
from infra.sweep import Billed
from tests.tools.stand_in_cloud.by_hand import put_machine
from tests.tools.stand_in_cloud.place import Place
from tests.tools.stand_in_cloud.rest_resources import lister
from tests.tools.stand_in_cloud.world import DISK, World
from training.errors import RunError, UserError

ROOT = Path(__file__).parents[2]
FAB = Path(sys.executable).parent / "fab"
Done = subprocess.CompletedProcess[str]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGmcBFPQyLPCGxqGRvWDrtbjWKA6hAIdJGnRMGbTiA9u ada@lab"


def fab(*words: str, stdin: str = "", **environment: str) -> Done:
    """`fab WORDS` in the working directory."""
    env = {**os.environ, **environment}
    return subprocess.run([FAB, "-r", ROOT, *words], env=env, capture_output=True, text=True, input=stdin, timeout=120)


@pytest.fixture
def typed(cloud_of: Callable[[Place], Place], rented: Place) -> Place:
    """A place with a rented machine, where verbs are typed."""
    return cloud_of(rented)


def old_pulumi(folder: Path, version: str) -> str:
    """A PATH on which `pulumi` is another."""
    folder.mkdir()
    (folder / "pulumi").write_text(f"#!/bin/sh\necho {version}\n")
    (folder / "pulumi").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize("verb", ["up", "down", "preflight", "cost"])
def test_without_pulumi_it_says_where_to_get_it(verb, tmp_path):
    (tmp_path / "bin").mkdir()

    done = fab(verb, "--stack", "l4", PATH=str(tmp_path / "bin"))

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("refused: there is no pulumi on the PATH; on Linux: curl -fsSL https://get.pulumi.com | sh")


def test_an_old_pulumi_is_refused_with_its_version(tmp_path):
    done = fab("up", "--stack", "l4", PATH=old_pulumi(tmp_path / "bin", "v3.100.0"))

    assert done.returncode == 2
    assert "is version v3.100.0 (accepted: 3.250.0 or newer); update it" in done.stderr


def test_with_no_stack_selected_it_names_those_there_are(empty, at):
    at(empty)

    for verb in ("up", "down", "preflight", "cost"):
        done = fab(verb)
        assert done.returncode == 2
        assert "no stack is chosen: add --stack NAME" in done.stderr
        assert "cpu, l4, l4-spot, storage" in done.stderr


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"PULUMI_CONFIG_PASSPHRASE": "another"}, "pulumi has no passphrase, or a wrong one"),
        ({"PULUMI_BACKEND_URL": ""}, "pulumi is not logged in; run: pulumi login file://~"),
    ],
)
def test_a_closed_door_is_told_with_its_key(stored, cloud_of, environment, said):
    cloud_of(stored)

    done = fab("up", "--stack", "l4", **environment)

    assert done.returncode == 2, done.stderr
    assert said in done.stderr


def test_nothing_is_made_of_a_stack_whose_file_is_not_whole(stored, at):
    place = at(stored)

    done = fab("up", "--stack", "l4-spot")

    assert done.returncode == 2
    assert "gcp:project is not set" in done.stderr
    assert "l4-spot" not in place.engine.run("stack", "ls").stdout


def test_a_stack_that_has_no_file_is_refused(empty, at):
    at(empty)

    done = fab("up", "--stack", "nowhere")

    assert done.returncode == 2
    assert "stack nowhere: there is no configs/stacks/Pulumi.nowhere.yaml" in done.stderr


def test_a_stack_that_is_not_in_this_backend_says_how_to_make_it(empty, at):
    at(empty)

    for verb in ("preflight", "cost"):
        done = fab(verb, "--stack", "l4-spot")
        assert done.returncode == 2
        assert "stack l4-spot is not in this backend yet; run: pulumi stack init l4-spot" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cost", "--stack", "storage"), "stack storage is no machine"),
        (("cost", "--stack", "l4", "--until", "Monday"), "--until: Monday (accepted: a date such as 2026-12-01)"),
        (("down", "--stack", "storage"), "holds the bucket with your results, and is protected"),
    ],
)
def test_what_makes_no_sense_is_refused(stored, at, words, said):
    at(stored)

    done = fab(*words)

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_sweep_needs_no_pulumi_but_a_project(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "configs" / "stacks", tmp_path / "configs" / "stacks")
    shutil.copy(ROOT / "Pulumi.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)

    done = fab("sweep", PATH=str(tmp_path))

    assert done.returncode == 2
    assert "gcp:project: not set in any file; add --project PROJECT" in done.stderr


@pytest.mark.parametrize("text", ["config: [1]\n", "config:\n\ta: b\n", "config:\n"])
def test_a_broken_file_of_a_stack_is_named(tmp_path, monkeypatch, text):
    shutil.copytree(ROOT / "configs" / "stacks", tmp_path / "configs" / "stacks")
    shutil.copy(ROOT / "Pulumi.yaml", tmp_path)
    (tmp_path / "configs" / "stacks" / "Pulumi.l4.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)

    done = fab("sweep", "--stack", "l4")

    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "configs/stacks" in done.stderr


def test_a_sweep_of_a_name_that_no_stack_can_have_is_refused():
    done = fab("sweep", "--stack", "L4", "--project", "demo-project")

    assert done.returncode == 2
    assert "stack L4: its name becomes part of names in the cloud" in done.stderr


def test_what_a_machine_costs(typed):
    done = fab("cost", "--stack", "l4", "--until", "2099-01-01")

    assert done.returncode == 0, done.stderr
    assert "about" in done.stdout
    assert "2099-01-01" in done.stdout


def test_a_stack_that_nobody_knows_is_no_stack_that_costs_nothing(monkeypatch):
    class NothingThere:
        def __init__(self, stack: str) -> None:
            self.stack = stack

        def names(self) -> set[str]:
            return {"l4-of-the-state"}

    monkeypatch.setattr(fabfile, "Engine", NothingThere)
    monkeypatch.setattr(fabfile, "machine_of", lambda engine: None)

    for stack, said in (("typo", "stack typo: there is no such file .*accepted: .*l4-of-the-state"), ("../L4", "its name becomes")):
        with pytest.raises(Exit, match=said):
            fabfile.down.body(None, stack=stack)


def test_down_destroys_nothing_that_it_could_not_ask_for_its_last_results(typed, tmp_path):
    (tmp_path / "bin").mkdir()
    broken = tmp_path / "bin" / "ssh"
    typed.set("l4", sshUser="ada", sshPublicKey=KEY)
    assert typed.engine.up("l4").returncode == 0
    broken.write_text("#!/bin/sh\necho 'Connection timed out' >&2; exit 255\n")
    broken.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"

    refused = fab("down", "--stack", "l4", "--seconds", "2", PATH=path)

    assert refused.returncode == 2
    assert "incubator-l4 has not brought all its results (incubator-l4 does not answer after " in refused.stderr
    assert "Connection timed out). Nothing was destroyed" in refused.stderr
    assert typed.ids(INSTANCE) != []

    (tmp_path / "bin" / "mountpoint").symlink_to("/bin/true")  # the machine answers; nothing was ever run there
    broken.write_text('#!/bin/sh\ncase "$*" in *" -f -N "*) exit ;; esac\nfor command; do :; done\neval "$command"\n')
    done = fab("down", "--stack", "l4", PATH=path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert typed.ids() == []


def test_a_disk_without_its_vm_may_hold_what_the_bucket_does_not(typed):
    with typed.world.edit() as state:
        for key in [key for key, one in state["resources"].items() if one["type"] == INSTANCE or one.get("boot_of")]:
            del state["resources"][key]

    refused = fab("down", "--stack", "l4")

    assert refused.returncode == 2
    assert "the VM is gone, its data disk may not be" in refused.stderr
    assert len(typed.ids()) == 6


def test_a_stopped_machine_may_hold_what_the_bucket_does_not(typed):
    with typed.world.edit() as state:
        (vm,) = [one for one in state["resources"].values() if one["type"] == INSTANCE]
        vm["status"] = "TERMINATED"

    refused = fab("down", "--stack", "l4")
    assert refused.returncode == 2
    start = "gcloud compute instances start incubator-l4 --zone=us-central1-a --project=demo-project"
    assert f"The VM is TERMINATED. To start it, so that it brings the rest: {start}; then ./fab down --stack l4" in refused.stderr

    done = fab("down", "--stack", "l4", "--without-sync")
    assert done.returncode == 0, done.stdout + done.stderr
    assert typed.ids() == []


def test_sweep_lists_what_costs_and_deletes_only_on_a_whole_yes(typed):
    listed = fab("sweep", "--stack", "l4")
    assert listed.returncode == 1
    assert all(name in listed.stdout for name in ("incubator-l4", "incubator-l4-data", "incubator-l4-router"))

    in_use = fab("sweep", "--stack", "l4", "--delete", stdin="yes\n")
    assert in_use.returncode == 1
    assert "incubator-l4 runs, and a run may be on it: ./fab down --stack l4 brings its results to the bucket" in in_use.stderr
    assert "Delete these" not in in_use.stdout
    assert typed.ids(INSTANCE) != []

    for answer in ("y\n", ""):
        kept = fab("sweep", "--stack", "l4", "--delete", "--without-sync", stdin=answer)
        assert kept.returncode == 2
        assert "refused: nothing was deleted" in kept.stderr
        assert typed.ids(INSTANCE) != []

    swept = fab("sweep", "--stack", "l4", "--delete", "--without-sync", stdin="yes\n")
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert typed.ids() == []  # the network with its rules and subnets too: the next `up` finds no name taken
    nothing = fab("sweep", "--stack", "l4")
    assert nothing.returncode == 0
    assert "Nothing of stack l4 costs money" in nothing.stdout


@pytest.mark.parametrize("status", ["TERMINATED", "SUSPENDED", "A-STATUS-TO-COME"])
def test_a_machine_that_is_off_is_spared_with_its_disks_unless_that_is_meant(tmp_path, monkeypatch, capsys, status):
    world, deleted = World.create(tmp_path / "world.json"), list[Billed]()
    with world.edit() as state:
        put_machine(state, status=status)
        put_machine(state, "old", public=True)
        for key in [key for key, one in state["resources"].items() if key.endswith("/incubator-old") and one["type"] != DISK]:
            del state["resources"][key]
    monkeypatch.setattr("infra.sweep.gcloud", lister(world))
    monkeypatch.setattr(tasks, "delete", deleted.extend)
    monkeypatch.setattr("builtins.input", lambda question: "incubator-old-data" if "Type incubator-old-data" in question else "yes")

    with pytest.raises(RunError) as told:
        tasks.sweep_up("demo-project", None, and_delete=True)

    assert {item.name for item in deleted} == {"incubator-old", "incubator-old-data"}
    assert "incubator-l4 " in str(told.value)
    assert ": ./fab down --stack l4 brings its results to the bucket and removes it" in str(told.value)
    assert "--delete removes them" not in str(told.value)
    with pytest.raises(RunError):
        tasks.sweep_up("demo-project", "l4", and_delete=True, without_sync=True)
    assert {"incubator-l4", "incubator-l4-data"} <= {item.name for item in deleted}


def orphaned(world: World, **disk: str) -> None:
    """A data disk and its network, whose VM somebody has deleted."""
    with world.edit() as state:
        put_machine(state, public=True)
        for key in [key for key, one in state["resources"].items() if one["type"] == INSTANCE or one.get("boot_of")]:
            del state["resources"][key]
        next(one for one in state["resources"].values() if one["type"] == DISK).update(disk)


@pytest.mark.parametrize(
    ("answers", "without_sync", "deleted"),
    [
        (["yes", "yes"], False, {"incubator-l4"}),
        (["yes", "incubator-l4-data"], False, {"incubator-l4", "incubator-l4-data"}),
        (["no"], False, set()),
        (["yes"], True, {"incubator-l4", "incubator-l4-data"}),
    ],
)
def test_a_data_disk_without_its_vm_goes_by_its_name_alone(
    tmp_path, monkeypatch, capsys, answers: list[str], without_sync: bool, deleted: set[str]
):
    world, gone, questions = World.create(tmp_path / "world.json"), list[Billed](), iter(answers)
    orphaned(world, lastDetachTimestamp="2026-11-21T10:00:00.000-08:00")
    monkeypatch.setattr("infra.sweep.gcloud", lister(world))
    monkeypatch.setattr(tasks, "delete", gone.extend)
    monkeypatch.setattr("builtins.input", lambda question: next(questions))

    with pytest.raises((RunError, UserError)):  # the stand-in still lists all
        tasks.sweep_up("demo-project", None, and_delete=True, without_sync=without_sync)

    assert {item.name for item in gone} == deleted
    assert list(questions) == []
    said = capsys.readouterr().out
    assert "incubator-l4-data in us-central1-a (200 GiB pd-balanced, used by no VM since 2026-11-21; " in said
    assert "what never came to the bucket is on it alone, and would be lost. To look first: ./fab up --stack l4" in said
    assert "create look-at-it --project=demo-project --zone=us-central1-a --disk=name=incubator-l4-data\n" in said


def test_a_name_that_is_not_typed_deletes_nothing(tmp_path, monkeypatch):
    world, gone = World.create(tmp_path / "world.json"), list[Billed]()
    orphaned(world)
    with world.edit() as state:
        for key in [key for key, one in state["resources"].items() if one["type"] != DISK]:
            del state["resources"][key]
    monkeypatch.setattr("infra.sweep.gcloud", lister(world))
    monkeypatch.setattr(tasks, "delete", gone.extend)
    monkeypatch.setattr("builtins.input", lambda question: "yes")

    with pytest.raises(UserError, match="nothing was deleted"):
        tasks.sweep_up("demo-project", None, and_delete=True)

    assert gone == []


def test_the_programs_bring_no_torch():
    modules = "infra.storage, infra.machine, infra.network, infra.stack, infra.tasks, infra.rent"
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys, {modules}; print([name for name in ('torch', 'lightning', 'anndata') if name in sys.modules])",
        ],
        capture_output=True,
        text=True,
        check=True,
    )

    assert told.stdout.strip() == "[]"
