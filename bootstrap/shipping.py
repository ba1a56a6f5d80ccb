"""What goes to the machine: the code as it is here, with a lock file of today, and uv itself."""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from bootstrap import locked
from bootstrap.shippable import a_few, megabytes, shippable
from training.errors import RunError, UserError

ROOT = Path(__file__).parent.parent
# uv comes from the package index by way of this laptop: a machine needs no pip, no Python and no path to another download. This
# file has its version and the hashes of its wheels; ./fab installs it from the same file where there is no uv.
UV_PIN = Path("bootstrap/uv.txt")


@dataclass(frozen=True)
class Code:
    """The files that make up the project here, as paths below `folder`, and what tells two states of it apart."""

    folder: Path
    files: tuple[str, ...]
    commit: str
    """`git describe`, with `+changes` where files differ from it; empty before the first commit."""
    untracked: frozenset[str] = frozenset()
    """Those of the files that git does not track."""
    left_out: tuple[str, ...] = ()
    """Folders that do not travel, each with the reason."""

    @property
    def listing(self) -> str:
        """A line a file."""
        return "".join(f"{name}\n" for name in self.files)

    def summary(self, names: Collection[str]) -> str:
        """How many of the files, their size, and which of them are not in git."""
        size = sum((self.folder / name).lstat().st_size for name in names)
        others = sorted(self.untracked.intersection(names))
        notes = [f"{len(others)} not in git: {a_few(others)}"] if others else []
        notes += [f"left out: {a_few(self.left_out)}"] if self.left_out else []
        return f"{len(names)} file{'s' * (len(names) != 1)}, {megabytes(size)}" + (f" ({'; '.join(notes)})" if notes else "")

    @property
    def environment(self) -> str:
        """What decides the environment on the machine: uv.lock and pyproject.toml."""
        texts = (self.folder / name for name in ("uv.lock", "pyproject.toml"))
        return hashlib.sha256(b"".join(path.read_bytes() for path in texts)).hexdigest()


def code(folder: Path = ROOT) -> Code:
    """Tracked files and those that git does not ignore, after uv.lock was brought up to date and compared with requirements.lock.

    Raises: UserError outside a git repository, or if requirements.lock does not allow what uv resolved;
        RunError if uv cannot resolve.
    """
    check_lock(folder)
    tracked, untracked = (_listed(folder, kind) for kind in ("--cached", "--others"))
    described = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    judged = shippable(folder, tracked, untracked)
    files = judged.files | {"uv.lock"}
    shipped = tuple(sorted(files, key=os.fsencode))
    return Code(folder, shipped, described.stdout.strip(), judged.files.difference(tracked), judged.left_out)


def _listed(folder: Path, kind: str) -> set[str]:
    try:
        done = subprocess.run(["git", "ls-files", kind, "--exclude-standard", "-z"], cwd=folder, capture_output=True)
    except OSError:
        raise UserError("git is not installed here (Debian, Ubuntu: apt-get install git; macOS: xcode-select --install)") from None
    if done.returncode:
        why = " ".join(os.fsdecode(done.stderr).split()).removeprefix("fatal: ")
        raise UserError(f"{folder}: git cannot list the files of this folder, which are what goes to the machine ({why})")
    return {os.fsdecode(name) for name in done.stdout.split(b"\0") if name}


def check_lock(folder: Path = ROOT) -> None:
    """Compare what uv resolves with requirements.lock; from then on this process's uv takes the uv.lock that was compared.

    Raises: UserError if they differ; RunError if uv cannot resolve.
    """
    try:
        locked.check(str(uv()), folder)
    except locked.Unlocked as problem:
        raise UserError(str(problem)) from None
    except locked.Unresolved as problem:
        raise RunError(str(problem)) from None
    os.environ["UV_FROZEN"] = "1"


def uv_version() -> str:
    """The pinned version of uv.

    Raises: RunError if its file has none.
    """
    pinned = re.match(r"uv==([\w.]+)", (ROOT / UV_PIN).read_text())
    if not pinned:
        raise RunError(f"{UV_PIN}: begins with no uv==VERSION (to get it back: git checkout {UV_PIN})")
    return pinned[1]


def uv_binary(arch: str) -> Path:
    """The pinned uv for Linux on `arch`, its wheel verified by SHA-256; brought once into .tools/.

    Raises: RunError if the package index cannot be reached, or hands out something else.
    """
    folder = ROOT / ".tools" / f"uv-{uv_version()}-{arch}"
    binary = folder / "bin" / "uv"
    if not (folder / ".complete").exists():
        words = [str(uv()), "pip", "install", "--quiet", "--target", str(folder), "--python-platform", f"{arch}-unknown-linux-gnu"]
        words += ["--only-binary", ":all:", "--no-deps", "--require-hashes", "--no-config", "--reinstall", "-r", str(UV_PIN)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=_plain())
        if done.returncode:
            raise RunError(f"uv {uv_version()} for {arch} could not be downloaded: {' '.join(done.stderr.split())}")
        (folder / ".complete").touch()
    return binary


def uv() -> Path:
    """The uv that started this process, one on the PATH, or the one that `./fab` brought.

    Raises: RunError if there is none.
    """
    found = os.environ.get("UV") or shutil.which("uv") or shutil.which("uv", path=ROOT / ".tools" / "uv" / "bin")
    if found is None:
        raise RunError("there is no uv here; ./fab brings one")
    return Path(found)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain() -> dict[str, str]:
    """This process's environment without its virtual one, which uv would warn about."""
    return {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
