"""Compare what uv resolves on this computer with requirements.lock: the versions and the SHA-256 of every file that were reviewed.

./fab runs this file before it installs anything. So it needs Python's standard library alone, and imports nothing of this project.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

LOCK = "requirements.lock"
_EXPORT = ("export", "--quiet", "--all-groups", "--no-emit-project", "--no-header", "--no-annotate")
_PIN = re.compile(r"(?P<name>[\w.-]+)==(?P<version>[^\s;]+)(?: ; [^\\]*?)?(?P<hashes>(?: --hash=\w+:[0-9a-f]+)*)")
_SHOWN = 5

Pins = dict[str, dict[str, frozenset[str]]]
"""Name of a package -> version -> hashes of its files. Several versions stand for several versions of Python."""


class Unlocked(Exception):
    """What uv resolved is not what requirements.lock allows; the message says what differs and what to do."""


class Unresolved(Exception):
    """Uv could not resolve the dependencies; the message is uv's."""


def check(uv: str, folder: Path) -> None:
    """Bring uv.lock up to date, and compare it with requirements.lock. Nothing is installed, and no code of a package runs.

    Raises: Unlocked if a version or a hash is not among those of requirements.lock; Unresolved if uv fails.
    """
    path = folder / LOCK
    if not path.is_file():
        raise Unlocked(f"{path}: is missing (to get it back: git checkout {LOCK})")
    text, allowed = resolved(uv, folder), path.read_text(encoding="utf-8")
    if text == allowed:
        return
    different = differences(pins(text), pins(allowed))
    if different:
        more = f"; and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
        raise Unlocked(
            f"uv.lock differs from {LOCK}, and nothing was installed: {'; '.join(different[:_SHOWN])}{more}. If you changed the "
            f"dependencies in pyproject.toml: ./fab lock. Otherwise: rm uv.lock, and the same command again; if this message comes "
            "again, the package index has other files than those that were reviewed: do not install them"
        )


def renew(uv: str, folder: Path) -> list[str]:
    """Resolve anew (the newest versions before `exclude-newer` of pyproject.toml), and write requirements.lock.

    Returns: what changed, a line a package.
    Raises: Unresolved if uv fails.
    """
    _uv(uv, folder, "lock", "--quiet", "--upgrade")
    path, text = folder / LOCK, resolved(uv, folder)
    before = pins(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(text, encoding="utf-8")
    after = pins(text)
    gone = [f"{name}: is no longer needed" for name in sorted(before.keys() - after.keys())]
    return differences(after, before) + gone


def resolved(uv: str, folder: Path) -> str:
    """All packages of all groups with versions, markers and hashes, in the format of requirements.txt.

    Raises: Unresolved if uv fails.
    """
    return _uv(uv, folder, *_EXPORT)


def pins(text: str) -> Pins:
    """Read the format of requirements.txt.

    Raises: Unlocked for a line that is no `name==version` with hashes, such as a URL.
    """
    found: dict[str, dict[str, frozenset[str]]] = {}
    for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
        matched = _PIN.fullmatch(line.strip())
        if not matched or not matched["hashes"]:
            raise Unlocked(f"{line[:100]}: is no package with version and hashes (accepted: name==version --hash=sha256:...)")
        hashes = (word.removeprefix("--hash=") for word in matched["hashes"].split())
        found.setdefault(matched["name"], {})[matched["version"]] = frozenset(hashes)
    return found


def differences(here: Pins, allowed: Pins) -> list[str]:
    """What `here` has and `allowed` has not, one text a package. Fewer files of a version are accepted: a mirror may lack some."""
    found = []
    for name, versions in here.items():
        accepted = allowed.get(name, {})
        for version, hashes in versions.items():
            if version not in accepted:
                found.append(f"{name}: {version} instead of {' and '.join(accepted) or 'no such package'}")
            elif other := sorted(hashes - accepted[version]):
                missing = sorted(accepted[version] - hashes)
                found.append(f"{name} {version}: a file with {other[0]} instead of {missing[0] if missing else 'no such file'}")
    return found


def _uv(uv: str, folder: Path, *words: str) -> str:
    # Without a virtual environment, which uv would warn of, and without UV_FROZEN, with which it would resolve nothing.
    plain = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "UV_FROZEN")}
    done = subprocess.run([uv, *words], cwd=folder, capture_output=True, encoding="utf-8", errors="replace", env=plain)
    if done.returncode:
        raise Unresolved(f"uv {words[0]}: {' '.join(done.stderr.split())}")
    return done.stdout


def main(uv: str, renews: bool) -> int:
    """Check, or renew; print what is wrong or what changed.

    Returns: the exit code.
    """
    folder = Path(__file__).resolve().parent.parent
    try:
        if renews:
            changed = renew(uv, folder)
            print("\n".join([*changed, f"{LOCK}: {len(changed)} changes; look at them before you commit: git diff {LOCK}"]))
        else:
            check(uv, folder)
    except (Unlocked, Unresolved) as problem:
        refused = isinstance(problem, Unlocked)
        print(f"{'refused' if refused else 'failed'}: {problem}", file=sys.stderr)
        return 2 if refused else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], renews=sys.argv[2:] == ["lock"]))
