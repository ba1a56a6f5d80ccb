"""Questions to GCP through the user's own `gcloud`: JSON comes back, or an exception with gcloud's own words."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from training.errors import RunError, UserError
from training.text import escaped

INSTALL = "https://cloud.google.com/sdk/docs/install"
LOGIN = "gcloud auth login"
LOGIN_FOR_PULUMI = "gcloud auth application-default login"
LIMIT_SECONDS = 90
AT_ONCE = 6  # a call is most of a second of one core, then a wait for the network

_ENVIRONMENT = {
    # Without this a list that was refused, or that misses a region, is an empty list and exit code 0 (gcloud 528).
    "CLOUDSDK_COMPUTE_ALLOW_PARTIAL_ERROR": "false",
    "CLOUDSDK_CORE_SHOULD_PROMPT_TO_ENABLE_API": "false",
    # What a person has set for themselves would change what is read here.
    "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
    "CLOUDSDK_CORE_LOG_HTTP": "false",
    "CLOUDSDK_CORE_USER_OUTPUT_ENABLED": "true",
    "CLOUDSDK_CORE_VERBOSITY": "warning",
}
_OFFLINE = re.compile(
    r"Max retries exceeded|Failed to establish a new connection|Unable to find the server|network is unreachable", re.I
)
_LOGGED_OUT = re.compile(
    r"gcloud auth (application-default )?login|Reauthentication|invalid_grant|UNAUTHENTICATED|invalid authentication credentials"
)
_API_DISABLED = re.compile(r"SERVICE_DISABLED|accessNotConfigured|has not been used in project|is not enabled on project")
_NOT_FOUND = re.compile(r"NOT_FOUND|was not found|not found|does not exist|HTTPError 404", re.I)
_DENIED = re.compile(r"PERMISSION_DENIED|Required '[\w.]+' permission|does not have permission|may not exist|HTTPError 403", re.I)

Key = TypeVar("Key")
Answer = TypeVar("Answer")


class GcloudFailed(RunError):
    """gcloud said no, for a reason that the message gives in its words."""


class ApiDisabled(GcloudFailed):
    """The API that was asked is not enabled in the project: nothing of its kind can be there."""


class PermissionDenied(GcloudFailed):
    """The account may not ask or do that; or, as Google puts it, the project may not exist."""


class NotFound(GcloudFailed):
    """There is no such thing."""


def gcloud(*words: str, seconds: float = LIMIT_SECONDS) -> Any:
    """What `gcloud WORDS --format=json` answers.

    Units: `seconds` after which the call is given up.
    Raises: UserError if gcloud is missing or not logged in; ApiDisabled, PermissionDenied, NotFound, or else GcloudFailed with
        gcloud's message; RunError after `seconds`, or without a network.
    """
    said = "gcloud " + " ".join(words)
    program = shutil.which("gcloud")
    if program is None:
        raise UserError(f"gcloud is not on PATH: it answers what quota there is and what costs money; install it from {INSTALL}")
    try:
        done = subprocess.run(
            [program, "--format=json", "--quiet", *words],
            env={**os.environ, **_ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"{said}: no answer within {seconds:g} seconds; run it by hand to see what it waits for") from None
    if done.returncode or "Some requests did not succeed" in done.stderr:
        raise _error(said, done.stderr)
    try:
        return json.loads(done.stdout or "null")
    except ValueError:
        raise GcloudFailed(f"{said}: the answer is no JSON") from None


def all_at_once(questions: Mapping[Key, Callable[[], Answer]]) -> dict[Key, Answer | RunError]:
    """The answer to each question, or why there is none.

    Raises: UserError if one question meets it: what holds for one, such as no login, holds for all.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(questions, pool.map(_answer, questions.values()), strict=True))


def _answer(question: Callable[[], Answer]) -> Answer | RunError:
    try:
        return question()
    except RunError as error:
        return error


def _error(said: str, stderr: str) -> Exception:
    """The exception for what gcloud printed; warnings before its error are left out."""
    found = re.search(r"^ERROR: (?:\([\w.-]+\) )?(.*)", stderr, re.M | re.S)
    words = escaped(" ".join((found[1] if found else stderr).split()))  # tables print it too, past any refusal
    if _OFFLINE.search(words):
        return RunError(f"{said}: Google cannot be reached; check the network, then run it again")
    if _LOGGED_OUT.search(words):
        return UserError(f"gcloud is not logged in, or its login has expired; run: {LOGIN} (and, for Pulumi: {LOGIN_FOR_PULUMI})")
    # In this order: Google answers PERMISSION_DENIED for an API that is disabled, and for a project that does not exist.
    for pattern, kind in ((_API_DISABLED, ApiDisabled), (_DENIED, PermissionDenied), (_NOT_FOUND, NotFound)):
        if pattern.search(words):
            return kind(f"{said}: {words}")
    return GcloudFailed(f"{said}: {words}")
