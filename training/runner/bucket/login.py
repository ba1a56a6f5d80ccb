"""Google's Application Default Credentials: a person's login on a laptop, the service account (metadata server) on a VM."""

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from training.errors import RunError, UserError

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
"""What a person's login and the VM are given; what they may do is the roles' affair."""
COMMAND = "gcloud auth application-default login"
BOOT_SECONDS = 60.0
"""How long a metadata server that gives no token yet is asked again: in the first seconds of a boot it may not answer."""
PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class Login:
    """Who asks Google."""

    credentials: Any
    project: str | None

    @property
    def is_machine(self) -> bool:
        """Whether the token comes from the metadata server of a VM."""
        return type(self.credentials).__module__.startswith("google.auth.compute_engine")


def log_in(shown: str) -> Login:
    """Find the credentials; on a VM wait for its metadata server.

    Args:
        shown: For what; begins every message.

    Raises: UserError if there are none; RunError if the metadata server gives no token.
    """
    import google.auth
    from google.auth.exceptions import RefreshError, TransportError

    logging.getLogger("google.auth").setLevel(logging.ERROR)  # it warns that no project is set: storage needs none
    with warnings.catch_warnings(), plain_login_errors(shown, None):
        warnings.simplefilter("ignore")  # that a person's login has no quota project: storage needs none
        credentials, project = google.auth.default(scopes=(SCOPE,))
    login = Login(credentials, project)
    until = time.monotonic() + BOOT_SECONDS
    while login.is_machine:
        from google.auth.transport.requests import Request

        with plain_login_errors(shown, login):
            try:
                credentials.refresh(Request())
                break
            except (RefreshError, TransportError):
                if time.monotonic() > until:
                    raise
        time.sleep(PAUSE_SECONDS)
    return login


@contextmanager
def plain_login_errors(shown: str, login: Login | None) -> Iterator[None]:
    """google-auth's errors as one message each."""
    from google.auth import exceptions

    try:
        yield
    except exceptions.DefaultCredentialsError as error:
        raise UserError(f"{shown}: there is no Google login here ({_line(error)}); run: {COMMAND}") from None
    except exceptions.GoogleAuthError as error:
        if login is not None and login.is_machine:
            raise RunError(
                f"{shown}: the VM's metadata server gives no token ({_line(error)}); it may be late after a boot; "
                "a VM without a service account has none"
            ) from None
        if isinstance(error, exceptions.TransportError):
            raise RunError(f"{shown}: Google's login server cannot be reached; check the network ({_line(error)})") from None
        raise UserError(f"{shown}: the Google login here has expired or was withdrawn ({_line(error)}); run: {COMMAND}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())[:200]
