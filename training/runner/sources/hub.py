"""What the Hugging Face hub has at a revision: asked with huggingface_hub, brought by `download.py` (the README says why)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.errors import RunError, UserError, did_you_mean
from training.runner.sources.download import Digest, HttpError, Remote
from training.runner.sources.parse import Hub
from training.text import some
from training.untrusted import file_below

ENDPOINT = "https://huggingface.co"
TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Access:
    """How the hub is reached."""

    cache: Path
    token: str | None = field(repr=False)

    @property
    def endpoint(self) -> str:
        """The hub, or what HF_ENDPOINT names in its place."""
        return os.environ.get("HF_ENDPOINT", ENDPOINT).rstrip("/")


def commit_of(source: Hub, access: Access) -> str:
    """The commit that the revision names at this moment.

    Raises: UserError for an unknown repository or revision; RunError if the hub cannot be reached or does not let us in.
    """
    with _plainly(source, access):
        info = _api(access).repo_info(source.repo, repo_type=source.kind, revision=source.revision, timeout=TIMEOUT_SECONDS)
    if not info.sha:
        raise RunError(f"{source}: the hub names no commit for {source.revision}; name one: 40 hex digits")
    return str(info.sha)


def files_of(source: Hub, commit: str, access: Access) -> dict[str, Remote]:
    """The files at a commit: name below the target (empty where the source is one file) -> where it is and what it must be.

    Raises: UserError for an unknown repository, revision or path; RunError if the hub cannot be reached or does not let us in.
    """
    from huggingface_hub import RepoFile, hf_hub_url

    api = _api(access)
    with _plainly(source, access):
        api.repo_info(
            source.repo, repo_type=source.kind, revision=commit, timeout=TIMEOUT_SECONDS
        )  # says no at once, the tree retries
        tree = api.list_repo_tree(source.repo, recursive=True, revision=commit, repo_type=source.kind)
        entries = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    below = f"{source.path}/" if source.path else ""
    chosen = [source.path] if source.path in entries else [path for path in entries if path.startswith(below)]
    if not chosen:
        near = did_you_mean(source.path, entries)
        raise UserError(
            f"{source}: there is no {source.path or 'file'} at this revision{near} (it has: {some(sorted(entries)) or 'nothing'})"
        )
    remotes = {}
    for path in chosen:
        entry = entries[path]
        name = path[len(below) :] if path != source.path else ""
        file_below(path, str(source))
        digest = Digest("sha256", entry.lfs.sha256) if entry.lfs else Digest("git-sha1", entry.blob_id)
        url = hf_hub_url(source.repo, path, repo_type=source.kind, revision=commit, endpoint=access.endpoint)
        remotes[name] = Remote(f"{source}{f' {name}' * bool(name)}", url, digest, entry.size, access.token)
    return remotes


def explained(error: HttpError, source: Hub, access: Access) -> RunError:
    """What the hub's no to a download means."""
    if error.headers.get("X-Error-Code") == "GatedRepo":
        return _gated(source, access)
    if error.status in (401, 403):
        return _private(source, access)
    return error


@contextmanager
def _plainly(source: Hub, access: Access) -> Iterator[None]:
    """huggingface_hub's errors as one message each."""
    from huggingface_hub import close_session
    from huggingface_hub import errors as hub

    try:
        yield
    except hub.GatedRepoError:
        raise _gated(source, access) from None
    except hub.RevisionNotFoundError:
        raise UserError(
            f"{source}: {source.repo} has no revision {source.revision} (accepted: a commit, branch or tag of it)"
        ) from None
    except hub.RepositoryNotFoundError:
        raise _private(source, access) from None
    except hub.HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise _private(source, access) from None
        raise RunError(f"{source}: the hub says {error.response.status_code}: {_line(error)}") from None
    except hub.HFValidationError as error:
        raise UserError(f"{source}: {_line(error)}") from None
    except Exception as error:
        # The transport's own errors; which package they are from has changed twice (requests, httpx, httpx2).
        of_transport = type(error).__module__.partition(".")[0] in ("requests", "httpx", "httpx2")
        if not of_transport and not isinstance(error, OSError | ValueError):
            raise
        raise RunError(
            f"{source}: the hub at {access.endpoint} cannot be reached ({_line(error)}); check the network, then run it again"
        ) from None
    finally:
        close_session()


def _gated(source: Hub, access: Access) -> RunError:
    page = f"{access.endpoint}/{'datasets/' * (source.kind == 'dataset')}{source.repo}"
    return RunError(f"{source}: gated: accept the terms at {page}, and set HF_TOKEN to a token of that account ({_said(access)})")


def _private(source: Hub, access: Access) -> RunError:
    kind = "data set" if source.kind == "dataset" else "model"
    return RunError(
        f"{source}: the hub shows no {kind} {source.repo}: the name is wrong (hf://datasets/ORG/NAME is a data set, hf://ORG/NAME "
        f"a model), or it is private: then set HF_TOKEN to a token that may read it ({_said(access)})"
    )


def _said(access: Access) -> str:
    return "HF_TOKEN is set, but does not let us in" if access.token else "HF_TOKEN is not set"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _api(access: Access) -> Any:
    """huggingface_hub reads its settings when it is imported, so they are set first."""
    os.environ["HF_HOME"] = str(access.cache)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["HF_HUB_DISABLE_UPDATE_CHECK"] = "1"
    from huggingface_hub import HfApi

    return HfApi(endpoint=access.endpoint, token=access.token or False)
