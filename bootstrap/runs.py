"""Runs on the machine: start, look, stop, fetch. All that is known there is asked of `training.runner` on it."""

import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from bootstrap import facts as machine_facts
from bootstrap import hooks
from bootstrap.connection import Host, Lost, in_a_line
from bootstrap.data import compare
from bootstrap.facts import Facts
from bootstrap.shipping import code
from bootstrap.table import limit_lines, table
from bootstrap.verbs import ask_verb, show_verb, update_advice
from training.config import Run, RunConfig
from training.config_loader import load_config
from training.config_text import commented_yaml
from training.errors import RunError, UserError
from training.runner.job import FORMAT
from training.runner.protocol import LOG, LOG_BEFORE
from training.runner.report import JobStatus, Status, from_json
from training.runner.staging import TAKE_OVER

PUSH_SECONDS = 60
WATCH_SECONDS = 10
ESTIMATE_SECONDS = 20
ROOT = Path(__file__).parent.parent
_BUCKET = re.compile(r"gs://[a-z0-9][\w.-]+[a-z0-9](/[^/\s]+)*/?|file:///\S.*")


def train(host: Host, run: Path | None, settings: Sequence[str], bucket: str | None, take_over: bool = False) -> None:
    """Start a run that needs nobody, and return when its first optimizer step is done.

    `take_over`: another machine, which is gone for good, still has the run's lease in the bucket.

    Raises: UserError for a configuration that cannot be, a machine without a bootstrap, or a run of this name that lives;
        RunError if it dies before its first step, with the end of its log.
    """
    config = validated(run, settings)  # before the machine is asked anything
    facts = machine_facts.ask(host)
    _need_whole_bootstrap(host, facts)
    if isinstance(config, RunConfig):
        compare(host, facts, config.data.split, config.data.perturbation_features_file, Path.cwd())
    there = _status(host, facts)
    known = _refuse_living(host, there, config.name, bucket)
    bucket = bucket or host.machine.bucket or _known_bucket(host, known)
    _need_folder(host, bucket)
    staged = f"{facts.root}/.staged/{config.name}.{uuid4().hex[:8]}"
    job = {
        **({"format": FORMAT} if there.format else {}),  # older code takes an unknown field for a slip
        "name": config.name,
        "bucket": bucket,
        "push_interval_seconds": PUSH_SECONDS,
        "secrets": list(host.machine.secrets),
    }
    files = {"job.json": json.dumps(job, indent=1) + "\n", "run.yaml": commented_yaml(config)}
    for name, text in (files | ({TAKE_OVER: ""} if take_over else {})).items():
        _sure(host, f"mkdir -p {_q(staged)} && cat >{_q(f'{staged}/{name}')}", stdin=text)
    try:
        _check(host, facts, config, staged)
        print(f"-> starting {config.name}", flush=True)
        try:
            _start(host, facts, config.name, staged)
        except Lost as lost:
            raise lost.then(f"whether {config.name} was started: ./fab status; if it was not, the same command starts it") from None
    except Lost:  # what is staged may have been taken
        raise
    except BaseException:
        host.ask(f"rm -rf {_q(staged)}")
        raise
    try:
        _wait(host, facts, config.name, staged)
        print(_started(host, facts, config.name, bucket), flush=True)
    except Lost as lost:
        raise lost.then(
            f"{config.name} was started, and needs this laptop no longer; how it goes: ./fab status, ./fab logs"
        ) from None


def _wait(host: Host, facts: Facts, name: str, staged: str) -> None:
    """Until the first optimizer step is done.

    Raises: UserError if another start was quicker; RunError if there is none.
    """
    code = show_verb(host, facts, "wait", name, "--from", staged)
    if code == 2:
        raise UserError(f"{host.machine.label}: {name} was not started (see above)")
    if code:
        raise RunError(f"{host.machine.label}: {name} did not reach its first step (see above); the whole log: ./fab logs")


def _started(host: Host, facts: Facts, name: str, bucket: str | None) -> str:
    """What became of a start whose first step is done; a short run has finished by now."""
    where = f"its results go to {bucket}/runs/{name}" if bucket else "no bucket: its results stay on that machine"
    job = _estimated(host, facts, name)
    if job is not None and "finished" in (job.phase, job.reason):
        return f"{name} has finished on {host.machine.label}; {where}\nlook: ./fab status; its results to this laptop: ./fab pull"
    lines = [f"{name} trains on {host.machine.label} and needs nobody; {where}"]
    if job is not None:
        lines += limit_lines(job, host.machine, datetime.now(UTC))
    return "\n".join([*lines, "look: ./fab status, ./fab logs -f; end it: ./fab stop"])


def _estimated(host: Host, facts: Facts, name: str) -> JobStatus | None:
    """How a run stands; where the cloud ends its VM, as soon as it can say how long it needs, which takes some steps."""
    until = time.monotonic() + ESTIMATE_SECONDS
    while True:
        job = next((job for job in _status(host, facts).jobs if job.name == name), None)
        is_known = job is None or job.supervisor_pid is None or job.eta_seconds is not None
        if host.machine.ends is None or is_known or time.monotonic() > until:
            return job
        time.sleep(1)


