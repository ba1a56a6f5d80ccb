"""Runs on the machine: start, look, stop, fetch. All that is known there is asked of `training.supervision` on it."""

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

from bootstrap import facts as machine_facts
from bootstrap import hooks
from bootstrap.connection import Host
from bootstrap.facts import Facts
from bootstrap.table import table
from infra.refusal import Failed, Refused
from training.config import RunConfig
from training.config_loader import load_config
from training.config_text import commented_yaml
from training.refusal import Refused as TrainingRefused
from training.supervision.report import JobStatus, Status, from_json

PUSH_SECONDS = 60
WATCH_SECONDS = 10
ROOT = Path(__file__).parent.parent
_BUCKET = re.compile(r"gs://[a-z0-9][\w.-]+[a-z0-9](/[^/\s]+)*/?|file:///\S.*")


def train(host: Host, run: Path | None, settings: Sequence[str], bucket: str | None, systemd: bool) -> None:
    """Start a run that needs nobody, and return when its first optimizer step is done.

    Raises: Refused for a configuration that cannot be, a machine without a bootstrap, or a run of this name that lives; Failed if
        it dies before its first step, with the end of its log.
    """
    config = validated(run, settings)  # before the machine is asked anything
    facts = machine_facts.ask(host)
    need_bootstrap(host, facts)
    if systemd and not (facts.systemctl and facts.may_sudo):
        raise Refused(
            f"--systemd: {host.machine.label} has no systemd, or gives {facts.user} no sudo without a password; leave it out"
        )
    known = _refuse_living(host, facts, config.name)
    bucket = bucket or host.machine.bucket or (known.bucket if known else None)
    staged = f"{facts.root}/.staged/{config.name}.{uuid4().hex[:8]}"
    job = {
        "name": config.name,
        "bucket": bucket,
        "push_interval_seconds": PUSH_SECONDS,
        "secrets": list(host.machine.secrets),
    }
    for name, text in (("job.json", json.dumps(job, indent=1) + "\n"), ("run.yaml", commented_yaml(config))):
        _sure(host, f"mkdir -p {_q(staged)} && cat >{_q(f'{staged}/{name}')}", stdin=text)
    try:
        _check(host, facts, config, staged)
        print(f"-> starting {config.name}", flush=True)
        _start(host, facts, config.name, staged, systemd)
    except BaseException:
        host.ask(f"rm -rf {_q(staged)}")
        raise
    code = host.show(hooks.supervision(facts.root, "wait", config.name, "--from", staged))
    if code == 2:
        raise Refused(f"{host.machine.label}: {config.name} was started from elsewhere at the same time (see above)")
    if code:
        raise Failed(f"{host.machine.label}: {config.name} did not reach its first step (see above); the whole log: ./fab logs")
    where = (
        f"; its results go to {job['bucket']}/runs/{config.name}"
        if job["bucket"]
        else "; no bucket: its results stay on that machine"
    )
    print(
        f"{config.name} trains on {host.machine.label} and needs nobody{where}\n"
        "look: ./fab status, ./fab logs -f; end it: ./fab stop"
    )


def validated(run: Path | None, settings: Sequence[str], bucket: str | None = None) -> RunConfig:
    """The run's configuration, judged on this laptop without torch.

    Raises: Refused as `training fit` refuses, and for paths that mean nothing on the machine.
    """
    if run is None:
        files = ", ".join(sorted(f"configs/runs/{path.name}" for path in (ROOT / "configs" / "runs").glob("*.yaml")))
        raise Refused(f"which run? --run RUN.yaml, with --set KEY=VALUE laid over it (there are {files}, or your own)")
    try:
        config = load_config(run, list(settings))
    except TrainingRefused as refusal:
        raise Refused(str(refusal)) from None
    for key, path in (
        ("data.split", config.data.split),
        ("data.perturbation_features_file", config.data.perturbation_features_file),
    ):
        if path is not None and (path.startswith(("/", "~")) or ".." in Path(path).parts):
            raise Refused(
                f"{run}: {key}: {path}: on the machine, paths start at the project's folder (accepted: data/..., or a file of "
                "the project)"
            )
    if bucket is not None and not _BUCKET.fullmatch(bucket):
        raise Refused(f"--bucket: {bucket}: accepted: gs://BUCKET, gs://BUCKET/PREFIX, or file:///FOLDER of the machine")
    if config.overwrite or config.resume:
        raise Refused(f"{run}: resume and overwrite are decided on the machine: a run goes on if it has begun; leave them out")
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
    file = _q(f"{facts.root}/jobs/{job.name}/training.log")
    words = host.ssh(f"exec tail -n {lines} {'-F ' if follow else ''}{file}", *(["-tt"] if follow else []))
    try:
        sys.stdout.flush()
        subprocess.run(words, stdin=subprocess.DEVNULL)
    except KeyboardInterrupt:
        print()


