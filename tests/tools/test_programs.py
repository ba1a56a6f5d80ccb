"""Which tests a machine leaves out, what is said about them, and what apt is asked for. A bare machine is tried by `.ci/run`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import programs
from tests.tools.programs import DEBIAN, REASON, closing_line, own_namespaces, require

ROOT = Path(__file__).parents[2]
MISSING = """
from tests.tools.programs import DEBIAN

DEBIAN |= {"no-such-rsync": "rsync-of-tests", "no-such-disk": "rsync-of-tests"}
"""
TESTS = """
import pytest
from tests.tools.programs import require

@pytest.fixture
def disk():
    require("no-such-disk")

@pytest.mark.needs("no-such-rsync", "sh")
def test_marked(): ...

def test_with_a_fixture(disk): ...

def test_that_needs_nothing(): ...
"""


@pytest.fixture
def missing(monkeypatch) -> None:
    """Two programs that no machine has, one of them in a package."""
    monkeypatch.setitem(DEBIAN, "no-such-rsync", "rsync-of-tests")
    monkeypatch.setitem(programs.ELSEWHERE, "no-such-disk", "buy a disk")
    monkeypatch.delenv("CI", raising=False)


@pytest.mark.usefixtures("missing")
def test_a_missing_program_skips_and_the_reasons_make_one_line(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    require("sh")
    reasons = ["Skipped: needs a CUDA device"]
    for names in (("no-such-rsync", "sh"), ("no-such-disk", "no-such-rsync")):
        with pytest.raises(pytest.skip.Exception) as skipped:
            require(*names)
        reasons.append(f"Skipped: {skipped.value}")

    assert closing_line(reasons[:1]) is None
    assert closing_line(reasons) == (
        "left out: 2 tests, for want of no-such-disk, no-such-rsync. To run them: sudo apt-get install rsync-of-tests; buy a disk"
    )


@pytest.mark.usefixtures("missing")
def test_in_ci_a_missing_program_fails(monkeypatch):
    monkeypatch.setenv("CI", "true")

    with pytest.raises(AssertionError, match=rf"{REASON}no-such-rsync \(.*apt-get install rsync-of-tests\)"):
        require("no-such-rsync")


def test_pytest_ends_with_the_line(tmp_path):
    (tmp_path / "conftest.py").write_text(MISSING)
    (tmp_path / "test_some.py").write_text(TESTS)
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_ADDOPTS")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # zarr brings a plugin, which takes seconds to load
    words = [sys.executable, "-m", "pytest", "-q", "-p", "xdist", "-p", "tests.tools.programs", "-n", "2"]
    words += ["--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)

    assert "1 passed, 2 skipped" in done.stdout, done.stdout + done.stderr
    said = done.stdout.splitlines()[-1]
    assert said.startswith("left out: 2 tests, for want of no-such-disk, no-such-rsync. To run them: ")
    assert said.endswith("apt-get install rsync-of-tests")


@pytest.fixture
def apt(tmp_path, monkeypatch) -> Path:
    """Notes of what apt-get is asked for; it fails where the file `fails` lies beside them."""
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\n[ ! -e {tmp_path}/fails ] || {{ echo "E: no network" >&2; exit 100; }}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(programs, "DEBIAN", {"sh": "dash"})
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path / "asked"


def test_nothing_is_asked_of_apt_when_all_is_here(apt, capsys):
    programs.install()

    assert not apt.exists()
    assert capsys.readouterr() == ("", "")


def test_root_installs_what_is_missing_and_upgrades_nothing(apt, capsys):
    programs.DEBIAN["no-such-rsync"] = "rsync-of-tests"

    programs.install()

    assert apt.read_text().splitlines() == ["update", "install --yes --no-install-recommends --no-upgrade rsync-of-tests"]
    assert capsys.readouterr().out == "installing what tests need, by apt: rsync-of-tests\n"


def test_an_ordinary_user_installs_nothing(apt, monkeypatch):
    programs.DEBIAN["no-such-rsync"] = "rsync-of-tests"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    programs.install()

    assert not apt.exists()


def test_a_server_that_systemd_would_start_is_left_to_the_owner(apt, monkeypatch):
    programs.DEBIAN["no-such-sshd"] = "openssh-server"
    monkeypatch.setattr(os.path, "isdir", lambda path: path == "/run/systemd/system")

    programs.install()

    assert not apt.exists()


def test_an_apt_that_fails_says_why_and_ends_nothing(apt, capsys):
    programs.DEBIAN["no-such-rsync"] = "rsync-of-tests"
    (apt.parent / "fails").touch()

    programs.install()

    assert "apt-get update failed: E: no network" in capsys.readouterr().err


@pytest.mark.needs("unshare", "mount")
def test_namespaces_mount_for_whom_they_are_given():
    require(programs.NAMESPACES)
    words = own_namespaces()
    assert words is not None

    done = subprocess.run(
        [*words, "sh", "-c", "mount -t tmpfs tmpfs /mnt && touch /mnt/x && ls /mnt"], capture_output=True, text=True
    )

    assert done.stdout == "x\n", done.stderr
    assert not Path("/mnt/x").exists()
