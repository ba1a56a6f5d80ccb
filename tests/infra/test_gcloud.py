import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import gcloud as module
from infra.gcloud import ApiDisabled, GcloudFailed, NotFound, PermissionDenied, all_at_once, gcloud
from tests.tools.stand_in_cloud.rest import Rest, served
from training.errors import RunError, UserError

REGION = ("compute", "regions", "describe", "us-central1", "--project=demo-project")
DISKS = ("compute", "disks", "list", "--project=demo-project")


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rest]:
    with served(tmp_path, monkeypatch) as rest:
        yield rest


def test_an_answer_is_what_the_api_says(cloud):
    assert gcloud(*REGION)["name"] == "us-central1"


def test_each_no_of_google_is_an_error_of_its_own(cloud):
    with cloud.world.edit() as state:
        state["missing_permissions"] = ["compute.regions.get"]
    with pytest.raises(PermissionDenied, match=r"^gcloud compute regions describe .*: .*Required 'compute.regions.get' permission"):
        gcloud(*REGION)
    with cloud.world.edit() as state:
        state["missing_permissions"] = []
    with pytest.raises(NotFound, match=r"The resource .*regions/mars1' was not found"):
        gcloud("compute", "regions", "describe", "mars1", "--project=demo-project")
    with cloud.world.edit() as state:
        state["services"] = []
    with pytest.raises(ApiDisabled, match="has not been used in project demo-project"):
        gcloud(*REGION)


@pytest.mark.parametrize("verbosity", ["warning", "none"])
def test_a_list_that_is_refused_is_no_empty_list(cloud, verbosity):
    settings = cloud.config / "configurations"
    settings.mkdir()
    (settings / "config_default").write_text(f"[core]\nverbosity = {verbosity}\nuser_output_enabled = {verbosity == 'warning'}\n")
    with cloud.world.edit() as state:
        state["missing_permissions"] = ["compute.disks.list"]

    with pytest.raises(PermissionDenied, match=r"compute.disks.list"):
        gcloud(*DISKS)


def test_a_list_that_misses_a_region_is_no_answer(cloud):
    with cloud.world.edit() as state:
        state["unreachable"] = ["us-east1"]

    with pytest.raises(GcloudFailed, match="unreachable: zones/us-east1-a"):
        gcloud(*DISKS)


def test_a_gcloud_that_warns_and_returns_half_a_list_is_not_believed(tmp_path, monkeypatch):
    program = tmp_path / "gcloud"
    program.write_text("#!/bin/sh\necho '[]'\necho 'WARNING: Some requests did not succeed.\n - zone x is unreachable' >&2\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    with pytest.raises(GcloudFailed, match="zone x is unreachable"):
        gcloud(*DISKS)


def test_without_a_login_the_refusal_says_how_to_log_in(cloud, monkeypatch):
    monkeypatch.delenv("CLOUDSDK_AUTH_DISABLE_CREDENTIALS")

    with pytest.raises(UserError) as refusal:
        gcloud(*REGION)

    assert str(refusal.value) == (
        "gcloud is not logged in, or its login has expired; "
        "run: gcloud auth login (and, for Pulumi: gcloud auth application-default login)"
    )
    assert cloud.seen == []


def test_an_expired_login_is_refused_like_none(cloud, monkeypatch, tmp_path):
    login = {"type": "authorized_user", "client_id": "1", "client_secret": "hush", "refresh_token": "hush"}
    (tmp_path / "login.json").write_text(json.dumps(login))
    monkeypatch.delenv("CLOUDSDK_AUTH_DISABLE_CREDENTIALS")
    monkeypatch.setenv("CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE", str(tmp_path / "login.json"))
    with cloud.world.edit() as state:
        state["credentials"] = False

    with pytest.raises(UserError, match="its login has expired; run: gcloud auth login"):
        gcloud(*REGION)

    assert [path for _, path, _ in cloud.seen] == ["/token"]


def test_without_gcloud_the_refusal_says_where_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(UserError, match=r"gcloud is not on PATH.*https://cloud.google.com/sdk/docs/install"):
        gcloud(*REGION)


def test_a_call_that_hangs_ends_at_its_limit(cloud):
    with pytest.raises(
        RunError, match=r"^gcloud compute regions describe us-central1 --project=demo-project: no answer within 0.05 s"
    ):
        gcloud(*REGION, seconds=0.05)


def test_without_a_network_the_failure_does_not_send_anyone_to_log_in(cloud, monkeypatch):
    monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", "http://127.0.0.1:9/compute/v1/")

    with pytest.raises(RunError, match="Google cannot be reached; check the network") as failure:
        gcloud(*REGION)

    assert "login" not in str(failure.value)


def test_questions_at_once_keep_their_answers_apart():
    def lost() -> str:
        raise NotFound("gone")

    answers = all_at_once({"a": lambda: "here", "b": lost})

    assert answers["a"] == "here"
    assert isinstance(answers["b"], NotFound)


def test_what_is_refused_for_one_question_is_refused_for_all():
    def logged_out() -> str:
        raise UserError("log in")

    with pytest.raises(UserError, match="log in"):
        all_at_once({"a": lambda: "here", "b": logged_out})


def test_the_words_of_an_error_lose_warnings_and_line_breaks():
    error = module._error(
        "gcloud x", "WARNING: old\nERROR: (gcloud.x.y) Could not fetch resource:\n - The resource 'z' was not found\n\n"
    )

    assert str(error) == "gcloud x: Could not fetch resource: - The resource 'z' was not found"
    assert isinstance(error, NotFound)
