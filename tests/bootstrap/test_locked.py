"""The versions and hashes that every installation must have. uv is real; the package index is a web server on loopback."""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from bootstrap.locked import LOCK, Unlocked, Unresolved, check, differences, pins, renew
from bootstrap.shipping import uv

ROOT = Path(__file__).parents[2]
A, B, C = (f"--hash=sha256:{letter * 64}" for letter in "abc")
SPIES = "import pathlib; pathlib.Path({marker!r}).touch()\n"
"""A line of a .pth file: Python runs it at each start, so as soon as the package is installed."""


class Index:
    """A package index with wheels that were made up."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url

    def add(self, name: str, version: str, line: str = "\n") -> None:
        """Add or replace the only wheel of a version; `line` is a .pth file of it."""
        place = self.folder / "simple" / name
        place.mkdir(parents=True, exist_ok=True)
        file = f"{name}-{version}-py3-none-any.whl"
        info = f"{name}-{version}.dist-info"
        members = {f"{name}.pth": line, f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"}
        members[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        record = "".join(f"{member},sha256={_digest(text)},{len(text)}\n" for member, text in members.items())
        with zipfile.ZipFile(place / file, "w") as wheel:
            for member, text in {**members, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
                wheel.writestr(zipfile.ZipInfo(member), text)
        links = [f'<a href="{path.name}#sha256={sha256_of(path)}">{path.name}</a>' for path in sorted(place.glob("*.whl"))]
        (place / "index.html").write_text("<!DOCTYPE html>" + "<br>".join(links))


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    folder = tmp_path / "index"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield Index(folder, f"http://127.0.0.1:{server.server_address[1]}/simple")
        server.shutdown()


@pytest.fixture
def project(tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The launcher over a project with one dependency, and its lock; uv starts with an empty cache."""
    folder = tmp_path / "project"
    (folder / "bootstrap").mkdir(parents=True)
    for name in ("fab", "bootstrap/locked.py", "bootstrap/uv.txt"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "cells"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = ["genes"]\n'
        "[tool.uv]\nno-build = true\n"
    )
    for name, value in {"UV_DEFAULT_INDEX": index.url, "UV_CACHE_DIR": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    for name in ("UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_INDEX", "UV_FROZEN", "VIRTUAL_ENV"):
        monkeypatch.delenv(name, raising=False)
    index.add("genes", "1.0")
    renew(str(uv()), folder)
    return folder


@pytest.fixture
def forgotten(project: Path, tmp_path: Path) -> Callable[[], None]:
    """Make the project a fresh clone: no uv.lock, no cache."""

    def forget() -> None:
        (project / "uv.lock").unlink(missing_ok=True)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)

    return forget


