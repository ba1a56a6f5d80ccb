"""The user's tasks, one function a verb of `fab`. A task that needs the training group (torch) brings it in by itself."""

import os
import shlex
import shutil
import sys
import time
from pathlib import Path

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

ROOT = Path(__file__).parent.parent

CHECKS = {
    "ruff format": "ruff format --check",
    "ruff check": "ruff check",
    "mypy": "mypy",
    "lint-imports": "lint-imports",
    "pytest": "pytest",
}


@task
def demo(c: Context) -> None:
    """Simulate a small screen, train on it, predict its held-out cells and judge them: minutes on a CPU."""
    training = f"{uv()} run --group training training"
    run(c, "rm -rf runs/demo_data")  # of an earlier demo: `simulate` overwrites nothing
    run(c, f"{training} simulate runs/demo_data/demo.h5ad")
    run(c, f"{training} fit configs/runs/demo.yaml overwrite=true")
    run(c, f"{training} predict runs/demo --output runs/demo/predictions.h5ad")
    run(c, f"{training} evaluate runs/demo")


@task(help={"cloud": "the tests over the real Pulumi engine and gcloud too: some minutes more (tests/tools/bring_tools first)"})
def check(c: Context, cloud: bool = False) -> None:
    """Run every check and test; all run whatever fails, and a table ends it."""
    run(c, f"{uv()} sync --inexact --all-groups")
    rows = []
    for name, command in CHECKS.items():
        if name == "pytest" and not cloud:
            command += " -m 'not cloud'"
        start = time.monotonic()
        result = "ok" if run(c, f"{uv()} run --no-sync {command}", may_fail=True) else "FAILED"
        rows.append((name, result, f"{time.monotonic() - start:,.1f} s"))
    print("\n" + "\n".join(f"{name:<14}{result:<8}{seconds:>10}" for name, result, seconds in rows))
    if any(result != "ok" for _, result, _ in rows):
        raise Exit(code=1)


def uv() -> str:
    """The uv that started this process, one on the PATH, or the one that `./fab` brought, as a word of a shell.

    Raises: Exit if there is none.
    """
    found = os.environ.get("UV") or shutil.which("uv") or shutil.which("uv", path=ROOT / ".tools" / "uv" / "bin")
    if found is None:
        raise Exit("fab: there is no uv here; ./fab brings one", code=1)
    path = Path(found)
    return shlex.quote(str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path))


def run(c: Context, command: str, may_fail: bool = False) -> bool:
    """Show a command, then run it in the repository's root.

    A failure ends the task with the command's exit code, unless it `may_fail`.

    Returns: whether it succeeded.
    """
    print(f"$ {command}", flush=True)
    with c.cd(ROOT):
        return bool(c.run(command, warn=may_fail, pty=sys.stdout.isatty(), in_stream=False))
