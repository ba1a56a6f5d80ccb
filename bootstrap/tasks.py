"""The user's tasks, one function a verb of `fab`. A task that needs the training group (torch) brings it in by itself."""

import os
import re
import shlex
import sys
import time
from pathlib import Path

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.runners import Result
from invoke.tasks import task

from bootstrap import pull as results
from bootstrap import runs
from bootstrap.bootstrap import Here
from bootstrap.bootstrap import bootstrap as make_ready
from bootstrap.connection import Host, connect
from bootstrap.machine import FOLDER_VARIABLE, HOST_VARIABLE
from bootstrap.off import Off, find, logs_of_bucket, on, table_of_bucket
from bootstrap.shipping import ROOT, check_lock, uv
from bootstrap.table import table
from infra.refusal import plain_refusals
from training.errors import UserError

CHECKS = {
    "ruff format": "ruff format --check",
    "ruff check": "ruff check",
    "mypy": "mypy",
    "lint-imports": "lint-imports",
    # A worker a core, each with a torch of 0.8 GB. Files by name: by number of tests the slow ones of end_to_end would come last.
    "pytest": "pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder",
}


MACHINE = {
    "stack": "name of the stack whose machine is meant, such as l4 (default: $PULUMI_STACK, or the one of `pulumi stack select`)",
    "host": "instead of a stack's: any Linux machine, as user@host or user@host:port (default: $INCUBATOR_HOST)",
    "folder": "with --host: the folder of that machine for code, data and runs (default: $INCUBATOR_FOLDER, or ~/incubator)",
}
BUCKET = "gs://BUCKET, or file:///FOLDER here"
RUN = {"run": "name of the run, such as screen (default: the only run, or the only one that has not ended)"}


@task
@plain_refusals
def demo(c: Context) -> None:
    """Try everything on this computer: simulate a small screen, train, predict, evaluate. Minutes on a CPU.

    The first time it downloads about 3 GB (torch above all). The results are in runs/demo; open runs/demo/report.html.
    Example: ./fab demo
    """
    check_lock()
    training = f"{_uv()} run --group training training"
    run(c, "rm -rf runs/demo_data")  # of an earlier demo: `simulate` overwrites nothing
    run(c, f"{training} simulate runs/demo_data/demo.h5ad")
    run(c, f"{training} fit configs/runs/demo.yaml overwrite=true")
    run(c, f"{training} predict runs/demo --output runs/demo/predictions.h5ad")
    run(c, f"{training} evaluate runs/demo")


@task(
    help={
        "all": "also the slow tests, and those over the real Pulumi engine, gcloud and whole machines: about 30 minutes more "
        "(default: no). Run tests/tools/bring_tools before"
    }
)
@plain_refusals
def check(c: Context, all: bool = False) -> None:
    """Run all checks and tests of this project: format, lint, types, imports, tests. A failure does not end the others.

    A table ends it, and a line on tests that this machine leaves out. As root on Debian, apt installs the programs that tests
    need and that are missing.
    Example: ./fab check
    """
    check_lock()
    run(c, f"{_uv()} sync --inexact --all-groups")
    run(c, f"{_uv()} run --no-sync python -m tests.tools.programs", may_fail=True)
    rows, left_out = [], list[str]()
    for name, command in CHECKS.items():
        if name == "pytest" and not all:
            command += " -m 'not slow and not cloud'"
        start = time.monotonic()
        done = run(c, f"{_uv()} run --no-sync {command}", may_fail=True)
        left_out += re.findall(r"^left out: .*", done.stdout.replace("\r", ""), re.MULTILINE)
        rows.append((name, "ok" if done.ok else "FAILED", f"{time.monotonic() - start:,.1f} s"))
    print("\n" + "\n".join(f"{name:<14}{result:<8}{seconds:>10}" for name, result, seconds in rows))
    if left_out:
        print(f"\n{left_out[-1]}")
    if any(result != "ok" for _, result, _ in rows):
        raise Exit(code=1)


@task
@plain_refusals
def lock(c: Context) -> None:
    """Write requirements.lock anew after a change of the dependencies in pyproject.toml.

    It has the version of each package and the SHA-256 of its files. Nothing else is ever installed, here or on a machine.
    The newest versions before `exclude-newer` of pyproject.toml are chosen.
    Example: ./fab lock
    """
    run(c, "./fab lock")


