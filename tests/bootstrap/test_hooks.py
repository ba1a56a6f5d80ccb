"""The texts that stay on the machine."""

import subprocess

import pytest

from bootstrap import hooks
from bootstrap.facts import Facts
from training.errors import UserError

ROOT = "/scratch/my cells/incubator"


@pytest.mark.parametrize("text", [hooks.boot_hook(ROOT), hooks.last_sync(ROOT)])
def test_a_hook_is_a_script_of_sh(text, tmp_path):
    (tmp_path / "hook").write_text(text)

    assert text.startswith("#!/bin/sh\n")
    assert subprocess.run(["sh", "-n", tmp_path / "hook"], capture_output=True, text=True).stderr == ""


def test_the_boot_hook_goes_on_detached_and_brings_the_swap_file_back(tmp_path):
    root = tmp_path / "incubator"
    (root / "code" / ".venv" / "bin").mkdir(parents=True)
    python = root / "code" / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/called\n')
    python.chmod(0o755)
    (tmp_path / "sudo").write_text(f'#!/bin/sh\necho "sudo $*" >>{tmp_path}/called\n')
    (tmp_path / "sudo").chmod(0o755)
    (root / "swapfile").touch()
    (root / "boot-hook").write_text(hooks.boot_hook(str(root)))

    subprocess.run(["sh", root / "boot-hook"], check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})

    called = (tmp_path / "called").read_text().splitlines()
    assert called == [f"sudo -n swapon {root}/swapfile", f"-P -m training.runner --root {root} boot"]

    subprocess.run(["sh", root / "boot-hook", "revive"], check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})

    assert (tmp_path / "called").read_text().splitlines()[2:] == [f"-P -m training.runner --root {root} revive"]


def test_code_of_before_is_asked_by_the_name_that_its_runner_had():
    old = Facts.of("root\t/scratch/incubator\nrunner\ttraining.supervision\n")

    assert Facts.of("root\t/scratch/incubator\n").runner == "training.runner"
    assert " -m training.supervision --root /scratch/incubator status" in hooks.runner(old.root, "status", module=old.runner)
    with pytest.raises(UserError, match="runner: os; reboot"):
        Facts.of("root\t/scratch\nrunner\tos; reboot\n")
