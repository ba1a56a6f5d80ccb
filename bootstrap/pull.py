"""A run's results to this laptop, from its machine or from the bucket: verified, and never over anything else."""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from bootstrap.connection import Host, Vanished
from bootstrap.runs import job_of
from infra.refusal import Failed, Refused

ROUNDS = 5
_OPTIONS = ("-rltz", "--partial-dir=.rsync-partial", "--exclude=.*.partial")


def pull(host: Host, name: str | None, into: Path) -> Path:
    """Bring a run's directory to `into`/NAME, and verify its checkpoints.

    Raises: Refused if there is another run, or anything else, in that folder; Failed if a checkpoint does not verify.
    """
    facts, job = job_of(host, name)
    target, source = _folder(into) / job.name, f"{facts.root}/runs/{job.name}"
    there = host.ask(f"cat {shlex.quote(f'{source}/run.json')}")
    if there.code:
        raise Refused(f"{host.machine.label}: {job.name} has left nothing yet")
    _refuse_other(target, there.out)
    target.mkdir(parents=True, exist_ok=True)
    (target / "run.json").write_text(there.out)  # first: a pull that is cut off is known for what it is
    start = time.monotonic()
    for left in reversed(range(ROUNDS)):
        try:
            _bring(host, source, target)
            break
        except Vanished:  # the run goes on, and a checkpoint was rotated away meanwhile
            if left == 0:
                raise
    _verify(target)
    if job.checkpoint_step is not None and not list(target.glob("checkpoints/step=*/MANIFEST.json")):
        raise Failed(f"{target}: no checkpoint came, and {host.machine.label} has one of step {job.checkpoint_step}; pull again")
    print(f"{target}: brought from {host.machine.label} and verified in {time.monotonic() - start:.1f} s")
    return target


def pull_from_bucket(bucket: str, name: str, into: Path) -> Path:
    """The same from the bucket: the machine may be gone.

    Raises: Refused or Failed in the words of what does it.
    """
    target = _folder(into) / name
    done = subprocess.run(
        [sys.executable, "-m", "training.supervision", "--root", str(into), "pull", bucket, name, str(target), "--all"]
    )
    if done.returncode:
        raise (Refused if done.returncode == 2 else Failed)(f"{name} could not be brought from {bucket} (see above)")
    return target


def _bring(host: Host, source: str, target: Path) -> None:
    """Payloads first, then the manifests of those that came whole: what a cut leaves here does not count as a checkpoint.

    Raises: Vanished if something was removed there meanwhile.
    """
    host.copy(f":{source}/", f"{target}/", *_OPTIONS, "--exclude=MANIFEST.json")
    listed = host.ask(f"cd {shlex.quote(source)} && ls -d checkpoints/step=*/MANIFEST.json 2>/dev/null").out.split()
    for folder in target.glob("checkpoints/step=*"):  # half there, and gone where it came from
        if not (folder / "MANIFEST.json").exists() and f"checkpoints/{folder.name}/MANIFEST.json" not in listed:
            subprocess.run(["rm", "-rf", "--", folder], check=True)
    came = tuple(name for name in listed if (target / name).parent.is_dir())
    if came:
        host.copy(f":{source}/", f"{target}/", "-ltz", files=came)


def _verify(target: Path) -> None:
    """Raises: Failed if a checkpoint that was brought has not the files of its manifest."""
    done = subprocess.run([sys.executable, "-m", "training.supervision", "--root", str(target), "verify", str(target)])
    if done.returncode:
        raise Failed(f"{target}: not all of it is as it was written (see above); remove what is named there, and pull again")


def _folder(into: Path) -> Path:
    into = into.absolute()
    above = next(folder for folder in (into, *into.parents) if folder.exists())
    if not above.is_dir():
        raise Refused(f"--into: {into}: {above} is no folder")
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"--into: {into}: {error.strerror}") from None
    return into


def _refuse_other(target: Path, facts_there: str) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        here = json.loads((target / "run.json").read_text())["starts"][0]
    except (OSError, ValueError, KeyError, IndexError):
        raise Refused(f"{target}: is not empty and holds no run (another place: --into FOLDER)") from None
    if here != json.loads(facts_there)["starts"][0]:
        raise Refused(f"{target}: holds another run of this name, begun at {here.get('time')} (another place: --into FOLDER)")
