"""From a bare machine to one that trains: facts, the gate, then the steps that are not done yet."""

import json
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bootstrap import facts as machine_facts
from bootstrap import hooks
from bootstrap.apply import apply, shown
from bootstrap.connection import Host
from bootstrap.data import brought, files_of, origin_of, record_name, refuse_loss
from bootstrap.facts import Facts
from bootstrap.gate import gate
from bootstrap.shippable import a_few
from bootstrap.shipping import Code, code, sha256_of, uv_binary
from bootstrap.steps import LocalData, Wanted, idle_minutes_of, steps
from bootstrap.tokens import env_file, tokens
from training.errors import UserError
from training.runner.sources.parse import Local, plan, to_json


@dataclass(frozen=True)
class Here:
    """What is to be copied from this laptop, or downloaded by the machine; judged before any machine is asked."""

    project: Code
    local: tuple[tuple[Path, tuple[str, ...]], ...]
    """Each with the names of its files."""
    sources: str
    """JSON of the data that the machine downloads; empty if there are none."""
    tokens: str

    @classmethod
    def of(cls, data: Sequence[str]) -> "Here":
        """Judge the data that `--data` names, the code and the tokens.

        Raises: UserError or RunError, with what stands in the way.
        """
        local, sources = _planned(data)
        files = tuple((Path(os.path.abspath(each.path)), files_of(Path(each.path))) for each in local)  # a linked folder stays one
        project = code()
        return cls(project, files, sources, env_file(tokens(project.folder)))


def bootstrap(host: Host, here: Here, swap_gib: int | None, idle_minutes: int | None, dry_run: bool) -> None:
    """Bring uv, code, environment, tokens and data to the machine; where all is there, nothing.

    Raises: UserError or RunError, with what stands in the way.
    """
    start = time.monotonic()
    project, facts = here.project, machine_facts.ask(host)
    print(gate(facts, host.machine, (project.folder / "uv.lock").read_text()), flush=True)
    _tell_about(facts, host, swap_gib)
    changed, removed = _code_changes(host, facts, project), _removed(host, facts, project)
    _leave_living_runs_alone(host, facts, project, (*changed, *removed))
    wanted = _wanted(host, facts, here, changed, removed, swap_gib, idle_minutes)
    if dry_run:
        commands = [f"# {action.does}\n{shown(host, action)}" for action in steps(facts, wanted)]
        print("\n".join(commands) or "nothing to do")
        return
    number = apply(host, steps(facts, wanted))
    did = f"{number} steps" if number else "all was there, nothing to do"
    print(f"{host.machine.label} is ready: {did}, {time.monotonic() - start:.1f} s", flush=True)


def _planned(data: Sequence[str]) -> tuple[tuple[Local, ...], str]:
    """What is here, and as JSON what the machine brings itself."""
    try:
        wanted = plan(data)
    except OSError as problem:  # a name that is too long, a folder that may not be read
        raise UserError(f"--data: {problem.filename}: {problem.strerror} (accepted: a file or folder that you may read)") from None
    local = tuple(each.source for each in wanted if isinstance(each.source, Local))
    far = tuple(each for each in wanted if not isinstance(each.source, Local))
    for each in local:
        if not Path(each.path).exists():
            raise UserError(
                f"--data: {each.path}: no such file or folder here (accepted: gs://, hf://, https://, a preset of configs/data/)"
            )
    return local, to_json(far) if far else ""


def _wanted(
    host: Host,
    facts: Facts,
    here: Here,
    changed: tuple[str, ...],
    removed: tuple[str, ...],
    swap_gib: int | None,
    idle_minutes: int | None,
) -> Wanted:
    rented = host.machine.is_rented
    uv = uv_binary(facts.arch)
    project, sources = here.project, here.sources
    return Wanted(
        uv=uv,
        uv_sha256=sha256_of(uv),
        code=str(project.folder),
        files=project.files,
        code_changes=len(changed),
        code_summary=project.summary(changed),
        removed=removed,
        commit=project.commit,
        environment=project.environment,
        tokens=here.tokens,
        swap_gib=swap_gib,
        idle_minutes=idle_minutes_of(facts, idle_minutes) if rented else None,
        has_startup_script=rented,
        place=_place(host) if rented else "",
        local_data=tuple(_local(host, facts, project.folder, source, files) for source, files in here.local),
        sources=sources if sources and _is_outstanding(host, facts, project, sources) else "",
    )