def validated(run: Path | None, settings: Sequence[str], bucket: str | None = None) -> Run:
    """The run's configuration, judged on this laptop without torch.

    Raises: UserError as `training fit` refuses, and for paths that mean nothing on the machine.
    """
    if run is None:
        files = ", ".join(sorted(f"configs/runs/{path.name}" for path in (ROOT / "configs" / "runs").glob("*.yaml")))
        raise UserError(f"which run? --run RUN.yaml, with --set KEY=VALUE laid over it (there are {files}, or your own)")
    config = load_config(run, list(settings))
    for key, path in config.files:
        if path.startswith(("/", "~")) or ".." in Path(path).parts:
            raise UserError(
                f"{run}: {key}: {path}: on the machine, paths start at the project's folder (accepted: data/..., or a file of "
                "the project)"
            )
    default = Run.model_fields["output_dir"].default
    if config.output_dir != default:  # refused, as every setting that has no effect: results are looked for where it says
        raise UserError(
            f"{run}: output_dir: {config.output_dir}: has no effect on the machine, where results lie in its own runs/ and in the "
            f"bucket (leave it out, or add --set output_dir={default}; where `./fab pull` puts them: --into)"
        )
    if bucket is not None and not (_BUCKET.fullmatch(bucket) and bucket.isprintable()):
        raise UserError(f"--bucket: {bucket}: accepted: gs://BUCKET, gs://BUCKET/PREFIX, or file:///FOLDER of the machine")
    if config.overwrite or config.resume:
        raise UserError(f"{run}: resume and overwrite are decided on the machine: a run goes on if it has begun; leave them out")
    return config


def status(host: Host) -> Status:
    """What the machine says of all its runs, and of itself."""
    facts = machine_facts.ask(host)
    need_bootstrap(host, facts)
    return _status(host, facts)


def watch(host: Host, again: Callable[[], None] = lambda: time.sleep(WATCH_SECONDS)) -> None:
    """The table, renewed every ten seconds until Ctrl-C."""
    try:
        while True:
            text = table(status(host), host.machine)
            print(f"\033[H\033[2J{text}" if sys.stdout.isatty() else text, flush=True)
            again()
    except KeyboardInterrupt:
        print()


def logs(host: Host, name: str | None, follow: bool, lines: int) -> None:
    """The end of a run's log, and, with `follow`, what comes, until Ctrl-C."""
    facts, job = job_of(host, name)
    folder = f"{facts.root}/jobs/{job.name}"
    file = f'log={_q(f"{folder}/{LOG}")}; [ -e "$log" ] || log={_q(f"{folder}/{LOG_BEFORE}")}'
    try:
        host.show(f'{file}; exec tail -n {lines} {"-F " if follow else ""}"$log"', None, ("-tt",) if follow else ())
    except KeyboardInterrupt:
        print()


def stop(host: Host, name: str | None, seconds: int | None = None) -> None:
    """End a run: checkpoint, then its last results to the bucket.

    Units: `seconds` to wait at most; None is an hour.

    Raises: RunError if it is not safe to destroy the machine after it.
    """
    facts, job = job_of(host, name)
    words = () if seconds is None else ("--seconds", str(seconds))
    try:
        code = show_verb(host, facts, "stop", job.name, *words)
    except Lost as lost:
        again = f"{job.name} ends there all the same; whether all is in the bucket: ./fab stop --run {job.name}"
        raise lost.then(again) from None
    if code:
        raise RunError(f"{host.machine.label}: {job.name} did not end as it should (see above); ./fab status")


def _check(host: Host, facts: Facts, config: Run, staged: str) -> None:
    """`training check` there: files, split, memory, one pass."""
    begun = host.ask(f"ls -d {_q(f'{facts.root}/runs/{config.name}')}/checkpoints/step=*/MANIFEST.json 2>/dev/null | head -n 1").out
    words = [f"{facts.root}/code/.venv/bin/training", "check", f"{staged}/run.yaml", f"output_dir={facts.root}/runs"]
    words += ["resume=true"] if begun.strip() else ["overwrite=true"]
    print(f"-> training check {config.name}{' (it goes on)' if begun.strip() else ''}", flush=True)
    start = time.monotonic()
    answer = host.ask(f"cd {_q(f'{facts.root}/code')} && exec {shlex.join(words)}", seconds=1800)
    if answer.code:
        said = (answer.err.strip() or answer.out.strip())[-4000:]
        raise (UserError if answer.code == 2 else RunError)(
            f"{host.machine.label}: {said.removeprefix('refused: ').removeprefix('failed: ')}{_other_version(facts)}"
        )
    print(f"   done in {time.monotonic() - start:.1f} s", flush=True)


