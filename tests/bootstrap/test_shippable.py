"""Which files travel as code, on real git repositories; each remedy is followed."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from bootstrap.bootstrap import _planned
from bootstrap.shippable import LARGEST_FILE, LARGEST_TOTAL
from bootstrap.shipping import ROOT, code
from training.errors import UserError

pytestmark = pytest.mark.needs("git")

KEY = "-----BEGIN OPENSSH PRIVATE " + "KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU=\n"  # in two parts: this file travels too


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that git tracks whole."""
    monkeypatch.setenv("UV_FROZEN", "1")  # so that it is put back after the test
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "pyproject.toml", '[project]\nname = "cells"\nversion = "0"\nrequires-python = ">=3.11"\n')
    write(tmp_path, "requirements.lock", "")
    write(tmp_path, ".gitignore", "uv.lock\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    return tmp_path


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=folder, check=True, capture_output=True)


def write(folder: Path, name: str, text: str | bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def sparse(folder: Path, name: str, size: int) -> None:
    """A file of that size that takes no room."""
    write(folder, name, b"")
    os.truncate(folder / name, size)


def refusal(project: Path) -> str:
    with pytest.raises(UserError) as refused:
        code(project)
    return str(refused.value)


def follow(project: Path, message: str) -> None:
    """Do what the message says: the line in .gitignore, and the command of git, if there is one."""
    (line,) = re.findall(r"a line (\S+) in \.gitignore", message)
    with (project / ".gitignore").open("a") as ignored:
        ignored.write(f"{line}\n")
    for command in re.findall(r"git rm --cached (\S+);", message):
        git(project, "rm", "--cached", command)


def test_this_project_itself_may_travel():
    assert len(code(ROOT).files) > 300


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("prod.env", "TOKEN=x", "its name"),
        ("deep/er/staging.ENV", "", "its name"),
        ("server.pem", "", "its name"),
        ("id_ed25519", "", "its name"),
        (".netrc", "", "its name"),
        ("kubeconfig", "", "its name"),
        ("aws/credentials", "", "its name"),
        ("google/application_default_credentials.json", "{}", "its name"),
        ("notes.txt", "see below\n" + KEY, "a private key"),
        ("robot.json", '{"type": "service_account", "private_key": "' + KEY.replace("\n", "\\n") + '"}', "a private key"),
        ("adc.json", '{"refresh_token": "' + "1//0g" + 30 * "x" + '"}', "credentials of gcloud"),
        ("cluster.yaml", "users:\n- client-key-data: " + 40 * "A", "a key of Kubernetes"),
        ("train.py", "login('hf_" + 34 * "a" + "')", "a token of the Hugging Face hub"),
        ("clone.sh", "git clone https://ghp_" + 36 * "a" + "@127.0.0.1/x", "a token of GitHub"),
        ("s3.py", "KEY = 'AKIA" + 16 * "A" + "'", "a key of Amazon Web Services"),
        ("maps.py", "KEY = 'AIza" + 35 * "a" + "'", "a key of Google"),
    ],
)
@pytest.mark.parametrize("is_tracked", [False, True])
def test_what_looks_like_a_secret_is_refused_tracked_or_not_and_the_remedy_works(project, name, text, why, is_tracked):
    write(project, name, text)
    if is_tracked:
        git(project, "add", name)

    message = refusal(project)

    assert message.startswith(f"{name} ({why}): looks like a secret")
    assert ("git rm --cached" in message) == is_tracked
    follow(project, message)
    assert name not in code(project).files


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("parser.py", "if line == '-----BEGIN RSA PRIVATE " + "KEY-----':\n    pass\n"),
        ("keys.md", "hf_token, hf_short, AKIA, `private_key`"),
        ("environment.yaml", "name: cells"),
        ("cert.txt", "-----BEGIN CERTIFICATE-----\nMIIB" + 40 * "A"),
    ],
)
def test_what_only_speaks_of_secrets_travels(project, name, text):
    write(project, name, text)

    assert name in code(project).files


def test_a_secret_far_into_a_file_is_not_looked_for(project):
    write(project, "log.txt", 2**16 * "x" + "\n" + KEY)

    assert "log.txt" in code(project).files


