"""How runs stand by what their bucket has: for when their machine is off or gone. Works on any computer."""

import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from pydantic import TypeAdapter, ValidationError

from training.checkpoints.manifest import Manifest
from training.checkpoints.progress_file import progress_of
from training.errors import RunError, UserError
from training.runner.bucket.bucket import Bucket, Damaged, Stored, open_bucket
from training.runner.bucket_side import runs_in
from training.runner.mirror.lease import STALE_AFTER, lease_in
from training.runner.mirror.reach import manifests_in_bucket
from training.runner.protocol import LINE, LOG, LOG_BEFORE, brief
from training.runner.report import FORMAT, JobStatus, Status
from training.runner.shutdown_report import shutdown_report
from training.runner.state import FINAL, State, state_of
from training.text import escaped
from training.untrusted import is_single_name

AT_ONCE = 8
POWER_OFF_WITHIN = timedelta(minutes=10)
"""From a machine's shutdown report to the stop of its VM: the guard takes at most 3 minutes to write it and to power off, systemd
ends services within 90 s, then Google notices. A VM that stopped later may have run something that the report does not know."""
Objects = dict[str, Stored]
_JOB = TypeAdapter(JobStatus)


def status_in(url: str) -> Status:
    """Each run of a bucket, with what was known when it was last pushed; one whose files say what cannot be is `broken`.

    Raises: as Bucket's methods do.
    """
    bucket = open_bucket(url)
    objects = _by_run(bucket.listing("runs", pass_over=True))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = tuple(pool.map(lambda name: _job_or_broken(bucket, name, objects[name]), sorted(objects)))
    return Status(FORMAT, datetime.now(UTC).isoformat(timespec="seconds"), jobs)


def log_in(url: str, name: str | None, lines: int) -> str:
    """The last lines that a run has printed; the only run of the bucket, if no name is given.

    Raises: UserError naming the runs there are; as Bucket's methods do.
    """
    bucket, names = open_bucket(url), runs_in(url)
    chosen = names[0] if name is None and len(names) == 1 else name
    if chosen not in names:
        what = f"has no run {chosen}" if chosen else "which run? name it: --run NAME"
        raise UserError(f"{url}: {what} (in the bucket: {', '.join(names) or 'none'})")
    text = bucket.read(f"runs/{chosen}/job/{LOG}") or bucket.read(f"runs/{chosen}/job/{LOG_BEFORE}")
    if text is None:
        raise RunError(f"{url}: {chosen} has left no log there")
    return "\n".join(text.decode(errors="replace").splitlines()[-lines:] if lines else [])


def prove(url: str, machine: str, since: datetime, stopped: datetime) -> list[str]:
    """Whether destroying a machine that is off loses nothing; what was compared, a line a run.

    The machine's shutdown report must be of the time after the last start of its VM (`since`), right before it was `stopped`.
    Of each run, the machine itself has compared its disk with what was sent, file by file; here the bucket is compared with the
    manifest of the newest checkpoint.

    Raises: RunError with all that is not proven; as Bucket's methods do.
    """
    bucket = open_bucket(url)
    report = shutdown_report(bucket, machine)
    if report is None or report.time is None:
        raise RunError(f"{url} has no shutdown report of {machine}: a machine writes one when its idle guard powers it off")
    written = datetime.fromisoformat(report.time).astimezone(UTC)
    if written <= since:
        raise RunError(
            f"the shutdown report of {machine} in {url} is of {_moment(written)}; its VM was started after that, at "
            f"{_moment(since)}: what it did since is not known"
        )
    if not written <= stopped <= written + POWER_OFF_WITHIN:
        raise RunError(
            f"the shutdown report of {machine} in {url} is of {_moment(written)}; its VM was stopped at {_moment(stopped)} "
            f"(accepted: at most {POWER_OFF_WITHIN.seconds // 60} minutes after the report): what it did in between is not known"
        )
    lines, missing = [], [f"{path} belongs to no job, and is on its disk alone" for path in report.strays]
    for job in report.jobs:
        try:
            lines.append(_compared(job, url))
        except RunError as failure:
            missing.append(str(failure))
    if missing:
        raise RunError("; ".join(missing))
    head = f"{machine} compared its disk with the bucket before it powered itself off, at {_moment(written)}"
    return [f"{head}: {len(lines)} runs, everything was there" if lines else f"{head}: no run was ever started there", *lines]


