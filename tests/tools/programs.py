"""Programs that tests need and a bare machine may lack: where each comes from, and what becomes of a test without it.

`python -m tests.tools.programs`, the first step of `fab check`, installs the missing ones by apt where it may. A test without its
programs is skipped with one kind of reason, from which the last line of `pytest` and of `fab check` is made; in CI it fails.
"""

import functools
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

DEBIAN = {
    "ensurepip": "python3-venv",
    "git": "git",
    "mkfs.ext4": "e2fsprogs",
    "mount": "mount",
    "pgrep": "procps",
    "rsync": "rsync",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "unshare": "util-linux",
}
"""The package of Debian and Ubuntu that has each program."""

ELSEWHERE = {
    "fake-gcs-server": "tests/tools/bring_tools",
    "gcloud": "install gcloud as https://cloud.google.com/sdk/docs/install says",
    "pulumi": "tests/tools/bring_tools",
}
"""How a program comes that no package of Debian has. Tests marked `cloud` need all three, those of gs:// fake-gcs-server alone."""

NAMESPACES = "namespaces"
"""Not a program, but the right to namespaces of one's own, in which tests mount file systems."""

ROOTLESS = {
    "/proc/sys/kernel/unprivileged_userns_clone": "1",  # older kernels of Debian
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "0",  # Ubuntu from 23.10
}
"""Where a Linux keeps namespaces from ordinary users, and the value that allows them."""

PLACES = ("/usr/local/sbin", "/usr/sbin", "/sbin")
REASON = "needs what is missing here: "
STARTS_AT_ONCE = "openssh-server"


def path_of(name: str) -> str | None:
    """The program, looked for where root finds it too: the PATH of an ordinary user has no sbin on Debian."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *PLACES]))


def require(*names: str) -> None:
    """Skip the test that calls it, itself or through a fixture, where one of these is missing; in CI it fails."""
    missing = [name for name in names if not _is_here(name)]
    if missing:
        reason = f"{REASON}{', '.join(missing)}"
        assert not os.environ.get("CI"), f"{reason} ({remedy(missing)})"
        pytest.skip(reason)


def closing_line(reasons: Iterable[str]) -> str | None:
    """How many tests were left out for want of what, and the command that changes it; from the reasons of all that was skipped."""
    left_out = [reason.partition(REASON)[2].split(", ") for reason in reasons if REASON in reason]
    counts = Counter(name for names in left_out for name in names)
    if not counts:
        return None
    tests = f"{len(left_out)} test{'s' if len(left_out) > 1 else ''}"
    return f"left out: {tests}, for want of {', '.join(sorted(counts))}. To run them: {remedy(counts)}"


def remedy(names: Iterable[str]) -> str:
    """The commands after which a machine has all of these."""
    wanted = sorted(names)
    steps = sorted({ELSEWHERE[name] for name in wanted if name in ELSEWHERE})
    packages = sorted({DEBIAN[name] for name in wanted if name in DEBIAN})
    if packages:
        steps.insert(0, f"{'' if os.geteuid() == 0 else 'sudo '}apt-get install {' '.join(packages)}")
    if NAMESPACES in wanted:
        barred = [(Path(file).name, value) for file, value in ROOTLESS.items() if _first_word(file) not in ("", value)]
        steps += [f"sudo sysctl kernel.{name}={value}" for name, value in barred] or ["run it as root, outside a container"]
    return "; ".join(steps)


@functools.cache
def own_namespaces() -> tuple[str, ...] | None:
    """The words before a command that give it mounts and processes of its own, as root of a user namespace if need be."""
    for user in ([], ["--user", "--map-root-user"]):
        words = ["unshare", *user, "--mount", "--pid", "--fork", "--kill-child"]
        if not subprocess.run([*words, "mount", "-t", "proc", "proc", "/proc"], capture_output=True).returncode:
            return tuple(words)
    return None


@functools.cache
def _is_here(name: str) -> bool:
    if name == NAMESPACES:
        return bool(path_of("unshare")) and own_namespaces() is not None
    if name == "ensurepip":
        return importlib.util.find_spec(name) is not None
    if name == "fake-gcs-server":
        from tests.tools.gcs_server import server_path

        return server_path() is not None
    if name == "pulumi":
        from tests.tools.stand_in_cloud.engine import engine_path

        return engine_path() is not None
    return path_of(name) is not None


def _first_word(file: str) -> str:
    path = Path(file)
    return path.read_text().strip() if path.exists() else ""


def install() -> None:
    """Install the packages that are missing, if this is root on a machine with apt; what does not work out is left to the tests.

    Nothing that is installed is upgraded. openssh-server is left out where systemd would start the server at once: that is the
    owner's decision.
    """
    packages = sorted({package for name, package in DEBIAN.items() if not _is_here(name)})
    if os.path.isdir("/run/systemd/system"):
        packages = [package for package in packages if package != STARTS_AT_ONCE]
    if not packages or os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    print(f"installing what tests need, by apt: {' '.join(packages)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "--yes", "--no-install-recommends", "--no-upgrade", *packages]):
        done = subprocess.run(["apt-get", *words], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            why = re.findall(r"^E: .*", done.stderr, re.MULTILINE) or [done.stderr.strip()]
            print(f"apt-get {shlex.join(words)} failed: {why[-1]}", file=sys.stderr)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `needs` where one of the programs is missing."""
    for marker in item.iter_markers("needs"):
        require(*marker.args)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End with one line on what was left out for want of programs, and how to have it."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:  # a worker of xdist
        return
    reports = reporter.stats.get("skipped", [])
    line = closing_line(report.longrepr[2] for report in reports if isinstance(report.longrepr, tuple))
    if line is not None:
        reporter.write_line(line)


if __name__ == "__main__":
    install()