def test_the_token_file_is_left_to_its_own_way(project):
    write(project, ".env", "HF_TOKEN=hf_" + 34 * "a")

    assert ".env" not in code(project).files


@pytest.mark.parametrize("mark", ["pyvenv.cfg", "conda-meta/history"])
def test_a_virtual_environment_is_left_out_and_named(project, mark):
    write(project, f"tools/my env/{mark}", "")
    sparse(project, "tools/my env/lib/torch.so", LARGEST_TOTAL * 2)
    write(project, "tools/mine.py", "")

    found = code(project)

    assert [name for name in found.files if name.startswith("tools/")] == ["tools/mine.py"]
    assert found.left_out == ("tools/my env/ (a virtual environment)",)


def test_a_repository_in_the_repository_is_left_out_and_named(project):
    write(project, "state/model.py", "")
    git(project / "state", "init", "--quiet")
    git(project / "state", "add", "model.py")

    assert code(project).left_out == ("state/ (a git repository of its own)",)


def test_a_large_file_is_refused_with_its_size_and_the_remedy_works(project):
    sparse(project, "weights/final model*.bin", LARGEST_FILE + 1)
    sparse(project, "small.bin", LARGEST_FILE)

    message = refusal(project)

    assert message.startswith("weights/final model*.bin (10.5 MB), small.bin (10.5 MB): not in git, and too large to travel")
    (line,) = re.findall(r"a line (.+?) in \.gitignore", message)
    write(project, ".gitignore", f"uv.lock\n{line}\n")
    found = code(project)
    assert [name for name in found.files if name.endswith(".bin")] == ["small.bin"]


def test_many_files_that_are_large_together_are_refused_and_the_folder_can_be_ignored(project):
    for number in range(6):
        sparse(project, f"weights/{number}.bin", LARGEST_FILE)

    message = refusal(project)

    assert "and 1 more: not in git, and too large" in message
    assert "here 62.9 MB in all" in message
    (line,) = re.findall(r"or (\S+) for all of weights/", message)
    write(project, ".gitignore", f"uv.lock\n{line}\n")
    assert not any(name.endswith(".bin") for name in code(project).files)


def test_what_is_ignored_can_be_brought_as_data_as_the_message_says(project):
    sparse(project, "weights.bin", LARGEST_FILE + 1)
    message = refusal(project)
    follow(project, message)
    (data,) = re.findall(r"--data (\S+),", message)

    local, _ = _planned([data])

    assert [str(each.path) for each in local] == ["weights.bin"]
    assert "weights.bin" not in code(project).files


def test_what_git_tracks_may_be_large(project):
    sparse(project, "reference.bin", LARGEST_FILE + 1)
    git(project, "add", "reference.bin")

    assert "reference.bin" in code(project).files


def test_the_summary_counts_bytes_and_names_what_git_does_not_track(project):
    for name in "abcdefg":
        write(project, f"{name}.py", 1000 * "x")
    write(project, "venv/pyvenv.cfg", "")

    found = code(project)

    assert found.summary(["a.py"]) == "1 file, 1.0 kB (1 not in git: a.py; left out: venv/ (a virtual environment))"
    assert found.summary([name for name in found.files if name.endswith(".py")]) == (
        "7 files, 7.0 kB (7 not in git: a.py, b.py, c.py, d.py, e.py and 2 more; left out: venv/ (a virtual environment))"
    )
    git(project, "add", ".")
    assert code(project).summary(["a.py", "b.py"]).startswith("2 files, 2.0 kB (left out")


@pytest.mark.parametrize("name", [b"two\nlines", b"latin-\xe9.txt", "turned\u202eround".encode()])
def test_a_name_that_no_list_can_hold_is_refused(project, name):
    (project / os.fsdecode(name)).touch()

    message = refusal(project)

    assert "a file of this name cannot be copied to a machine" in message
    assert message.isprintable()


def test_a_folder_that_git_does_not_trust_is_told_with_the_words_of_git(project):
    (project / ".git" / "HEAD").unlink()

    assert "git cannot list the files of this folder, which are what goes to the machine (not a git repository" in refusal(project)
