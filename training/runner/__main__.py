"""`python -m training.runner --root ROOT VERB`: what runs beside a run. Exit codes: 0 done, 1 failed, 2 refused."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TextIO

from training.closed_pipe import end_at_closed_pipe, outlive_closed_pipe
from training.errors import RunError, UserError
from training.text import escaped

WAIT_SECONDS = 3600.0
KEPT = "\n\t"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns: the exit code.
    """
    chosen = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    if chosen.verb not in _PRINTS_ONLY:
        outlive_closed_pipe()
    try:
        code: int = _VERBS[chosen.verb](chosen)
    except UserError as refusal:
        _say(f"refused: {refusal}", sys.stderr)
        return 2
    except (RunError, OSError) as failure:
        _say(f"failed: {failure}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 1
    return code


def parser() -> argparse.ArgumentParser:
    """All verbs with their options."""
    top = argparse.ArgumentParser(prog="python -m training.runner", description="What runs beside a run on its machine.")
    top.add_argument("--root", type=Path, required=True, metavar="ROOT", help="folder of code, data, runs and jobs")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    one = verbs.add_parser("supervise", help="run one job until it has ended for good")
    one.add_argument("name", metavar="NAME")
    one.add_argument("--boot", action="store_true", help="only go on with what was begun, or push what is left")
    one.add_argument("--from", type=Path, dest="staged", metavar="FOLDER", help="take job.json and run.yaml from there first")
    one = verbs.add_parser("push", help="bring what a run leaves to its bucket")
    one.add_argument("name", metavar="NAME")
    one.add_argument("--rest", action="store_true", help="end when everything is there")
    verbs.add_parser("boot", help="after a reboot: go on with all jobs, detached")
    verbs.add_parser("revive", help="go on with each job whose supervisor was killed, detached")
    one = verbs.add_parser("stop", help="end a job with a checkpoint, and bring it to the bucket")
    one.add_argument("name", metavar="NAME")
    one.add_argument("--seconds", type=float, default=WAIT_SECONDS, help="wait at most so long (default: %(default)s)")
    one = verbs.add_parser("wait", help="wait for the first step of a job")
    one.add_argument("name", metavar="NAME")
    one.add_argument("--from", type=Path, dest="staged", metavar="FOLDER", help="wait first until a supervisor has taken that")
    one.add_argument("--seconds", type=float, default=WAIT_SECONDS, help="wait at most so long (default: %(default)s)")
    one = verbs.add_parser("status", help="how things stand, as JSON")
    one.add_argument("name", metavar="NAME", nargs="?")
    one = verbs.add_parser("last-sync", help="end everything and bring it to the bucket")
    one.add_argument("--seconds", type=float, default=WAIT_SECONDS, help="wait at most so long for a job (default: %(default)s)")
    verbs.add_parser("idle-guard", help="power the machine off when nobody uses it")
    one = verbs.add_parser("fetch", help="bring data")
    one.add_argument("file", type=Path, metavar="FILE.json", help="- is standard input")
    one.add_argument("--outstanding", action="store_true", help="only say what is missing: exit code 1 if anything is")
    one = verbs.add_parser("pull", help="bring a run from its bucket")
    one.add_argument("url", metavar="URL")
    one.add_argument("name", metavar="NAME")
    one.add_argument("folder", type=Path, metavar="FOLDER")
    one.add_argument("--all", action="store_true", help="all checkpoints, not only the newest")
    one = verbs.add_parser("runs", help="names of the runs of a bucket")
    one.add_argument("url", metavar="URL")
    _add_bucket_verbs(verbs)
    one = verbs.add_parser("verify", help="whether a run directory has the checkpoints that their manifests tell of")
    one.add_argument("folder", type=Path, metavar="RUN_DIR")
    return top


def _add_bucket_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """What is said and asked of a machine that is off, by way of its bucket."""
    one = verbs.add_parser("bucket-status", help="how the runs of a bucket stand, as JSON, by what it has")
    one.add_argument("url", metavar="URL")
    one = verbs.add_parser("bucket-log", help="the end of a run's log, from its bucket")
    one.add_argument("url", metavar="URL")
    one.add_argument("name", metavar="NAME", nargs="?")
    one.add_argument("--lines", type=int, default=50, help="so many, from the end (default: %(default)s)")
    one = verbs.add_parser("shutdown-report", help="write to the bucket how everything stands, before the machine is powered off")
    one.add_argument("--remove", action="store_true", help="remove it there: the machine is on after all")
    one = verbs.add_parser("prove", help="whether all of a machine that is off is in its bucket; exit code 1 if that is not proven")
    one.add_argument("url", metavar="URL")
    one.add_argument("machine", metavar="MACHINE")
    one.add_argument(
        "since", type=datetime.fromisoformat, metavar="STARTED", help="when its VM was last started, ISO 8601 with a zone"
    )
    one.add_argument("stopped", type=datetime.fromisoformat, metavar="STOPPED", help="when it was last stopped")


def _say(text: str, stream: TextIO | None = None) -> None:
    (stream or sys.stdout).write(f"{escaped(text, keep=KEPT)}\n")  # names of files and buckets, words of gcloud


def _supervise(chosen: argparse.Namespace) -> int:
    from training.runner.admission import supervise
    from training.runner.processes import started_at
    from training.runner.staging import is_staged

    staged: Path | None = chosen.staged
    if chosen.boot and staged is not None and not is_staged(staged):  # a systemd unit says both: it was taken at an earlier start
        staged = None
    by_boot = chosen.boot and staged is None
    return supervise(chosen.root, chosen.name, by_boot=by_boot, staged=staged, since=started_at(os.getpid()))


def _push(chosen: argparse.Namespace) -> int:
    from training.runner.control import push

    return push(chosen.root, chosen.name, chosen.rest)


def _boot(chosen: argparse.Namespace) -> int:
    from training.runner.going_on import boot

    _say(f"started: {', '.join(boot(chosen.root)) or 'nothing'}")
    return 0


def _revive(chosen: argparse.Namespace) -> int:
    from training.runner.going_on import revive

    started = revive(chosen.root)
    if started:  # cron calls it every few minutes
        _say(f"started: {', '.join(started)}")
    return 0


def _stop(chosen: argparse.Namespace) -> int:
    from training.runner.control import stop

    _say(stop(chosen.root, chosen.name, chosen.seconds))
    return 0


def _wait(chosen: argparse.Namespace) -> int:
    from training.runner.control import wait

    _say(wait(chosen.root, chosen.name, chosen.seconds, chosen.staged))
    return 0


def _status(chosen: argparse.Namespace) -> int:
    from training.runner.report import as_json
    from training.runner.status import status

    _say(as_json(status(chosen.root, chosen.name)))
    return 0


def _last_sync(chosen: argparse.Namespace) -> int:
    from training.runner.control import last_sync

    _say(last_sync(chosen.root, chosen.seconds))
    return 0


def _idle_guard(chosen: argparse.Namespace) -> int:
    from training.runner.guards.power_off import guard

    guard(chosen.root)
    return 0


def _fetch(chosen: argparse.Namespace) -> int:
    from training.runner.sources.fetch import fetch_all, outstanding

    if chosen.outstanding:
        missing = outstanding(chosen.file, chosen.root)
        _say("\n".join(f"{wanted.source} -> data/{wanted.to}" for wanted in missing) or "all is there")
        return 1 if missing else 0
    fetch_all(chosen.file, chosen.root)
    return 0


def _pull(chosen: argparse.Namespace) -> int:
    from training.runner.mirror.pull import pull_run

    pulled = pull_run(chosen.url, chosen.name, chosen.folder, checkpoints="all" if chosen.all else "newest")
    steps = ", ".join(map(str, pulled.steps)) or "none yet"
    damaged = f"; damaged in the bucket: {', '.join(map(str, pulled.damaged_steps))}" if pulled.damaged_steps else ""
    files = sum(path.is_file() for path in chosen.folder.rglob("*"))
    _say(f"{chosen.name}: {files} files; checkpoints of steps: {steps}{damaged}")
    return 0


def _runs(chosen: argparse.Namespace) -> int:
    from training.runner.bucket_side import runs_in

    for name in runs_in(chosen.url):
        _say(name)
    return 0


def _bucket_status(chosen: argparse.Namespace) -> int:
    from training.runner.in_bucket import status_in
    from training.runner.report import as_json

    _say(as_json(status_in(chosen.url)))
    return 0


def _bucket_log(chosen: argparse.Namespace) -> int:
    from training.runner.in_bucket import log_in

    _say(log_in(chosen.url, chosen.name, chosen.lines))
    return 0


def _shutdown_report(chosen: argparse.Namespace) -> int:
    from training.runner.shutdown_report import remove_shutdown_report, write_shutdown_report

    _say(remove_shutdown_report(chosen.root) if chosen.remove else write_shutdown_report(chosen.root))
    return 0


def _prove(chosen: argparse.Namespace) -> int:
    from training.runner.in_bucket import prove

    _say("\n".join(prove(chosen.url, chosen.machine, chosen.since, chosen.stopped)))
    return 0


def _verify(chosen: argparse.Namespace) -> int:
    from training.checkpoints.manifest import MANIFEST, complete_checkpoints, is_intact

    root = chosen.folder / "checkpoints"
    intact = {checkpoint.folder for checkpoint in complete_checkpoints(root) if is_intact(checkpoint)}
    damaged = sorted({path.parent for path in root.glob(f"step=*/{MANIFEST}")} - intact)
    for folder in damaged:
        _say(f"failed: {folder}: a file is not as its manifest tells", sys.stderr)
    _say(f"{len(intact)} checkpoints are as they were written")
    return 1 if damaged else 0


_VERBS = {
    "supervise": _supervise,
    "push": _push,
    "boot": _boot,
    "revive": _revive,
    "stop": _stop,
    "wait": _wait,
    "status": _status,
    "last-sync": _last_sync,
    "idle-guard": _idle_guard,
    "fetch": _fetch,
    "pull": _pull,
    "runs": _runs,
    "bucket-status": _bucket_status,
    "bucket-log": _bucket_log,
    "shutdown-report": _shutdown_report,
    "prove": _prove,
    "verify": _verify,
}

_PRINTS_ONLY = ("status", "verify", "bucket-status", "bucket-log")
"""Verbs that have no other product than what they print."""

if __name__ == "__main__":
    end_at_closed_pipe()
    sys.exit(main())
