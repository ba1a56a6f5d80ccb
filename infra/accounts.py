"""Whether gcloud and Pulumi are logged in as the same person: what one is asked beforehand, the other does."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from infra.findings import Findings
from infra.gcloud import LOGIN_FOR_PULUMI, GcloudFailed, gcloud
from infra.permissions import LIMIT_SECONDS, login_file, token_of_pulumi

USER_INFO = "https://openidconnect.googleapis.com/v1/userinfo"
"""OpenID Connect's question whose a token is; the token travels in a header."""


@dataclass(frozen=True)
class Accounts:
    """Who gcloud and Pulumi act as: an email address each, or in `unknown` why it cannot be told."""

    gcloud: str | None
    pulumi: str | None
    unknown: str = ""


def accounts() -> Accounts:
    """The account of gcloud, and that of Pulumi's credentials.

    Raises: UserError if Pulumi's credentials are no longer good; RunError where gcloud does not answer.
    """
    told = gcloud("config", "list")
    auth, own = told.get("auth", {}), told.get("core", {}).get("account")
    own = auth.get("impersonate_service_account") or own
    if str(auth.get("disable_credentials", "")).lower() in ("true", "1", "yes"):
        return Accounts(own, None, "gcloud is told to send no credentials (auth/disable_credentials)")
    if auth.get("access_token_file"):
        return Accounts(None, None, "gcloud takes a token from a file (auth/access_token_file)")
    if own is None:
        return Accounts(None, None, "gcloud has no account (gcloud auth login)")
    try:
        return Accounts(own, _pulumi_account())
    except GcloudFailed as failure:
        return Accounts(own, None, str(failure))


def judge_accounts(findings: Findings, found: Accounts) -> None:
    """Takes down whether they are the same."""
    if found.pulumi is None:
        who = f"gcloud is {found.gcloud}; " if found.gcloud else ""
        findings.warning(f"accounts: {who}whether Pulumi's is the same is not known: {found.unknown}")
    elif found.pulumi == found.gcloud:
        findings.fine(f"accounts: gcloud and Pulumi are both {found.gcloud}")
    else:
        findings.warning(
            f"accounts: gcloud is {found.gcloud}, and Pulumi is {found.pulumi}: what gcloud checks here with one account, Pulumi "
            f"does with the other. If that is not meant: {LOGIN_FOR_PULUMI}, as {found.gcloud}"
        )


def _pulumi_account() -> str:
    """In the order of the provider: a token, a key in a variable, the file of the application-default login.

    Raises: GcloudFailed where it cannot be known.
    """
    if os.environ.get("GOOGLE_OAUTH_ACCESS_TOKEN"):
        return _owner_of_token()
    key = os.environ.get("GOOGLE_CREDENTIALS")
    if key:
        source, text = "GOOGLE_CREDENTIALS", Path(key).read_text() if not key.startswith("{") and Path(key).is_file() else key
    else:
        source, text = str(login_file()), login_file().read_text()
    try:
        told = json.loads(text)
        kind = told["type"]
    except (ValueError, KeyError, TypeError):
        raise GcloudFailed(f"{source} is not the JSON of Google's credentials") from None
    account = _account_in(told)
    if account is None and (key or kind != "authorized_user"):
        raise GcloudFailed(f"{source}: credentials of type {kind} do not say whose they are")
    return account or _owner_of_token()


def _account_in(told: Mapping[str, Any]) -> str | None:
    """The account that a file of credentials names; that of a person's login names none."""
    found = re.search(r"/serviceAccounts/([^/:]+):", str(told.get("service_account_impersonation_url", "")))
    return found[1] if found else told.get("client_email") or told.get("account") or None


def _owner_of_token() -> str:
    request = Request(USER_INFO, headers={"authorization": f"Bearer {token_of_pulumi()}"})
    try:
        with urlopen(request, timeout=LIMIT_SECONDS) as response:
            email = json.load(response).get("email")
    except HTTPError as error:
        with error:
            raise GcloudFailed(f"Google does not say whose Pulumi's token is: HTTP {error.code} {error.reason}") from None
    except (OSError, ValueError) as error:
        raise GcloudFailed(f"Google does not say whose Pulumi's token is: {error}") from None
    if not email:
        raise GcloudFailed("Pulumi's token does not say whose it is (it lacks the scope userinfo.email)")
    return str(email)