@task(positional=["name"], help={"name": "name of the benchmark, or list, which names them all (it has no default)"})
@plain_refusals
def bench(c: Context, name: str) -> None:
    """Run one benchmark of tests/benchmarks. Its figures mean something only on a quiet machine.

    Example: ./fab bench list
    """
    files = {path.stem: path for path in sorted((ROOT / "tests" / "benchmarks").glob("*.py"))}
    if name == "list":
        for each, path in files.items():
            print(f"{each:<20}{path.read_text(encoding='utf-8').splitlines()[0].strip(chr(34))}")
        return
    if name not in files:
        raise UserError(f"bench: {name}: no such benchmark (accepted: {', '.join(files)})")
    check_lock()
    run(c, f"{_uv()} sync --inexact --all-groups")
    run(c, f"{_uv()} run --no-sync python -m tests.benchmarks.{name}")


@task(
    help={
        **MACHINE,
        "data": "data for the machine, such as data/screen (here), gs://BUCKET/PREFIX, hf://datasets/ORG/NAME@REVISION, "
        "https://HOST/FILE#sha256=HEX, or a name of configs/data/. May be given several times (default: none)",
        "swap-gib": "size of a swap file on the machine, in GiB, such as 16 (default: no swap file)",
        "idle-minutes": "power a rented machine off after this many minutes without a run and without a login; 0: never "
        "(default: 30, or what an earlier bootstrap set)",
        "dry-run": "print the commands and run none of them (default: no)",
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
    """Prepare a machine: copy uv, code, tokens and data to it, and install the environment. Only what is missing is done.

    The code is what git tracks, and what it neither tracks nor ignores. Secrets and large files are refused by name.
    Example: ./fab bootstrap --stack l4 --data data/screen
    """
    swap, idle = _number("--swap-gib", swap_gib, least=1), _number("--idle-minutes", idle_minutes, least=0)
    _refuse_without_value("--data", data, "data/screen")
    here = Here.of(data)  # before any machine is asked
    make_ready(_host(stack, host, folder), here, swap, idle, dry_run)
    _remember(stack, host, folder)


@task(
    help={
        **MACHINE,
        "run": "run file, such as screen.yaml (no default: it is needed)",
        "set": "KEY=VALUE that replaces a setting of the run file, such as optim.lr=3e-4. May be given several times",
        "bucket": "with --host: where the results go, gs://BUCKET, or file:///FOLDER, an existing folder of that machine "
        "(default with a stack: its bucket)",
        "take-over": "the machine that wrote this run before is gone for good: take its run over (default: no)",
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
    take_over: bool = False,
) -> None:
    """Start a run on a machine. It goes on after logout and reboot, and its checkpoints go to the bucket.

    A run of the same name that was stopped or cut off goes on from its newest checkpoint.
    Example: ./fab train --run screen.yaml --set trainer.max_steps=20000
    """
    _refuse_without_value("--set", set, "optim.lr=3e-4")
    file = Path(run) if run else None
    runs.validated(file, set, bucket)  # before any machine is asked
    there = _host(stack, host, folder)
    if bucket and there.machine.bucket:
        raise UserError(f"--bucket {bucket}: the stack has a bucket, {there.machine.bucket}; --bucket goes with --host")
    runs.train(there, file, set, bucket, take_over)


@task(
    help={
        **MACHINE,
        "watch": "show the table again every 10 seconds until Ctrl-C (default: once)",
        "bucket": f"show the runs of this bucket: {BUCKET} (default: those of the machine, or its bucket's if it is off or gone)",
    }
)
@plain_refusals
def status(
    c: Context,
    stack: str | None = None,
    host: str | None = None,
    folder: str | None = None,
    watch: bool = False,
    bucket: str | None = None,
) -> None:
    """Show the runs on a machine: state, step, loss, speed, what is in the bucket, cost.

    If the machine is off or gone: what the bucket has of them, and how the machine comes back.
    Example: ./fab status --watch
    """
    if bucket is not None:
        _refuse_machine(bucket, stack=stack, host=host, folder=folder)
        print(table_of_bucket(bucket))
        return
    found = find(stack, host, folder)
    if isinstance(found, Off):
        print(table_of_bucket(found.bucket, found.lines))
        return
    there = connect(found)
    if watch:
        runs.watch(there)
    else:
        print(table(runs.status(there), there.machine))


@task(
    help={
        **MACHINE,
        **RUN,
        "follow": "show new lines as they come, until Ctrl-C (default: no)",
        "number": "lines to show, from the end (default: 50)",
        "bucket": f"show what this bucket has of it: {BUCKET} (default: the machine, or its bucket if it is off or gone)",
    }
)
@plain_refusals
def logs(
    c: Context,
    run: str | None = None,
    follow: bool = False,  # before `folder`, so that -f is its
    number: str = "50",
    stack: str | None = None,
    host: str | None = None,
    folder: str | None = None,
    bucket: str | None = None,
) -> None:
    """Show what a run has printed; if its machine is off or gone, what of it came to the bucket.

    Example: ./fab logs --run screen --follow
    """
    lines = int(_number("--number", number, least=0) or 0)
    if bucket is not None:
        _refuse_machine(bucket, stack=stack, host=host, folder=folder)
        logs_of_bucket(bucket, run, lines)
        return
    found = find(stack, host, folder)
    if isinstance(found, Off):
        logs_of_bucket(found.bucket, run, lines)
        print("\n".join(found.lines), flush=True)
        return
    runs.logs(connect(found), run, follow, lines)


@task(help={**MACHINE, **RUN, "seconds": "how long to wait at most for the checkpoint and the bucket (default: 3600)"})
@plain_refusals
def stop(
    c: Context,
    run: str | None = None,
    stack: str | None = None,
    host: str | None = None,
    folder: str | None = None,
    seconds: str | None = None,
) -> None:
    """End a run with a checkpoint, and copy its last results to the bucket. After that the machine may be destroyed.

    It says what it waits for. `./fab train` with the same run file goes on from the checkpoint.
    Example: ./fab stop --run screen
    """
    limit = _number("--seconds", seconds, least=1)
    runs.stop(_host(stack, host, folder), run, limit)


@task(
    help={
        **MACHINE,
        **RUN,
        "into": "folder of this computer for the results (default: runs)",
        "bucket": f"copy from this bucket: {BUCKET} (default: the machine, or its bucket if it is off or gone)",
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
    """Copy the results of a run to this computer and verify them: from the machine, or from the bucket if it is off or gone.

    Then: training evaluate runs/NAME
    Example: ./fab pull --run screen --bucket gs://my-cells-incubator
    """
    if bucket is not None:
        _refuse_machine(bucket, stack=stack, host=host, folder=folder)
        results.pull_from_bucket(bucket, run, Path(into))
        return
    found = find(stack, host, folder)
    if isinstance(found, Off):
        print("\n".join(found.lines), flush=True)
        results.pull_from_bucket(found.bucket, run, Path(into))
        return
    results.pull(connect(found), run, Path(into))


def _host(stack: str | None, host: str | None, folder: str | None) -> Host:
    """A machine that answers.

    Raises: UserError if it is off, with the way back.
    """
    return connect(on(stack, host, folder))


def _refuse_machine(bucket: str, **flags: str | None) -> None:
    for flag, value in flags.items():
        if value:
            raise UserError(f"--bucket {bucket}: needs no machine; leave out --{flag}")


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


def _refuse_without_value(flag: str, values: list[str], example: str) -> None:
    """Invoke drops a flag that may be repeated and has no value."""
    if flag in sys.argv and not values:
        raise UserError(f"{flag}: has no value (accepted: {flag} VALUE, such as {flag} {example})")


def _number(flag: str, text: str | None, least: int) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{flag}: {text} (accepted: a whole number, {least} or more)")
    return int(text)


def _uv() -> str:
    """As a word of a shell."""
    path = uv()
    return shlex.quote(str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path))


def run(c: Context, command: str, may_fail: bool = False) -> Result:
    """Show a command, then run it in the repository's root.

    A failure ends the task with the command's exit code, unless it `may_fail`.

    Returns: what it printed, and how it ended.
    """
    print(f"$ {command}", flush=True)
    with c.cd(ROOT):
        done = c.run(command, warn=may_fail, pty=sys.stdout.isatty(), in_stream=False)
    assert done is not None  # None is for a command that goes on by itself
    return done
