"""The user's tasks, one function a verb of `fab`. A task that needs the training group (torch) brings it in by itself."""

import os
import shlex
import sys
import time
from pathlib import Path

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from bootstrap import pull as results
from bootstrap import runs
from bootstrap.bootstrap import bootstrap as make_ready
from bootstrap.connection import Host, connect
from bootstrap.machine import FOLDER_VARIABLE, HOST_VARIABLE, machine_of
from bootstrap.shipping import ROOT, uv
from bootstrap.table import table
from infra.refusal import Refused, plain_refusals

CHECKS = {
    "ruff format": "ruff format --check",
    "ruff check": "ruff check",
    "mypy": "mypy",
    "lint-imports": "lint-imports",
    "pytest": "pytest -n auto --maxprocesses 4 --dist loadfile",  # a worker a core, each with a torch of 0.8 GB
}


MACHINE = {
    "stack": "the machine of this stack (default: $PULUMI_STACK, or the one that is selected)",
    "host": "another Linux machine, as user@host:port (default: $INCUBATOR_HOST)",
    "folder": "where everything goes on it (default: $INCUBATOR_FOLDER, or ~/incubator)",
}
RUN = {"run": "name of the run (default: the only one, or the only one that lives)"}


@task
@plain_refusals
def demo(c: Context) -> None:
    """Simulate a small screen, train on it, predict its held-out cells and judge them: minutes on a CPU."""
    training = f"{_uv()} run --group training training"
    run(c, "rm -rf runs/demo_data")  # of an earlier demo: `simulate` overwrites nothing
    run(c, f"{training} simulate runs/demo_data/demo.h5ad")
    run(c, f"{training} fit configs/runs/demo.yaml overwrite=true")
    run(c, f"{training} predict runs/demo --output runs/demo/predictions.h5ad")
    run(c, f"{training} evaluate runs/demo")


@task(
    help={
        "cloud": "also the tests over the real engine, gcloud and whole machines: some 20 minutes (tests/tools/bring_tools first)"
    }
)
@plain_refusals
def check(c: Context, cloud: bool = False) -> None:
    """Run every check and test; all run whatever fails, and a table ends it."""
    run(c, f"{_uv()} sync --inexact --all-groups")
    rows = []
    for name, command in CHECKS.items():
        if name == "pytest" and not cloud:
            command += " -m 'not cloud'"
        start = time.monotonic()
        result = "ok" if run(c, f"{_uv()} run --no-sync {command}", may_fail=True) else "FAILED"
        rows.append((name, result, f"{time.monotonic() - start:,.1f} s"))
    print("\n" + "\n".join(f"{name:<14}{result:<8}{seconds:>10}" for name, result, seconds in rows))
    if any(result != "ok" for _, result, _ in rows):
        raise Exit(code=1)


@task(positional=["name"], help={"name": "which one; `list` names them"})
@plain_refusals
def bench(c: Context, name: str) -> None:
    """Run a benchmark of tests/benchmarks; `fab bench list` names them. Its figures are those of a quiet machine only."""
    files = {path.stem: path for path in sorted((ROOT / "tests" / "benchmarks").glob("*.py"))}
    if name == "list":
        for each, path in files.items():
            print(f"{each:<20}{path.read_text(encoding='utf-8').splitlines()[0].strip(chr(34))}")
        return
    if name not in files:
        raise Refused(f"bench: {name}: no such benchmark (accepted: {', '.join(files)})")
    run(c, f"{_uv()} sync --inexact --all-groups")
    run(c, f"{_uv()} run --no-sync python -m tests.benchmarks.{name}")


@task(
    help={
        **MACHINE,
        "data": "what to bring: gs://, hf://, https://...#sha256=, a folder here, or a name of configs/data/; may be repeated",
        "swap-gib": "make a swap file of so many GiB",
        "idle-minutes": "power a rented machine off after so many minutes without a run or a login (default 30; 0: never)",
        "dry-run": "print the commands, run none",
    },
    iterable=["data"],
)
@plain_refusals
def bootstrap(
    c: Context,
    data: list[str],
    stack: str | None = None,
    host: str | None = None,
    folder: str | None = None,
    swap_gib: str | None = None,
    idle_minutes: str | None = None,
    dry_run: bool = False,
) -> None:
    """Bring uv, code, environment, tokens and data to the machine; what is there already is left alone."""
    swap, idle = _number("--swap-gib", swap_gib, least=1), _number("--idle-minutes", idle_minutes, least=0)
    make_ready(_host(stack, host, folder), data, swap, idle, dry_run)
    _remember(stack, host, folder)