def _other_version(facts: Facts) -> str:
    """A remark where the code there is not this laptop's: what is accepted here may be refused there for that alone."""
    try:
        here = code().commit
    except (UserError, RunError):
        return ""
    return "" if here == facts.commit else f" (the code there is not that of this laptop. {update_advice(facts)})"


def _known_bucket(host: Host, known: JobStatus | None) -> str | None:
    """Where an earlier start sent its results, as the machine says."""
    if known is None or known.bucket is None:
        return None
    if not _BUCKET.fullmatch(known.bucket):
        raise RunError(
            f"{host.machine.label}: says that {known.name} goes to {known.bucket}, which is no bucket; name it: --bucket"
        )
    return known.bucket


def _need_folder(host: Host, bucket: str | None) -> None:
    """Raises: UserError unless a bucket that is a folder of the machine is there and may be written."""
    if bucket is None or not bucket.startswith("file://"):
        return
    folder = unquote(urlsplit(bucket).path).rstrip("/") or "/"
    answer = host.ask(f"[ -d {_q(folder)} ] || exit 3; [ -w {_q(folder)} ] || exit 4")
    if answer.code:
        make = shlex.join(["ssh", "-F", str(host.ssh_config), host.machine.label, f"mkdir -p {_q(folder)}"])
        what = f"which is not there; make it: {make}" if answer.code == 3 else "which you may not write (take another folder)"
        raise UserError(f"--bucket {bucket}: is the folder {folder} of {host.machine.label}, not of this laptop, {what}")


def _start(host: Host, facts: Facts, name: str, staged: str) -> None:
    job = f"{facts.root}/jobs/{name}"
    log = f"{job}/{LOG if facts.runner == hooks.RUNNER else LOG_BEFORE}"
    start = hooks.detached(facts.root, "supervise", name, "--from", staged, log=log, module=facts.runner)
    _sure(host, f"mkdir -p {_q(job)} && {start}")


def need_bootstrap(host: Host, facts: Facts) -> None:
    """Raises: UserError if the machine is not ready for a run."""
    if not facts.environment or not facts.code:
        what = "its code is missing, or there by half" if facts.environment else "there is no environment"
        raise UserError(f"{host.machine.label}: is not ready: {what} in {facts.root}; run: ./fab bootstrap")


def _need_whole_bootstrap(host: Host, facts: Facts) -> None:
    """As `need_bootstrap`, and with the hooks: they go on with a run after a reboot, and bring its last results to the bucket."""
    need_bootstrap(host, facts)
    if len(facts.hooks.split()) < 2:
        raise UserError(
            f"{host.machine.label}: is not ready: its hooks (boot-hook, last-sync) are missing in {facts.root}; "
            "run: ./fab bootstrap"
        )


def _refuse_living(host: Host, there: Status, name: str, bucket: str | None) -> JobStatus | None:
    """Refuse to start what lives, but for a run that only pushes and is to have another bucket.

    Returns: what is known of an earlier start.
    """
    known = None
    for job in there.jobs:
        known = job if job.name == name else known
        if job.name == name and job.phase == "pushing" and bucket not in (None, job.bucket):
            print(f"{name} only pushes, to {job.bucket}: from now on it goes to {bucket}", flush=True)
            continue
        if job.supervisor_pid is not None and job.name == name:
            raise UserError(
                f"{host.machine.label}: {name} is {job.phase} already, at step {job.step} of {job.total_steps or '?'}; "
                f"end it first: ./fab stop --run {name}"
            )
        if job.supervisor_pid is not None:
            print(f"{job.name} is {job.phase} there too: the two will share the machine", flush=True)
    return known


def _status(host: Host, facts: Facts) -> Status:
    answer = ask_verb(host, facts, "status")
    if answer.code:
        raise RunError(f"{host.machine.label}: {in_a_line((answer.err or answer.out)[-300:])}")
    return from_json(answer.out, host.machine.label)


def job_of(host: Host, name: str | None) -> tuple[Facts, JobStatus]:
    """The run that is meant: the only one, or the one that is named.

    Raises: UserError if that is none.
    """
    facts = machine_facts.ask(host)
    need_bootstrap(host, facts)
    jobs = _status(host, facts).jobs
    names = ", ".join(job.name for job in jobs) or "none yet"
    found = [job for job in jobs if name in (None, job.name)]
    if name is None and len(found) > 1:
        found = [job for job in found if (job.supervisor_pid is not None)]
    if len(found) != 1:
        raise UserError(f"{host.machine.label}: {f'no run {name}' if name else 'which run? name it'} (there: {names})")
    return facts, found[0]


def _sure(host: Host, command: str, stdin: str = "") -> None:
    answer = host.ask(command, stdin)
    if answer.code:
        raise RunError(f"{host.machine.label}: {in_a_line((answer.err or answer.out)[-300:]) or f'exit code {answer.code}'}")


def _q(text: str) -> str:
    return shlex.quote(text)