def fab(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`./fab`; here it ends at `uv run fab`, since the project has no verbs."""
    environment = os.environ | {"PATH": f"{uv().parent}:{os.environ['PATH']}"}
    return subprocess.run(["./fab", *words], cwd=project, env=environment, capture_output=True, text=True, timeout=60)


def test_the_committed_lock_is_that_of_pyproject_and_names_no_index():
    text = (ROOT / LOCK).read_text()

    check(str(uv()), ROOT)
    subprocess.run([uv(), "lock", "--check", "--quiet"], cwd=ROOT, check=True, timeout=60)
    assert len(pins(text)) > 100
    assert "://" not in text


def test_malware_of_april_is_not_accepted():
    pyproject = (ROOT / "pyproject.toml").read_text()

    assert '"lightning>=2.6,!=2.6.2,!=2.6.3"' in pyproject


def test_a_file_that_is_as_it_was_reviewed_is_installed(project, forgotten):
    forgotten()

    done = fab(project, "demo")

    assert "Installed 1 package" in done.stderr
    assert (project / "uv.lock").exists()


def test_another_file_under_the_same_version_is_refused_before_any_of_it_runs(project, index, forgotten, tmp_path):
    marker = tmp_path / "it ran"
    before = sha256_of(index.folder / "simple/genes/genes-1.0-py3-none-any.whl")
    index.add("genes", "1.0", SPIES.format(marker=str(marker)))
    after = sha256_of(index.folder / "simple/genes/genes-1.0-py3-none-any.whl")
    forgotten()

    done = fab(project, "demo")

    assert done.returncode == 2
    assert f"genes 1.0: a file with sha256:{after} instead of sha256:{before}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not marker.exists()
    assert not (project / ".venv").exists()


def test_the_spy_would_be_seen(project, index, forgotten, tmp_path):
    marker = tmp_path / "it ran"
    index.add("genes", "1.0", SPIES.format(marker=str(marker)))
    forgotten()
    renew(str(uv()), project)

    fab(project, "demo")
    subprocess.run([project / ".venv/bin/python", "-c", ""], check=True)

    assert marker.exists()


def test_another_version_is_refused_and_lock_accepts_it(project, index, forgotten):
    index.add("genes", "1.1")
    forgotten()

    refused = fab(project, "demo")
    renewed = fab(project, "lock")
    done = fab(project, "demo")

    assert (refused.returncode, renewed.returncode) == (2, 0)
    assert "genes: 1.1 instead of 1.0. If you changed" in refused.stderr
    assert renewed.stdout.splitlines()[0] == "genes: 1.1 instead of 1.0"
    assert "genes==1.1" in (project / LOCK).read_text()
    assert "Installed 1 package" in done.stderr


def test_an_altered_uv_lock_is_refused_and_its_remedy_works(project):
    path = project / "uv.lock"
    path.write_text(re.sub(r"sha256:\w{64}", f"sha256:{'0' * 64}", path.read_text()))

    refused = fab(project, "demo")
    path.unlink()
    done = fab(project, "demo")

    assert refused.returncode == 2
    assert f"genes 1.0: a file with sha256:{'0' * 64} instead of" in refused.stderr
    assert "rm uv.lock" in refused.stderr
    assert "Installed 1 package" in done.stderr


def test_a_new_dependency_is_refused_until_it_is_locked(project, index):
    index.add("splice", "2.0")
    pyproject = project / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace('"genes"', '"genes", "splice"'))

    with pytest.raises(Unlocked, match=r"splice: 2.0 instead of no such package\. If you changed .*: \./fab lock"):
        check(str(uv()), project)
    assert renew(str(uv()), project) == ["splice: 2.0 instead of no such package"]
    check(str(uv()), project)


def test_a_package_without_a_hash_is_refused(project):
    path = project / "uv.lock"
    path.write_text(re.sub(r', hash = "sha256:\w{64}"', "", path.read_text()))

    with pytest.raises(Unlocked, match=r"^genes==1.0: is no package with version and hashes"):
        check(str(uv()), project)


def test_a_source_archive_is_not_built(project, index, forgotten):
    place = index.folder / "simple/genes"
    for path in place.iterdir():
        path.unlink()
    (place / "genes-1.0.tar.gz").write_bytes(b"whatever it is, it is not opened")
    (place / "index.html").write_text('<!DOCTYPE html><a href="genes-1.0.tar.gz">genes-1.0.tar.gz</a>')
    forgotten()

    with pytest.raises(Unresolved, match="Wheels are required for `genes` because building from source is disabled"):
        check(str(uv()), project)


def test_a_lock_that_is_missing_is_told_with_the_way_to_get_it_back(project):
    (project / LOCK).unlink()

    done = fab(project, "demo")

    assert done.returncode == 2
    assert done.stderr == f"refused: {project / LOCK}: is missing (to get it back: git checkout {LOCK})\n"


def test_a_file_of_pyproject_that_uv_cannot_read_is_told(project):
    (project / "pyproject.toml").write_text("[project\n")

    with pytest.raises(Unresolved, match=r"^uv export: .*pyproject\.toml"):
        check(str(uv()), project)


def test_fewer_files_are_accepted_and_others_are_not():
    allowed = pins(f"genes==1.0 ; sys_platform == 'linux' \\\n    {A} \\\n    {B}\nsplice==2 {C}\n")

    assert allowed == {
        "genes": {"1.0": frozenset({f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"})},
        "splice": {"2": frozenset({f"sha256:{'c' * 64}"})},
    }
    assert differences(pins(f"genes==1.0 {A}\n"), allowed) == []
    assert differences(pins(f"genes==1.0 {C}\n"), allowed) == [
        f"genes 1.0: a file with sha256:{'c' * 64} instead of sha256:{'a' * 64}"
    ]


@pytest.mark.parametrize(
    "line", [f"genes @ https://127.0.0.1/genes.whl {A}", "genes==1.0", "-e ./genes", f"genes>=1.0 {A}", "genes==1.0 --hash=md5:xyz"]
)
def test_what_is_no_version_with_a_hash_is_refused(line):
    with pytest.raises(Unlocked, match="is no package with version and hashes"):
        pins(line)
