"""`fab init`: settings of one's own for every stack, and a passphrase."""

import shutil
import stat
from pathlib import Path

import pytest
import yaml

from infra.begin import PASSPHRASE_FILE, begin
from infra.stack_config import read_settings
from infra.stack_files import our_buckets, project_of, stack_names, told_by
from training.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh clone, a home without a passphrase."""
    shutil.copytree(ROOT / "configs" / "stacks", tmp_path / "configs" / "stacks", ignore=shutil.ignore_patterns("Pulumi.*"))
    shutil.copy(ROOT / "Pulumi.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for variable in ("PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def test_it_writes_whole_settings_in_the_region_that_is_said(project):
    begin("my-cells", "europe-west4")

    assert stack_names() == ["cpu", "l4", "l4-spot", "storage"]
    for stack in stack_names():
        settings = read_settings(stack, told_by(stack))
        where = settings.model_dump().get("location") or settings.model_dump()["zone"]
        assert where.startswith("europe-west4")
    assert told_by("cpu")["incubator:machineType"] == "e2-standard-4"
    assert project_of(None) == "my-cells"
    assert our_buckets("my-cells") == {"my-cells-incubator"}


def test_in_a_project_of_no_storage_stack_here_nothing_is_ours(project):
    assert our_buckets("another") == {"another-incubator"}  # a second laptop without files

    begin("my-cells", "europe-west4")

    assert our_buckets("another") == frozenset()


def test_git_ignores_them():
    assert "/configs/stacks/Pulumi.*.yaml" in (ROOT / ".gitignore").read_text().splitlines()


def test_a_passphrase_is_made_once_for_its_owner_alone(project):
    first = begin("my-cells", "us-central1")
    file = PASSPHRASE_FILE.expanduser()
    passphrase = file.read_text()

    again = begin("my-cells", "us-central1")

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(passphrase.strip()) > 30
    assert passphrase.strip() not in "\n".join(first)
    assert file.read_text() == passphrase
    assert again[:-1] == [f"configs/stacks/Pulumi.{stack}.yaml: kept as it is" for stack in ("cpu", "l4-spot", "l4", "storage")]
    assert again[-1].endswith("export PULUMI_CONFIG_PASSPHRASE_FILE=~/.pulumi-passphrase")


def test_a_passphrase_file_that_is_a_dangling_link_is_refused_before_anything_is_written(project):
    PASSPHRASE_FILE.expanduser().symlink_to(project / "stick" / "passphrase")

    with pytest.raises(UserError, match=r"~/.pulumi-passphrase: a link to .*stick/passphrase, which is not there"):
        begin("my-cells", "us-central1")

    assert stack_names() == []


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_file_in_another_encoding_is_named(project, encoding):
    (project / "configs" / "stacks" / "Pulumi.l4.yaml").write_text("config:\n  incubator:owner: Zo\u00eb\n", encoding=encoding)

    with pytest.raises(UserError, match=r"configs/stacks/Pulumi.l4.yaml: not the YAML of a stack: 'utf-8' codec"):
        told_by("l4")


def test_where_a_passphrase_is_told_none_is_made(project, monkeypatch):
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "mine")

    begin("my-cells", "us-central1")

    assert not PASSPHRASE_FILE.expanduser().exists()


def test_what_a_person_has_set_stays_and_what_is_missing_comes(project):
    file = project / "configs" / "stacks" / "Pulumi.l4.yaml"
    file.write_text("encryptionsalt: v1:abc\nconfig:\n  gcp:project: my-cells\n  incubator:zone: us-east4-a\n")

    begin("my-cells", "us-central1")

    whole = yaml.safe_load(file.read_text())
    assert whole["encryptionsalt"] == "v1:abc"
    assert whole["config"] == {
        "gcp:project": "my-cells",
        "incubator:zone": "us-east4-a",
        "incubator:kind": "machine",
        "incubator:machineType": "g2-standard-8",
    }


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (("my-cells", "Mars"), "incubator:zone: Mars-a: accepted: us-central1-a"),
        (("My Cells", "us-central1"), "gcp:project: accepted: a GCP project id"),
        (("another", "us-central1"), "gcp:project: my-cells, not another; to change it: pulumi config set gcp:project another"),
        (("my-cells", "us-east1"), "incubator:location: us-central1, not us-east1; to change it: pulumi config set"),
    ],
)
def test_what_is_not_accepted_or_told_otherwise_writes_nothing(project, told, said):
    if told[0] == "another" or told[1] == "us-east1":
        begin("my-cells", "us-central1")
    before = {file: file.read_text() for file in (project / "configs" / "stacks").iterdir()}

    with pytest.raises(UserError, match=said):
        begin(*told)

    assert {file: file.read_text() for file in (project / "configs" / "stacks").iterdir()} == before