@task(
    help={
        **MACHINE,
        "run": "run file, such as configs/runs/demo.yaml",
        "set": "KEY=VALUE laid over it; may be repeated",
        "bucket": "gs://BUCKET or file:///FOLDER for the results of a machine that no stack rents",
        "systemd": "start it as a systemd unit (needs sudo there) instead of under nohup",
    },
    iterable=["set"],
)
@plain_refusals
def train(
    c: Context,
    set: list[str],
    run: str | None = None,
    stack: str | None = None,
    host: str | None = None,
    folder: str | None = None,
    bucket: str | None = None,
    systemd: bool = False,
) -> None:
    """Start a run that needs nobody: it survives logout and reboot, and its checkpoints go to the bucket."""
    file = Path(run) if run else None
    runs.validated(file, set, bucket)  # before any machine is asked
    there = _host(stack, host, folder)
    if bucket and there.machine.bucket:
        raise Refused(f"--bucket {bucket}: the stack has a bucket, {there.machine.bucket}; --bucket goes with --host")
    runs.train(there, file, set, bucket, systemd)


@task(help={**MACHINE, "watch": "renew it every ten seconds"})
@plain_refusals
def status(c: Context, stack: str | None = None, host: str | None = None, folder: str | None = None, watch: bool = False) -> None:
    """How the runs on the machine are getting on."""
    there = _host(stack, host, folder)
    if watch:
        runs.watch(there)
    else:
        print(table(runs.status(there), there.machine))


@task(help={**MACHINE, **RUN, "follow": "go on with what comes", "number": "lines of the past (default 50)"})
@plain_refusals
def logs(
    c: Context,
    run: str | None = None,
    follow: bool = False,  # before `folder`, so that -f is its
    number: str = "50",
    stack: str | None = None,
    host: str | None = None,
    folder: str | None = None,
) -> None:
    """What a run has printed."""
    lines = _number("--number", number, least=0)
    runs.logs(_host(stack, host, folder), run, follow, 50 if lines is None else lines)


@task(help={**MACHINE, **RUN})
@plain_refusals
def stop(c: Context, run: str | None = None, stack: str | None = None, host: str | None = None, folder: str | None = None) -> None:
    """End a run: a checkpoint, its last results to the bucket, and then it is safe to destroy the machine."""
    runs.stop(_host(stack, host, folder), run)


@task(
    help={
        **MACHINE,
        **RUN,
        "into": "folder here (default: runs)",
        "bucket": "from this bucket instead of the machine: gs://BUCKET; needs --run",
    }
)
@plain_refusals
def pull(
    c: Context,
    run: str | None = None,
    into: str = "runs",
    stack: str | None = None,
    host: str | None = None,
    folder: str | None = None,
    bucket: str | None = None,
) -> None:
    """Bring a run's results here, verified; from the bucket, if the machine is gone."""
    if bucket is None:
        results.pull(_host(stack, host, folder), run, Path(into))
        return
    if run is None or stack or host:
        raise Refused(f"--bucket {bucket}: needs --run NAME, and no machine")
    results.pull_from_bucket(bucket, run, Path(into))


def _host(stack: str | None, host: str | None, folder: str | None) -> Host:
    return connect(machine_of(stack, host, folder))


def _remember(stack: str | None, host: str | None, folder: str | None) -> None:
    """Verbs that follow in the same command mean the same machine: `fab bootstrap --host me@box train --run my.yaml`."""
    if stack:
        os.environ.pop(HOST_VARIABLE, None)
        os.environ["PULUMI_STACK"] = stack
    if host:
        os.environ.pop(FOLDER_VARIABLE, None)
        os.environ[HOST_VARIABLE] = host
    if folder:
        os.environ[FOLDER_VARIABLE] = folder


def _number(flag: str, text: str | None, least: int) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) < least:
        raise Refused(f"{flag}: {text} (accepted: a whole number, {least} or more)")
    return int(text)


def _uv() -> str:
    """As a word of a shell."""
    path = uv()
    return shlex.quote(str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path))


def run(c: Context, command: str, may_fail: bool = False) -> bool:
    """Show a command, then run it in the repository's root.

    A failure ends the task with the command's exit code, unless it `may_fail`.

    Returns: whether it succeeded.
    """
    print(f"$ {command}", flush=True)
    with c.cd(ROOT):
        return bool(c.run(command, warn=may_fail, pty=sys.stdout.isatty(), in_stream=False))
