"""A run's results to this laptop, from its machine or from the bucket: verified, inside one folder, and never over anything else.

Neither the machine nor the bucket is trusted: what they name may only be a regular file below the run's folder.
"""

import re
import shlex
import shutil
import time
from pathlib import Path

from bootstrap.connection import Host, Vanished
from bootstrap.folder import folder_for, refuse_other, remove_foreign
from bootstrap.off import ask_bucket, on_this_laptop
from bootstrap.runs import job_of
from bootstrap.streams import show
from training.errors import RunError, UserError
from training.files import write_text
from training.run_facts import run_id_of
from training.untrusted import single_name

ROUNDS = 5
# No -l, no -D: a link of the machine's could lead out of the folder, and a later round would write through it. Nor what makes a
# folder a repository of git, as training/untrusted.py has it.
_OPTIONS = (
    "-rtz",
    "--no-links",
    "--no-devices",
    "--no-specials",
    "--partial-dir=.rsync-partial",
    "--exclude=.*.partial",
    "--exclude=.[gG][iI][tT]",
    "--exclude=[hH][eE][aA][dD]",
)
_MANIFEST = re.compile(r"checkpoints/step=\d{9,18}/MANIFEST\.json")


def pull(host: Host, name: str | None, into: Path) -> Path:
    """Bring a run's directory to `into`/NAME, and verify its checkpoints.

    Raises: UserError if there is another run, or anything else, in that folder; RunError if a checkpoint does not verify, or what
        came is no run directory.
    """
    facts, job = job_of(host, name)
    target, source = folder_for(into, job.name), f"{facts.root}/runs/{job.name}"
    there = host.ask(f"cat {shlex.quote(f'{source}/run.json')}")
    if there.code:
        raise UserError(f"{host.machine.label}: {job.name} has left nothing yet; how far it is: ./fab status")
    run_id = run_id_of(there.out)
    if run_id is None:
        raise RunError(
            f"{host.machine.label}: {source}/run.json is no record of a run; nothing was pulled. Look at it there by hand"
        )
    refuse_other(target, run_id)
    target.mkdir(parents=True, exist_ok=True)
    write_text(target / "run.json", there.out)  # first: a pull that is cut off is known for what it is
    start = time.monotonic()
    for left in reversed(range(ROUNDS)):
        try:
            _bring(host, source, target)
            break
        except Vanished:  # the run goes on, and a checkpoint was rotated away meanwhile
            if left == 0:
                raise
    remove_foreign(target, host.machine.label)
    _verify(target)
    if job.checkpoint_step is not None and not list(target.glob("checkpoints/step=*/MANIFEST.json")):
        raise RunError(f"{target}: no checkpoint came, and {host.machine.label} has one of step {job.checkpoint_step}; pull again")
    print(f"{target}: pulled from {host.machine.label} and verified in {time.monotonic() - start:.1f} s")
    print(next_steps(target))
    return target


def pull_from_bucket(bucket: str, name: str | None, into: Path) -> Path:
    """The same from the bucket: the machine may be gone.

    Without a name it is the only run of the bucket.

    Raises: UserError if that is none, naming those that the bucket has; UserError or RunError as what does it.
    """
    if name is None:
        known = _runs_in(bucket)
        if known == "none" or ", " in known:
            raise UserError(f"{bucket}: which run? --run NAME (in the bucket: {known})")
        name = known
    target = folder_for(into, single_name(name, "--run"))
    start = time.monotonic()
    code = show(on_this_laptop("pull", bucket, name, str(target), "--all", root=into)).code
    if code == 2 and name not in (known := _runs_in(bucket)).split(", "):
        raise UserError(f"{bucket}: has no run {name} (in the bucket: {known})")
    if code:
        raise (UserError if code == 2 else RunError)(f"{name} could not be pulled from {bucket} (see above)")
    remove_foreign(target, bucket)
    print(f"{target}: pulled from {bucket} and verified in {time.monotonic() - start:.1f} s")
    print(next_steps(target))
    return target


def next_steps(target: Path) -> str:
    """Commands for what was pulled, as one can type them (the README says how `training` comes onto the PATH)."""
    shown = target.relative_to(Path.cwd()) if target.is_relative_to(Path.cwd()) else target
    run, above = shlex.quote(str(shown)), shlex.quote(str(shown.parent))
    lines = []
    if (target / "model.pt").is_file():
        lines.append(
            f"training evaluate {run}     # beside the baselines; reads the cells where data.split of its config.yaml says"
        )
    else:
        lines.append("# no model.pt yet: the run has not finished; ./fab pull again when it has")
    if (target / "tensorboard").is_dir():
        lines.append(f"tensorboard --logdir {above}")
    return "next: " + "\n      ".join(lines)


def _bring(host: Host, source: str, target: Path) -> None:
    """Payloads first, then the manifests of those that came whole: what a cut leaves here does not count as a checkpoint.

    Raises: Vanished if something was removed there meanwhile; RunError for a listing that is none.
    """
    host.copy(f":{source}/", f"{target}/", *_OPTIONS, "--exclude=MANIFEST.json")
    listed = host.ask(f"cd {shlex.quote(source)} && ls -d checkpoints/step=*/MANIFEST.json 2>/dev/null").out.split("\n")
    listed = [name for name in listed if name]
    for name in listed:
        if not _MANIFEST.fullmatch(name):
            raise RunError(
                f"{host.machine.label}: lists {name[:200]!r} as a manifest (accepted: checkpoints/step=NUMBER/MANIFEST.json)"
            )
    for folder in target.glob("checkpoints/step=*"):  # half there, and gone where it came from
        if folder.is_dir() and not (folder / "MANIFEST.json").exists() and f"checkpoints/{folder.name}/MANIFEST.json" not in listed:
            shutil.rmtree(folder)
    came = tuple(name for name in listed if (target / name).parent.is_dir())
    if came:
        host.copy(f":{source}/", f"{target}/", "-tz", "--no-links", "--no-devices", "--no-specials", files=came)


def _verify(target: Path) -> None:
    """Raises: RunError if a checkpoint that was brought has not the files of its manifest."""
    if show(on_this_laptop("verify", str(target), root=target)).code:
        raise RunError(f"{target}: not all of it is as it was written (see above); remove what is named there, and pull again")


def _runs_in(bucket: str) -> str:
    """Names of the runs of a bucket, as a part of a message."""
    names = [single_name(name, bucket) for name in ask_bucket("runs", bucket).split("\n") if name]
    return ", ".join(names) or "none"
