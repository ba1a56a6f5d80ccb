"""What goes to the machine: the files that git knows or does not ignore, uv as it was pinned, tokens apart."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from bootstrap import shipping
from bootstrap.shipping import UV_PIN, code, sha256_of, uv_binary, uv_version
from bootstrap.tokens import env_file, tokens
from training.errors import RunError, UserError

pytestmark = pytest.mark.needs("git")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "cells"\nversion = "0"\nrequires-python = ">=3.11"\n')
    (tmp_path / ".gitignore").write_text("uv.lock\n/runs/\n.env\n")
    (tmp_path / "requirements.lock").touch()
    monkeypatch.setenv("UV_FROZEN", "1")  # so that it is put back after the test
    monkeypatch.delenv("UV_FROZEN")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "big").touch()
    (tmp_path / ".env").write_text("HF_TOKEN=hf_secret\n")
    (tmp_path / "my split.toml").touch()
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "pyproject.toml", "requirements.lock", ".gitignore")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "first")
    return tmp_path


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, check=True)


def test_tracked_and_not_ignored_files_go_and_the_lock_with_them(project):
    found = code(project)

    assert found.files == (".gitignore", "my split.toml", "pyproject.toml", "requirements.lock", "uv.lock")
    assert re.fullmatch(r"[0-9a-f]{40}", found.commit)


def test_tokens_do_not_go_with_the_code_even_if_git_knows_them(project):
    git(project, "add", "--force", ".env")

    assert ".env" not in code(project).files


def test_data_and_runs_are_the_machines_own_and_do_not_go_with_the_code(project):
    for name in ("data/screen/cells.h5ad", "runs/old/model.pt", "my/data/notes.txt", ".env.local", "sub/.envrc"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()
    (project / ".gitignore").write_text("uv.lock\n")

    assert code(project).files == (
        ".gitignore",
        "my split.toml",
        "my/data/notes.txt",
        "pyproject.toml",
        "requirements.lock",
        "uv.lock",
    )


def test_a_file_that_git_knows_and_that_is_gone_does_not_go(project):
    (project / ".gitignore").unlink()

    found = code(project)

    assert ".gitignore" not in found.files
    assert found.commit.endswith("+changes")


def test_another_dependency_is_another_environment(project):
    before = code(project).environment
    (project / "pyproject.toml").write_text((project / "pyproject.toml").read_text() + "# another word\n")

    assert code(project).environment != before
    assert code(project).environment == code(project).environment


def test_outside_git_nothing_goes(project):
    (project / ".git").rename(project / ".no-git")

    with pytest.raises(UserError, match=r"git cannot list the files of this folder.*not a git repository"):
        code(project)


def test_what_uv_cannot_resolve_is_told(project):
    (project / "pyproject.toml").write_text("[project\n")

    with pytest.raises(RunError, match=r"^uv export: .*pyproject\.toml"):
        code(project)


def test_a_lock_that_is_not_the_committed_one_does_not_go(project):
    (project / "requirements.lock").unlink()

    with pytest.raises(UserError, match=r"requirements\.lock: is missing"):
        code(project)


def test_after_the_check_uv_takes_the_lock_that_was_checked(project):
    code(project)

    assert os.environ["UV_FROZEN"] == "1"


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_uv_comes_for_each_machine_and_is_pinned_by_hash(arch):
    binary = uv_binary(arch)

    assert binary.read_bytes()[:4] == b"\x7fELF"
    assert uv_binary(arch) == binary
    assert len(sha256_of(binary)) == 64


def test_a_uv_with_another_hash_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("UV", str(shipping.uv()))
    monkeypatch.setattr(shipping, "ROOT", tmp_path)
    (tmp_path / UV_PIN).parent.mkdir()
    (tmp_path / UV_PIN).write_text(f"uv==0.13.8 --hash=sha256:{'0' * 64}\n")

    with pytest.raises(RunError, match=r"uv 0\.13\.8 for x86_64 could not be downloaded: .*[Hh]ash"):
        uv_binary("x86_64")


@pytest.mark.parametrize(
    "platform", ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "aarch64-apple-darwin", "x86_64-apple-darwin"]
)
def test_uv_is_pinned_for_laptops_and_machines(platform):
    words = [str(shipping.uv()), "pip", "install", "--dry-run", "--quiet", "--python-platform", platform, "--require-hashes"]

    subprocess.run([*words, "--only-binary", ":all:", "--no-config", "--reinstall", "-r", UV_PIN], cwd=ROOT, check=True)


def test_a_pin_of_uv_without_a_version_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(shipping, "ROOT", tmp_path)
    (tmp_path / UV_PIN).parent.mkdir()
    (tmp_path / UV_PIN).write_text("<<<<<<< HEAD\n")

    with pytest.raises(RunError, match=r"^bootstrap/uv\.txt: begins with no uv==VERSION"):
        uv_version()


def test_tokens_are_those_that_are_known_and_all_of_dot_env(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    monkeypatch.setenv("WANDB_API_KEY", "nothing reads it on the machine")
    monkeypatch.setenv("OTHER_SECRET", "stays here")
    (tmp_path / ".env").write_text("# mine\n\nexport HF_TOKEN='hf_file'\nNEPTUNE = \"a=b\"\n")

    found = tokens(tmp_path)

    assert found == {"HF_TOKEN": "hf_file", "NEPTUNE": "a=b"}
    assert env_file(found) == "HF_TOKEN=hf_file\nNEPTUNE=a=b\n"


def test_a_token_that_is_empty_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", " ")

    assert tokens(tmp_path) == {}


@pytest.mark.parametrize(
    ("line", "value"), [("A=b # mine", "b"), ("A='b # mine'", "b # mine"), ("A=b#c", "b#c"), ("A=b\r", "b"), ("A=", "")]
)
def test_what_a_value_is(tmp_path, line, value, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (tmp_path / ".env").write_bytes(f"{line}\n".encode())

    assert tokens(tmp_path) == {"A": value}


def test_a_token_of_two_lines_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_a\nb")

    with pytest.raises(UserError, match=r"^HF_TOKEN: is no token"):
        tokens(tmp_path)


def test_a_key_that_the_machine_would_not_take_is_refused(tmp_path):
    (tmp_path / ".env").write_text("KÉY=ü\n")

    with pytest.raises(UserError, match="line 1: is no KEY=VALUE"):
        tokens(tmp_path)


def test_a_line_that_is_none_is_refused_and_not_repeated(tmp_path):
    (tmp_path / ".env").write_text("A=1\nhf_secret\n")

    with pytest.raises(UserError, match=r"\.env: line 2: is no KEY=VALUE$"):
        tokens(tmp_path)
