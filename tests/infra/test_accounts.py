"""Who gcloud and Pulumi are: the real gcloud, and a server that answers as Google's OpenID Connect does."""

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from infra.accounts import Accounts, accounts, judge_accounts
from infra.findings import Findings
from tests.tools.stand_in_cloud.rest import TOKEN, Rest, served

PERSON = {"type": "authorized_user", "client_id": "1", "client_secret": "hush", "refresh_token": "hush", "account": ""}
SERVICE = "robot@demo-project.iam.gserviceaccount.com"


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rest]:
    """gcloud is ada, who may send her credentials; Pulumi has none yet."""
    with served(tmp_path, monkeypatch) as rest:
        monkeypatch.delenv("CLOUDSDK_AUTH_DISABLE_CREDENTIALS")
        monkeypatch.delenv("GOOGLE_OAUTH_ACCESS_TOKEN")
        monkeypatch.setenv("CLOUDSDK_CORE_ACCOUNT", "ada@example.org")
        yield rest


@pytest.fixture
def login(cloud: Rest) -> Callable[[Any], Path]:
    """Writes Pulumi's application-default login."""

    def write(told: Any) -> Path:
        file = cloud.config / "application_default_credentials.json"
        file.write_text(told if isinstance(told, str) else json.dumps(told))
        return file

    return write


@pytest.fixture
def owners(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Whose each token is, as Google's userinfo says; what was asked stands in `asked`."""
    owners: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            owner = owners.get(self.headers["authorization"].removeprefix("Bearer "))
            self.send_response(401 if owner is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps({"sub": "1"} | ({"email": owner} if owner else {})).encode())

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        monkeypatch.setattr("infra.accounts.USER_INFO", f"http://127.0.0.1:{server.server_port}/v1/userinfo")
        yield owners
        server.shutdown()


def line(found: Accounts) -> str:
    findings = Findings("demo-project", "l4")
    judge_accounts(findings, found)
    (told,) = findings.lines
    assert TOKEN not in told
    assert findings.obstacles == []
    return told


@pytest.mark.cloud
def test_the_same_person_twice_is_fine(login, owners):
    login(PERSON)
    owners[TOKEN] = "ada@example.org"

    assert line(accounts()) == "accounts: gcloud and Pulumi are both ada@example.org"


@pytest.mark.cloud
def test_two_people_are_told_apart_with_the_way_to_one(login, owners):
    login(PERSON)
    owners[TOKEN] = "bob@example.org"

    told = line(accounts())

    assert told.startswith("warning: accounts: gcloud is ada@example.org, and Pulumi is bob@example.org: ")
    assert told.endswith("gcloud auth application-default login, as ada@example.org")


@pytest.mark.cloud
@pytest.mark.parametrize(
    "told",
    [
        {"type": "service_account", "client_email": SERVICE, "private_key": "hush"},
        {
            "type": "impersonated_service_account",
            "service_account_impersonation_url": f"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{SERVICE}:x",
            "source_credentials": PERSON,
        },
    ],
    ids=["key", "impersonation"],
)
def test_a_file_that_names_its_account_needs_no_network(login, monkeypatch, told):
    login(told)
    monkeypatch.setattr("infra.accounts.USER_INFO", "http://127.0.0.1:1/")

    assert accounts() == Accounts("ada@example.org", SERVICE)


@pytest.mark.cloud
def test_what_cannot_be_known_is_said_and_not_guessed(login, owners, monkeypatch):
    file = login(PERSON)
    assert "is not known: Google does not say whose Pulumi's token is: HTTP 401 " in line(accounts())
    owners[TOKEN] = ""
    assert "Pulumi's token does not say whose it is (it lacks the scope userinfo.email)" in line(accounts())
    login("{")
    assert line(accounts()).endswith(f"{file} is not the JSON of Google's credentials")
    login({"type": "external_account", "audience": "//iam.googleapis.com/locations/global/workforcePools/lab"})
    assert "credentials of type external_account do not say whose they are" in line(accounts())
    monkeypatch.setenv("CLOUDSDK_AUTH_DISABLE_CREDENTIALS", "true")
    assert line(accounts()).startswith("warning: accounts: gcloud is ada@example.org; whether Pulumi's is the same is not known: ")


@pytest.mark.cloud
def test_a_token_and_a_key_in_a_variable_come_before_the_login(login, owners, monkeypatch):
    login(PERSON)
    monkeypatch.setenv("GOOGLE_CREDENTIALS", json.dumps({"type": "service_account", "client_email": SERVICE}))
    assert accounts().pulumi == SERVICE

    monkeypatch.setenv("GOOGLE_OAUTH_ACCESS_TOKEN", "its-own")
    monkeypatch.delenv("GOOGLE_CREDENTIALS")
    owners["its-own"] = "eve@example.org"
    assert accounts().pulumi == "eve@example.org"
