"""`./fab` on machines that lack one thing or another. The shell, venv and pip are real; what is missing is left out of the PATH."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bootstrap.shipping import uv_version
from tests.tools.programs import NAMESPACES, own_namespaces, require

ROOT = Path(__file__).parent.parent
UV = """#!/bin/sh
case "$*" in "cache dir" | *bootstrap/locked.py*) exit 0 ;; esac
echo "in $(pwd), frozen: $UV_FROZEN"
for word in "$@"; do echo "[$word]"; done
"""
"""Stands in for uv: the lock is as it should be; of what else it is called for it shows where it runs and each word."""

COMMAND = "[python]\n[-P]\n[-m]\n[bootstrap.command]\n"
"""What it is called for after `run`."""

Fab = Callable[..., subprocess.CompletedProcess[str]]


def script(path: Path, text: str) -> None:
    """Write an executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def bin_dir(tmp_path) -> Path:
    """All that the PATH holds; at first what the launcher itself calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("dirname", "readlink", "rm"):
        (folder / name).symlink_to(str(shutil.which(name)))
    return folder


@pytest.fixture
def root(tmp_path) -> Path:
    """A repository with nothing in it but the launcher and the pin of uv."""
    folder = tmp_path / "a house"
    (folder / "bootstrap").mkdir(parents=True)
    shutil.copy(ROOT / "fab", folder)
    shutil.copy(ROOT / "bootstrap/uv.txt", folder / "bootstrap")
    return folder


@pytest.fixture
def fab(root, bin_dir) -> Fab:
    """`./fab WORDS`, with a PATH and an environment of its own."""

    def run(*words: str, as_typed: str = "./fab", cwd: Path = root, **environment: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(bin_dir), "PIP_CONFIG_FILE": "/dev/null", **environment}
        return subprocess.run([as_typed, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture
def real_python(bin_dir) -> None:
    """Put this Python on the PATH."""
    require("ensurepip")
    script(bin_dir / "python3", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')


def assert_gave_up(done: subprocess.CompletedProcess[str], root: Path, sentence: str) -> None:
    """One sentence last, exit code 1, nothing half-installed."""
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"fab: {sentence}"
    assert not (root / ".tools" / "uv").exists()


def test_words_go_to_uv_as_they_were_typed(fab, bin_dir, root):
    script(bin_dir / "uv", UV)

    done = fab("train", "--config", "two words", "*", "")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"in {root}, frozen: 1",
        "[run]",
        *COMMAND.split(),
        "[train]",
        "[--config]",
        "[two words]",
        "[*]",
        "[]",
    ]


def test_the_exit_code_is_the_one_of_the_task(fab, bin_dir):
    script(bin_dir / "uv", '#!/bin/sh\n[ "$*" != "run python -P -m bootstrap.command demo" ] || exit 7\n')

    assert fab("demo").returncode == 7


def test_a_lock_that_is_not_as_it_should_be_ends_it_before_anything_is_installed(fab, bin_dir):
    script(
        bin_dir / "uv", UV.replace("*bootstrap/locked.py*)", "nothing)").replace("#!/bin/sh", "#!/bin/sh\n[ $1 != run ] || exit 2")
    )

    done = fab("demo")

    assert (done.returncode, done.stdout) == (2, "")


def test_to_renew_the_lock_nothing_is_installed(fab, bin_dir):
    script(bin_dir / "uv", '#!/bin/sh\necho "$*"\n')

    lines = fab("lock").stdout.splitlines()

    assert len(lines) == 1
    assert lines[0].endswith("python -I -S bootstrap/locked.py " + str(bin_dir / "uv") + " lock")


def test_works_from_elsewhere_and_through_a_symlink(fab, bin_dir, root, tmp_path):
    script(bin_dir / "uv", UV)
    (tmp_path / "link").symlink_to(root / "fab")

    for as_typed in (str(root / "fab"), "./link"):
        assert fab("demo", as_typed=as_typed, cwd=tmp_path).stdout.startswith(f"in {root}, ")


def test_a_uv_that_does_not_run_gives_way_to_the_one_in_tools(fab, bin_dir, root):
    script(bin_dir / "uv", "#!/bin/sh\necho 'shim: uv is not installed' >&2; exit 127\n")
    script(root / ".tools/uv/bin/uv", UV)

    done = fab("demo")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("[run]\n" + COMMAND + "[demo]\n")


def test_without_python(fab, root):
    assert_gave_up(fab("demo"), root, "needs Python 3.11 or newer on the PATH; python3 is missing.")


def test_with_an_old_python(fab, bin_dir, root):
    script(bin_dir / "python3", '#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.18 || exit 1\n')

    assert_gave_up(fab("demo"), root, "needs Python 3.11 or newer on the PATH; python3 is Python 3.9.18.")


def test_without_venv(fab, bin_dir, root):
    (bin_dir / "mkdir").symlink_to(str(shutil.which("mkdir")))
    script(
        bin_dir / "python3",
        '#!/bin/sh\n[ "$1" = -c ] && exit 0\nmkdir -p .tools/uv/bin; echo "ensurepip is not available"; exit 1\n',
    )

    done = fab("demo")

    assert_gave_up(
        done,
        root,
        "python3 cannot make a virtual environment (Debian and Ubuntu: apt-get install python3-venv); or install uv yourself.",
    )
    assert "ensurepip is not available" in done.stderr


def test_in_a_folder_that_cannot_be_written_to(fab, bin_dir, root):
    script(bin_dir / "uv", UV)
    sentence = (
        f"fab: {root}: you may not write there, and ./fab keeps uv, the environment and results in it; "
        "clone it into a folder of yours.\n"
    )
    if os.geteuid() != 0:
        root.chmod(0o555)
        done = fab("demo")
    else:  # root may write everywhere but in what is mounted read-only
        require("mount", NAMESPACES)
        mounts = (
            f"mount --bind '{root}' '{root}' && mount -o remount,ro,bind '{root}' && cd '{root}' && PATH={bin_dir} exec ./fab demo"
        )
        done = subprocess.run([*(own_namespaces() or ()), "sh", "-c", mounts], capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence)


@pytest.mark.usefixtures("real_python")
def test_without_a_network(fab, root):
    done = fab("demo", PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="0")

    assert_gave_up(
        done,
        root,
        "pip could not install uv with the hashes of bootstrap/uv.txt (see above: no network, a proxy?); or install uv yourself.",
    )
    assert f"uv=={uv_version()}" in done.stderr


def index_with_uv(folder: Path, root: Path) -> dict[str, str]:
    """Make a package index in a folder, with one uv that the launcher's pin accepts.

    Returns: what makes pip use it.
    """
    path = folder / f"uv-{uv_version()}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        info = f"uv-{uv_version()}.dist-info"
        executable = zipfile.ZipInfo(f"uv-{uv_version()}.data/scripts/uv")
        executable.external_attr = 0o100755 << 16
        wheel.writestr(executable, UV)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: uv\nVersion: {uv_version()}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    (root / "bootstrap/uv.txt").write_text(f"uv=={uv_version()} --hash=sha256:{sha256}\n")
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}


@pytest.mark.usefixtures("real_python")
def test_installs_the_pinned_uv_once(fab, bin_dir, root, tmp_path):
    pip = index_with_uv(tmp_path, root)
    (bin_dir / "python3").rename(bin_dir / "python3.12")
    script(bin_dir / "python3", "#!/bin/sh\nexit 1\n")  # too old; the newer one beside it is found
    script(root / ".tools/uv/bin/python", "left by an install that was interrupted")

    first = fab("demo", **pip)
    (bin_dir / "python3.12").unlink()
    second = fab("demo")

    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout == f"in {root}, frozen: 1\n[run]\n{COMMAND}[demo]\n"
    assert (first.stderr, second.stderr) == ("fab: no uv here that this project accepts; downloading one into .tools/\n", "")


@pytest.mark.usefixtures("real_python")
def test_a_uv_with_another_hash_is_not_installed(fab, root, tmp_path):
    pip = index_with_uv(tmp_path, root)
    pin = root / "bootstrap/uv.txt"
    pin.write_text(re.sub(r"sha256:\w{64}", f"sha256:{'0' * 64}", pin.read_text()))

    done = fab("demo", **pip)

    assert_gave_up(
        done,
        root,
        "pip could not install uv with the hashes of bootstrap/uv.txt (see above: no network, a proxy?); or install uv yourself.",
    )
    assert "DO NOT MATCH THE HASHES" in done.stderr