def _compared(job: JobStatus, url: str) -> str:
    """Compare what a machine said of a job with the bucket as it is now.

    Raises: RunError with what is missing.
    """
    if job.bucket is None:
        raise RunError(f"{job.name} has no bucket: it is on its disk alone")
    if job.bucket != url and not job.bucket.startswith("gs://"):
        raise RunError(f"{job.name} goes to {job.bucket}, a folder of the machine itself")
    if not job.is_safe:
        raise RunError(f"{job.name} ({job.phase}, step {job.step}): not everything was in {job.bucket} when the machine went off")
    bucket, prefix = open_bucket(job.bucket), f"runs/{job.name}"
    objects = bucket.listing(prefix, pass_over=True)
    files = ["job/state.json", *(["run.json"] if job.step else []), *(["model.pt"] if job.phase == "finished" else [])]
    gone = [name for name in files if f"{prefix}/{name}" not in objects]
    there = dict(manifests_in_bucket(bucket, f"{prefix}/checkpoints", objects))
    if job.checkpoint_step is not None and job.checkpoint_step > max(there, default=-1):
        gone.append(f"the checkpoint of step {job.checkpoint_step} (newest there: {max(there, default='none')})")
    if gone:
        raise RunError(f"{job.name}: {job.bucket}/{prefix} lacks {', '.join(gone)}")
    checkpoint = f", and {_size(there[max(there)])}" if there else ""
    return f"{job.name}: {job.phase} at step {job.step}; {bucket.url}/{prefix} has {', '.join(files)}{checkpoint}"


def _size(manifest: Manifest) -> str:
    size = sum(file.size for file in manifest.files)
    return f"the checkpoint of step {manifest.step}: {len(manifest.files)} files, {size:,} bytes, as its manifest says"


def _by_run(objects: Objects) -> dict[str, Objects]:
    """Those of each run that has begun, by its name; what is no name of a run is passed over."""
    found: dict[str, Objects] = defaultdict(dict)
    for name, stored in objects.items():
        found[name.split("/")[1]][name] = stored
    return {run: of_it for run, of_it in found.items() if f"runs/{run}/run.json" in of_it and is_single_name(run)}


def _job_or_broken(bucket: Bucket, name: str, objects: Objects) -> JobStatus:
    """As the laptop will read it: what it would refuse hides no other run."""
    try:
        return _JOB.validate_json(json.dumps(asdict(_job(bucket, name, objects))))
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        wrong = f"{'.'.join(map(str, found['loc']))}: {brief(found['input'])}: {brief(found['msg'])}"
    except (ValueError, OverflowError, Damaged) as error:  # too large to read, a link, a time that is none
        wrong = escaped(str(error))
    return JobStatus(name, "broken", f"what the bucket has of it cannot be read: {wrong}"[:LINE], bucket=bucket.url)


def _job(bucket: Bucket, name: str, objects: Objects) -> JobStatus:
    prefix = f"runs/{name}"
    state = state_of(bucket.read(f"{prefix}/job/state.json") or b"")
    progress = progress_of(bucket.read(f"{prefix}/progress.json") or b"")
    steps = tuple(sorted(dict(manifests_in_bucket(bucket, f"{prefix}/checkpoints", objects))))
    phase, reason = _phase(bucket, name, state)
    return JobStatus(
        name=name,
        phase=phase,
        reason=reason,
        step=max(progress.step if progress else 0, *steps, 0),
        total_steps=(progress.total_steps if progress else 0) or None,
        loss=progress.loss if progress else None,
        checkpoint_step=steps[-1] if steps else None,
        bucket=bucket.url,
        safe_steps=steps,
        restarts=max(0, len(state.starts) - 1) if state else 0,
        run_seconds=sum(start.seconds for start in state.starts) if state else 0.0,
        error_tail=state.tail if state and state.phase == "failed" else "",
    )


def _phase(bucket: Bucket, name: str, state: State | None) -> tuple[str, str]:
    """A run that has not ended lives as long as a machine renews its lease; after that it was cut off."""
    if state is None:
        return "unknown", "the bucket has no state.json of it"
    if state.phase in FINAL:
        return state.phase, state.reason
    holder, renewed = lease_in(bucket, name)
    if datetime.now(UTC) - renewed < STALE_AFTER:
        return state.phase, f"on {holder}, which was heard of at {_moment(renewed)}"
    said = f"it was {state.phase} when it was last heard of"
    return "cut off", f"{said}; its machine goes on with it at the next boot, and `train` does on any machine"


def _moment(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
