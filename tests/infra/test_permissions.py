import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.findings import Findings
from infra.gcloud import GcloudFailed
from infra.permissions import ACT_AS, judge_permissions, missing_permissions, pulumi_login
from infra.stack_config import MachineSettings, StorageSettings
from tests.tools.stand_in_cloud.rest import TOKEN, Rest, served
from training.errors import UserError

MACHINE = MachineSettings.model_validate({"project": "demo-project"})
STORAGE = StorageSettings.model_validate({"project": "demo-project", "location": "us-central1"})
LOGIN = json.dumps({"type": "authorized_user", "client_id": "1", "client_secret": "hush", "refresh_token": "hush"})


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rest]:
    with served(tmp_path, monkeypatch) as rest:
        yield rest


@pytest.fixture
def adc(cloud: Rest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pulumi's login, where `gcloud auth application-default login` leaves it."""
    monkeypatch.delenv("CLOUDSDK_AUTH_DISABLE_CREDENTIALS")
    monkeypatch.delenv("GOOGLE_OAUTH_ACCESS_TOKEN")
    file = cloud.config / "application_default_credentials.json"
    file.write_text(LOGIN)
    return file


def _judged(settings: MachineSettings | StorageSettings, missing: list[str] | GcloudFailed) -> Findings:
    findings = Findings("demo-project", "l4")
    judge_permissions(findings, settings, missing)
    return findings


def test_pulumi_without_credentials_is_told_its_own_login(cloud, monkeypatch):
    monkeypatch.delenv("GOOGLE_OAUTH_ACCESS_TOKEN")
    findings = Findings("demo-project", "l4")

    assert pulumi_login(findings) is False
    assert findings.obstacles == [
        f"Pulumi has no credentials: {cloud.config}/application_default_credentials.json is not there (the login of gcloud itself "
        "is another)\n   next: gcloud auth application-default login"
    ]


@pytest.mark.parametrize("variable", ["GOOGLE_CREDENTIALS", "GOOGLE_OAUTH_ACCESS_TOKEN"])
def test_credentials_in_a_variable_are_named_and_not_shown(cloud, monkeypatch, variable):
    monkeypatch.delenv("GOOGLE_OAUTH_ACCESS_TOKEN")
    monkeypatch.setenv(variable, "hush")
    findings = Findings("demo-project", "l4")

    assert pulumi_login(findings) is True
    assert findings.lines == [f"Pulumi's credentials: {variable}"]


def test_a_key_file_that_is_not_there_is_no_login(cloud, monkeypatch, tmp_path):
    monkeypatch.delenv("GOOGLE_OAUTH_ACCESS_TOKEN")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))

    assert pulumi_login(Findings("demo-project", "l4")) is False


def test_pulumis_own_account_is_asked_about_and_not_gclouds(adc, cloud):
    assert missing_permissions(MACHINE) == []

    asked = [authorization for _, path, authorization in cloud.seen if path.endswith(":testIamPermissions")]
    assert asked == [f"Bearer {TOKEN}"]


def test_a_login_of_pulumi_that_has_expired_is_told_from_gclouds(adc, cloud):
    with cloud.world.edit() as state:
        state["credentials"] = False

    with pytest.raises(UserError) as refusal:
        missing_permissions(MACHINE)

    assert str(refusal.value) == "Pulumi's credentials are no longer good\n   next: gcloud auth application-default login"


def test_where_gcloud_sends_no_token_none_is_sent(cloud):
    assert missing_permissions(STORAGE) == []
    assert [authorization for _, _, authorization in cloud.seen] == [None]


def test_a_key_for_pulumi_alone_is_not_passed_on(cloud, monkeypatch):
    monkeypatch.delenv("CLOUDSDK_AUTH_DISABLE_CREDENTIALS")
    monkeypatch.setenv("GOOGLE_CREDENTIALS", "{}")

    with pytest.raises(GcloudFailed, match="GOOGLE_CREDENTIALS is for Pulumi alone"):
        missing_permissions(MACHINE)


def test_what_is_missing_is_what_google_does_not_grant(cloud):
    with cloud.world.edit() as state:
        state["missing_permissions"] = ["compute.routers.create", "storage.buckets.create"]

    assert missing_permissions(MACHINE) == ["compute.routers.create"]
    assert missing_permissions(STORAGE) == ["storage.buckets.create"]


def test_more_is_asked_for_where_more_is_done(cloud):
    with cloud.world.edit() as state:
        state["missing_permissions"] = ["compute.subnetworks.useExternalIp", "secretmanager.secrets.setIamPolicy"]
    public = MachineSettings.model_validate({"project": "demo-project", "ssh": "public", "sshSourceRanges": ["203.0.113.7/32"]})
    secrets = StorageSettings.model_validate({"project": "demo-project", "location": "us-central1", "secrets": ["hf-token"]})

    assert (missing_permissions(MACHINE), missing_permissions(STORAGE)) == ([], [])
    assert missing_permissions(public) == ["compute.subnetworks.useExternalIp"]
    assert missing_permissions(secrets) == ["secretmanager.secrets.setIamPolicy"]


def test_a_project_that_says_nothing_is_a_failure_without_the_token(adc, cloud):
    with pytest.raises(GcloudFailed) as failure:
        missing_permissions(MACHINE.model_copy(update={"project": "other-project"}))

    assert str(failure.value) == "testIamPermissions: HTTP 403 Forbidden"


def test_missing_permissions_are_told_by_role():
    findings = _judged(MACHINE, ["compute.instances.create", "compute.disks.create", ACT_AS])

    assert findings.obstacles == [
        "permissions: Pulumi's account may not compute.instances.create, compute.disks.create\n"
        "   next: ask an owner of the project for: gcloud projects add-iam-policy-binding demo-project "
        "--member=user:YOUR-ACCOUNT --role=roles/compute.admin"
    ]


def test_acting_as_the_training_account_may_be_granted_elsewhere_and_is_no_obstacle():
    findings = _judged(MACHINE, [ACT_AS])

    assert findings.obstacles == []
    assert findings.lines[0].startswith(f"permissions: {ACT_AS} is not granted on the project")


def test_permissions_that_cannot_be_asked_are_said_to_be_unchecked():
    assert _judged(STORAGE, GcloudFailed("no answer")).lines == ["permissions: not checked (no answer)"]
    assert _judged(STORAGE, []).lines == ["permissions: all 4 granted"]


def test_who_could_rent_and_not_get_in_is_told_so_beforehand():
    lines = _judged(MACHINE, ["iap.tunnelInstances.accessViaIAP", "compute.instances.osAdminLogin"]).lines

    assert "if not on the machine either: " in lines[0]
    assert "roles/iap.tunnelResourceAccessor" in lines[0]
    assert "roles/compute.osAdminLogin" in lines[1]
