"""Which files may travel to the machine as code: no secrets, no virtual environments, nothing large that git does not track."""

import re
import shlex
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from training.errors import UserError

# What git does not track, in bytes: over this it is data, not code. What git tracks was chosen by somebody, and each clone has it.
LARGEST_FILE = 10 * 2**20
LARGEST_TOTAL = 50 * 2**20
_SHOWN = 5

# Tokens travel apart (tokens.py); data and runs are folders of the machine; the rest is made anew there.
_NEVER = re.compile(r"(.*/)?\.env(rc|\..*)?|data|runs|(data|runs|\.venv|\.incubator)/.*")
_ENVIRONMENTS = ("pyvenv.cfg", "conda-meta/history")
_SECRET_NAME = re.compile(
    r".*\.(env|pem|p12|pfx|jks|keystore|ppk|kdbx)|id_(rsa|dsa|ecdsa|ed25519)(_sk)?|[._]netrc|\.(git-credentials|pgpass|pypirc|htpasswd)"
    r"|(.*\.)?kubeconfig|(application_default_)?credentials(\.json)?|client_secret.*\.json",
    re.IGNORECASE,
)
_SECRET_TEXT = (
    (re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----(?:\s|\\[rn])+[\w+/:, -]{16}"), "a private key"),
    (re.compile(rb'"refresh_token"\s*:\s*"[^"\s]{20,}"'), "credentials of gcloud"),
    (re.compile(rb"\bclient-key-data:\s*[\w+/=]{20,}"), "a key of Kubernetes"),
    (re.compile(rb"\bhf_[A-Za-z0-9]{34}\b"), "a token of the Hugging Face hub"),
    (re.compile(rb"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{40,})\b"), "a token of GitHub"),
    (re.compile(rb"\bAKIA[0-9A-Z]{16}\b"), "a key of Amazon Web Services"),
    (re.compile(rb"\bAIza[\w-]{35}\b"), "a key of Google"),
)
_SNIFFED = 2**16  # bytes at the beginning of a file


@dataclass(frozen=True)
class Shippable:
    """Paths below the project's folder that travel, and what was left out, each with the reason."""

    files: frozenset[str]
    left_out: tuple[str, ...]


def shippable(folder: Path, tracked: Collection[str], untracked: Collection[str]) -> Shippable:
    """Judge all that git tracks and all that it neither tracks nor ignores.

    Raises: UserError for names that cannot travel, for what looks like a secret, and for what is too large and not in git.
    """
    names = {name for name in (*tracked, *untracked) if not _NEVER.fullmatch(name)}
    odd = sorted(name for name in names if not name.isprintable())
    if odd:
        raise UserError(
            f"{folder}: {odd[0]!a}: a file of this name cannot be copied to a machine (rename it, or let git ignore it)"
        )
    environments = _environments(names)
    repositories = {name for name in names if (folder / name).is_dir() and not (folder / name).is_symlink()}
    files = {
        name
        for name in names
        if ((folder / name).is_symlink() or (folder / name).is_file())
        and not any(name.startswith(f"{environment}/") for environment in environments)
    }
    _refuse_secrets(folder, sorted(files), tracked)
    _refuse_large(folder, sorted(files.difference(tracked)))
    reasons = dict.fromkeys(environments, "a virtual environment")
    reasons |= {name.rstrip("/"): "a git repository of its own" for name in repositories}
    return Shippable(frozenset(files), tuple(f"{name}/ ({reason})" for name, reason in sorted(reasons.items())))


def megabytes(size: int) -> str:
    """A size in bytes as people read it."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


def a_few(names: Iterable[str]) -> str:
    """The first names of many, and how many more there are."""
    every = list(names)
    return ", ".join(every[:_SHOWN]) + (f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else "")


def _environments(names: Iterable[str]) -> set[str]:
    """Folders of virtual environments; one at the root would be the project itself, and is none."""
    found = set()
    for name in names:
        for mark in _ENVIRONMENTS:
            if name.endswith(f"/{mark}"):
                found.add(name.removesuffix(f"/{mark}"))
    return found


def _refuse_secrets(folder: Path, files: Iterable[str], tracked: Collection[str]) -> None:
    found = {name: why for name in files if (why := _secret(folder / name))}
    if not found:
        return
    first = next(iter(found))
    known = sorted(found.keys() & set(tracked))
    also = (
        f" Git tracks {known[0]}: git rm --cached {shlex.quote(known[0])}; and replace the secret, if others have the repository."
        if known
        else ""
    )
    raise UserError(
        f"{a_few(f'{name} ({why})' for name, why in found.items())}: looks like a secret, and would travel to the machine as code. "
        f"Let git ignore it: a line {_line(first)} in .gitignore.{also} Tokens that a run needs: KEY=VALUE lines in .env. If it is "
        f"no secret and a run reads it: --data {shlex.quote(first)}, once git ignores it"
    )


def _secret(path: Path) -> str | None:
    """Why a file looks like a secret, or None."""
    if path.is_symlink():  # travels as a link
        return None
    if _SECRET_NAME.fullmatch(path.name):
        return "its name"
    with path.open("rb") as file:
        start = file.read(_SNIFFED)
    return next((what for pattern, what in _SECRET_TEXT if pattern.search(start)), None)


def _refuse_large(folder: Path, untracked: Iterable[str]) -> None:
    sizes = {name: (folder / name).lstat().st_size for name in untracked}
    total = sum(sizes.values())
    if total <= LARGEST_TOTAL and max(sizes.values(), default=0) <= LARGEST_FILE:
        return
    largest = sorted(sizes, key=lambda name: -sizes[name])
    first, above = largest[0], PurePosixPath(largest[0]).parts[0]
    folder_line = f", or {_line(above)}/ for all of {above}/" if above != first else ""
    each = a_few(f"{name} ({megabytes(sizes[name])})" for name in largest)
    raise UserError(
        f"{each}: not in git, and too large to travel as code (accepted: "
        f"{LARGEST_FILE >> 20} MiB a file, {LARGEST_TOTAL >> 20} MiB in all; here {megabytes(total)} in all). Let git ignore it: a "
        f"line {_line(first)} in .gitignore{folder_line}. If a run reads it: --data {shlex.quote(first)}, once git ignores it"
    )


def _line(name: str) -> str:
    """The line of .gitignore that means this file alone."""
    return "/" + re.sub(r"([*?\[\\])|( $)", r"\\\g<0>", name)