def stop(host: Host, name: str | None) -> None:
    """End a run: checkpoint, then its last results to the bucket.

    Raises: Failed if it is not safe to destroy the machine after it.
    """
    facts, job = job_of(host, name)
    if host.show(hooks.supervision(facts.root, "stop", job.name)):
        raise Failed(f"{host.machine.label}: {job.name} did not end as it should (see above); ./fab status")


def _check(host: Host, facts: Facts, config: RunConfig, staged: str) -> None:
    """`training check` there: files, split, memory, one pass."""
    begun = host.ask(f"ls -d {_q(f'{facts.root}/runs/{config.name}')}/checkpoints/step=*/MANIFEST.json 2>/dev/null | head -n 1").out
    words = [f"{facts.root}/code/.venv/bin/training", "check", f"{staged}/run.yaml", f"output_dir={facts.root}/runs"]
    words += ["resume=true"] if begun.strip() else ["overwrite=true"]
    print(f"-> training check {config.name}{' (it goes on)' if begun.strip() else ''}", flush=True)
    start = time.monotonic()
    answer = host.ask(f"cd {_q(f'{facts.root}/code')} && exec {shlex.join(words)}", seconds=1800)
    if answer.code:
        said = answer.err.strip() or answer.out.strip()[-2000:]
        raise (Refused if answer.code == 2 else Failed)(
            f"{host.machine.label}: {said.removeprefix('refused: ').removeprefix('failed: ')}"
        )
    print(f"   done in {time.monotonic() - start:.1f} s", flush=True)


def _start(host: Host, facts: Facts, name: str, staged: str, systemd: bool) -> None:
    job = f"{facts.root}/jobs/{name}"
    if systemd:
        unit = hooks.unit(facts.root, name, facts.user, staged)
        _sure(host, hooks.install_unit(facts.root, name), stdin=unit)
        return
    _sure(
        host, f"mkdir -p {_q(job)} && {hooks.detached(facts.root, 'supervise', name, '--from', staged, log=f'{job}/training.log')}"
    )


def need_bootstrap(host: Host, facts: Facts) -> None:
    """Raises: Refused if the machine is not ready for a run."""
    if not facts.environment or not facts.code:
        what = "its code is missing, or there by half" if facts.environment else "there is no environment"
        raise Refused(f"{host.machine.label}: is not ready: {what} in {facts.root}; run: ./fab bootstrap")


def _refuse_living(host: Host, facts: Facts, name: str) -> JobStatus | None:
    """Refuse to start what lives. Returns: what is known of an earlier start."""
    known = None
    for job in _status(host, facts).jobs:
        known = job if job.name == name else known
        if job.supervisor_pid is not None and job.name == name:
            raise Refused(
                f"{host.machine.label}: {name} is {job.phase} already, at step {job.step} of {job.total_steps or '?'}; "
                f"end it first: ./fab stop --run {name}"
            )
        if job.supervisor_pid is not None:
            print(f"{job.name} is {job.phase} there too: the two will share the machine", flush=True)
    return known


def _status(host: Host, facts: Facts) -> Status:
    answer = host.ask(hooks.supervision(facts.root, "status"))
    if answer.code:
        raise Failed(f"{host.machine.label}: {' '.join((answer.err or answer.out).split())[-300:]}")
    return from_json(answer.out)


def job_of(host: Host, name: str | None) -> tuple[Facts, JobStatus]:
    """The run that is meant: the only one, or the one that is named.

    Raises: Refused if that is none.
    """
    facts = machine_facts.ask(host)
    need_bootstrap(host, facts)
    jobs = _status(host, facts).jobs
    names = ", ".join(job.name for job in jobs) or "none yet"
    found = [job for job in jobs if name in (None, job.name)]
    if name is None and len(found) > 1:
        found = [job for job in found if (job.supervisor_pid is not None)]
    if len(found) != 1:
        raise Refused(f"{host.machine.label}: {f'no run {name}' if name else 'which run? name it'} (there: {names})")
    return facts, found[0]


def _sure(host: Host, command: str, stdin: str = "") -> None:
    answer = host.ask(command, stdin)
    if answer.code:
        words = re.sub(r"\s+", " ", answer.err or answer.out)
        raise Failed(f"{host.machine.label}: {words[-300:] or f'exit code {answer.code}'}")


def _q(text: str) -> str:
    return shlex.quote(text)
