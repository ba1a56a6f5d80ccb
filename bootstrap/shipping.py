"""What goes to the machine: the code as it is here, with a lock file of today, and uv itself."""

import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from infra.refusal import Failed, Refused

ROOT = Path(__file__).parent.parent
# uv comes from the package index by way of this laptop: a machine needs no pip, no Python and no path to another download. The
# hashes are of the wheels for Linux on x86_64 and aarch64.
UV_VERSION = "0.13.8"
UV_WHEELS = (
    "e18a57b8b352eb7c8feb317b9f6f533c8f0ad9673fd6cf34bbe3cf1a9f6a8984",
    "0b3e8b1a4f5e405e31e2ff33de8af4744831e9f7338539671efbd8c3c94e791d",
)
# Tokens go their own way, even where somebody has committed them; data and runs are the machine's own folders.
_NEVER = re.compile(r"(.*/)?\.env(rc|\..*)?|data|runs|(data|runs|\.venv|\.incubator)/.*")


@dataclass(frozen=True)
class Code:
    """The files that make up the project here, as paths below `folder`, and what tells two states of it apart."""

    folder: Path
    files: tuple[str, ...]
    commit: str
    """`git describe`, with `+changes` where files differ from it; empty before the first commit."""

    @property
    def listing(self) -> str:
        """A line a file."""
        return "".join(f"{name}\n" for name in self.files)

    @property
    def environment(self) -> str:
        """What decides the environment on the machine: uv.lock and pyproject.toml."""
        texts = (self.folder / name for name in ("uv.lock", "pyproject.toml"))
        return hashlib.sha256(b"".join(path.read_bytes() for path in texts)).hexdigest()


def code(folder: Path = ROOT) -> Code:
    """Tracked files and those that git does not ignore, after uv.lock was brought up to date.

    Raises: Refused outside a git repository; Failed if uv cannot resolve.
    """
    locked = subprocess.run([uv(), "lock", "--quiet"], cwd=folder, capture_output=True, text=True, env=_plain())
    if locked.returncode:
        raise Failed(f"uv lock: {' '.join(locked.stderr.split())}")
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        raise Refused(
            f"{folder}: is no git repository: what goes to the machine are the files that git knows or does not ignore"
        ) from None
    names = {name for name in listed.split("\0") if name and not _NEVER.fullmatch(name)}
    odd = sorted(name for name in names if "\n" in name or not name.isprintable())
    if odd:
        raise Refused(
            f"{folder}: {odd[0]!r}: a file of this name cannot be brought to a machine (rename it, or have git ignore it)"
        )
    there = {name for name in names if (folder / name).is_symlink() or (folder / name).is_file()} | {"uv.lock"}
    return Code(folder, tuple(sorted(there, key=os.fsencode)), described.stdout.strip())


def uv_binary(arch: str) -> Path:
    """The pinned uv for Linux on `arch`, its wheel verified by SHA-256; brought once into .tools/.

    Raises: Failed if the package index cannot be reached, or hands out something else.
    """
    folder = ROOT / ".tools" / f"uv-{UV_VERSION}-{arch}"
    binary = folder / "bin" / "uv"
    if not (folder / ".complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        wanted = folder / "requirements.txt"
        wanted.write_text(f"uv=={UV_VERSION} " + " ".join(f"--hash=sha256:{sha256}" for sha256 in UV_WHEELS) + "\n")
        words = [str(uv()), "pip", "install", "--quiet", "--target", str(folder), "--python-platform", f"{arch}-unknown-linux-gnu"]
        words += ["--only-binary", ":all:", "--no-deps", "--require-hashes", "--no-config", "--reinstall", "-r", str(wanted)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=_plain())
        if done.returncode:
            raise Failed(f"uv {UV_VERSION} for {arch} could not be brought: {' '.join(done.stderr.split())}")
        (folder / ".complete").touch()
    return binary


def uv() -> Path:
    """The uv that started this process, one on the PATH, or the one that `./fab` brought.

    Raises: Failed if there is none.
    """
    found = os.environ.get("UV") or shutil.which("uv") or shutil.which("uv", path=ROOT / ".tools" / "uv" / "bin")
    if found is None:
        raise Failed("there is no uv here; ./fab brings one")
    return Path(found)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain() -> dict[str, str]:
    """This process's environment without its virtual one, which uv would warn about."""
    return {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