def _place(host: Host) -> str:
    """What machine.json holds (training/runner/shutdown_report.py reads it)."""
    return json.dumps({"format": 1, "name": host.machine.label, "bucket": host.machine.bucket}) if host.machine.bucket else ""


def _code_changes(host: Host, facts: Facts, project: Code) -> tuple[str, ...]:
    """Files that differ there, as rsync finds them by content."""
    if "code" not in facts.folders.split():
        return project.files
    words = ("-lpz", "--checksum", "--force", "--dry-run", "--itemize-changes")
    changed = host.copy(f"{project.folder}/", f":{facts.root}/code/", *words, files=project.files)
    return tuple(line.partition(" ")[2] for line in changed.splitlines() if line[:2] in ("<f", ".f", "cL", ".L"))


def _removed(host: Host, facts: Facts, project: Code) -> tuple[str, ...]:
    """What an earlier bootstrap shipped and is no file here any more."""
    if not facts.code:
        return ()
    shipped = host.ask(f"cat {shlex.quote(f'{facts.root}/code/.shipped')}").out.splitlines()
    here = set(project.files)
    return tuple(name for name in shipped if name not in here)


def _leave_living_runs_alone(host: Host, facts: Facts, project: Code, changed: Sequence[str]) -> None:
    """A run that lives has its code and its environment loaded by half: what it loads next, or after a crash, would be others.

    Raises: UserError.
    """
    code = [name for name in changed if name.startswith("training/")]
    other_environment = facts.environment != project.environment
    if facts.living and (code or other_environment):
        what = f"{len(code)} files of training/ ({code[0]})" if code else "its environment (uv.lock)"
        raise UserError(
            f"{host.machine.label}: {' and '.join(facts.living.split())} runs there, and this would change {what} under it; end it "
            "first: ./fab stop; or leave the code as it was"
        )


def _local(host: Host, facts: Facts, project: Path, source: Path, files: tuple[str, ...]) -> LocalData:
    """Data inside the project keep their place in it, so that a split file means the same here and there; others go to data/."""
    project = Path(os.path.abspath(project))
    if project.is_relative_to(source):
        raise UserError(f"--data: {source}: holds the project itself (accepted: a folder of data, such as data/screen)")
    inside = source.relative_to(project) if source.is_relative_to(project) else None
    place = (
        Path("data") / (source.name if source.is_dir() else "") if inside is None else inside if source.is_dir() else inside.parent
    )
    to = str(place) if place.parts[:1] in (("data",), ("runs",)) else str("code" / place)
    record = record_name(to, source)
    known = next((each for each in brought(host, facts, record) if each.to == to), None)
    gone = tuple(sorted(known.files - set(files))) if known else ()
    if gone and facts.living:
        raise UserError(
            f"{host.machine.label}: {' and '.join(facts.living.split())} runs there, and this would remove {len(gone)} files of "
            f"{to} under it ({a_few(gone)}), which are gone here; end it first: ./fab stop"
        )
    changed: list[str] = []
    if facts.folders:
        words = ("-rLtz", "--dry-run", "--itemize-changes")
        told = host.copy(f"{source}/" if source.is_dir() else str(source), f":{facts.root}/{to}/", *words)
        changed = [line for line in told.splitlines() if line.startswith("<f")]
    if known:
        replaced = [line.partition(" ")[2] for line in changed if not line.startswith("<f+")]
        refuse_loss(host, facts, known, source, gone, replaced)
    is_right = known is not None and known.files == set(files) and known.origin == origin_of(source)
    return LocalData(source, to, len(changed) if facts.folders else len(files), files, gone, "" if is_right else record)


def _is_outstanding(host: Host, facts: Facts, project: Code, sources: str) -> bool:
    """The machine says whether it has all of it; before its environment is there it cannot have any."""
    if facts.environment != project.environment:
        return True
    # Code of another version, which this bootstrap replaces, may not understand the question; `fetch` passes over what is right.
    return host.ask(hooks.runner(facts.root, "fetch", "--outstanding", "-"), stdin=sources).code != 0


def _tell_about(facts: Facts, host: Host, swap_gib: int | None) -> None:
    if swap_gib and not facts.may_sudo:
        raise UserError(
            f"--swap-gib {swap_gib}: {host.machine.label} gives {facts.user} no sudo without a password, which swap needs"
        )
    if host.machine.is_rented and not facts.may_sudo:
        print("no sudo without a password there: the idle guard cannot power the machine off", flush=True)
    if not host.machine.is_rented and not facts.crontab:
        print("no cron there: after a reboot of the machine, `fab train` goes on with a run", flush=True)
