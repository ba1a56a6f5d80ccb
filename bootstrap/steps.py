"""Facts and what is wanted -> what is to be done. Each step yields nothing where all is right, so a second bootstrap does nothing.

No step asks the machine: tests compare what is yielded with tables of facts and commands (tests/bootstrap/steps/).
"""

import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bootstrap import hooks
from bootstrap.data import BROUGHT, record_of
from bootstrap.facts import Facts
from bootstrap.shippable import a_few

FOLDERS = ("cache", "code", "data", "jobs", "runs")
IDLE_MINUTES = 30
# Measured with torch 2.15 on x86_64 (2026-11): 3.1 GB in all, 2.4 of them in nvidia-* and triton, 0.5 in torch itself.
DOWNLOAD = "about 3.1 GB to download, 2.4 of them CUDA libraries"
POWER_OFF = ["sudo", "-n", "shutdown", "-h", "now"]


@dataclass(frozen=True)
class Command:
    """A command of the machine's shell. `stdin` is never shown: it may hold tokens. `is_sync`: its output is that of `uv sync`.

    `note` is shown once, when it starts.
    """

    does: str
    shell: str
    stdin: str = ""
    is_sync: bool = False
    note: str = ""


@dataclass(frozen=True)
class Copy:
    """rsync from here to there; `files` are names below `source`."""

    does: str
    source: str
    to: str
    options: tuple[str, ...]
    files: tuple[str, ...] | None = None


Action = Command | Copy


@dataclass(frozen=True)
class LocalData:
    """A folder or file of this laptop, and where it goes, below the machine's folder; `changes` is what rsync would bring."""

    source: Path
    to: str
    changes: int
    files: tuple[str, ...] = ()
    """All that it has."""
    gone: tuple[str, ...] = ()
    """What was brought before, and is not here any more."""
    record: str = ""
    """Name of the record on the machine that is to be written; empty if it is right."""
    outdated: tuple[str, ...] = ()
    """Names of records of what came alone from this folder, and is not here any more."""


@dataclass(frozen=True)
class Wanted:
    """What the machine should have.

    Units: `swap_gib` GiB, `idle_minutes` minutes without a run or a login until it is powered off
    (0: the user wants it never; None: it is not ours to power off).
    """

    uv: Path
    uv_sha256: str
    code: str
    """Folder of the project here."""
    files: tuple[str, ...]
    code_changes: int
    """Files of the code that differ there."""
    removed: tuple[str, ...]
    """Files that were shipped before and are gone here."""
    commit: str
    environment: str
    tokens: str
    swap_gib: int | None
    idle_minutes: int | None
    has_startup_script: bool
    local_data: tuple[LocalData, ...]
    sources: str
    """JSON of the data that the machine brings itself; empty if it has them."""
    place: str = ""
    """JSON for machine.json: what a rented machine is called in its shutdown report, and where that goes; empty for another."""
    code_summary: str = ""
    """Of the files that differ: how many, their size, and which git does not track."""

    @property
    def listing(self) -> str:
        """A line a file of the code."""
        return "".join(f"{name}\n" for name in self.files)


def steps(facts: Facts, wanted: Wanted) -> Iterator[Action]:
    """Everything, in the order of need."""
    for step in (folders, swap, uv, code, environment, tokens, hooks_and_name, idle_guard, data):
        yield from step(facts, wanted)


def folders(facts: Facts, wanted: Wanted) -> Iterator[Action]:
    """Where things lie; `data/` and `runs/` of the code are those of the machine's folder."""
    root = _q(facts.root)
    if set(FOLDERS) - set(facts.folders.split()):
        yield Command("folders", f"mkdir -p {root} && cd {root} && mkdir -p {' '.join(FOLDERS)}")
    if facts.links != "../data ../runs":
        yield Command("links to data and runs", f"cd {root}/code && ln -sfn ../data data && ln -sfn ../runs runs")


def swap(facts: Facts, wanted: Wanted) -> Iterator[Action]:
    """A swap file: a safety net for host memory, not for the GPU's, and slow where it is needed."""
    if wanted.swap_gib is None or facts.swapfile_kib == wanted.swap_gib * 2**20:
        return
    file, new = _q(f"{facts.root}/swapfile"), _q(f"{facts.root}/swapfile.new")  # one that was cut off is not taken for whole
    undo = f"sudo -n swapoff {file}; sudo -n rm -f {file}" if facts.swapfile_kib else "true"
    yield Command(
        f"swap file of {wanted.swap_gib} GiB",
        f"{{ {undo}; }} && sudo -n rm -f {new} && sudo -n fallocate -l {wanted.swap_gib}G {new} && sudo -n chmod 600 {new} && "
        f"sudo -n mkswap -q {new} && sudo -n mv {new} {file} && sudo -n swapon {file}",
    )


def uv(facts: Facts, wanted: Wanted) -> Iterator[Action]:
    """The pinned uv; one that came by half has another SHA-256."""
    if facts.uv != wanted.uv_sha256:
        yield Copy("uv", str(wanted.uv), f":{facts.root}/uv", ("-pz",))
        yield Command("uv is whole", f"echo {wanted.uv_sha256}'  '{_q(f'{facts.root}/uv')} | sha256sum -c --quiet -")


def code(facts: Facts, wanted: Wanted) -> Iterator[Action]:
    """The project's files; those that were shipped before and are gone here go there too, first: one may be a folder now.

    The list of what was shipped is away while this is done: code that came by half is not taken for whole.
    """
    there = _q(f"{facts.root}/code")
    is_listed = facts.code == hashlib.sha256(wanted.listing.encode()).hexdigest()
    if wanted.removed:
        yield Command(
            f"code: {len(wanted.removed)} files are gone",
            _remove_below(f"{facts.root}/code"),
            stdin="".join(f"{name}\n" for name in wanted.removed),
        )
    if wanted.code_changes:
        yield Command("code: begun", f"rm -f {there}/.shipped")
        yield Copy(
            f"code: {wanted.code_summary or wanted.code_changes}",
            f"{wanted.code}/",
            f":{facts.root}/code/",
            ("-lpz", "--checksum", "--force"),
            wanted.files,
        )
    if wanted.code_changes or not is_listed:
        yield Command(
            "code: what was shipped", f"cd {there} && cat >.shipped.new && mv .shipped.new .shipped", stdin=wanted.listing
        )
    if facts.commit != wanted.commit:
        yield Command("code: its commit", f"printf %s {_q(wanted.commit)} >{there}/.commit")


def environment(facts: Facts, wanted: Wanted) -> Iterator[Action]:
    """`uv sync`; that it came to its end is written last, so one that was cut off is done again.

    The two files that decide what is installed are those that were compared with requirements.lock on the laptop, or nothing is.
    """
    if facts.environment == wanted.environment:
        return
    root = facts.root
    places = {"UV_CACHE_DIR": f"{root}/cache/uv", "UV_PYTHON_INSTALL_DIR": f"{root}/cache/python", "UV_NO_PROGRESS": "1"}
    settings = " ".join(f"{key}={_q(value)}" for key, value in places.items())
    other = "error: uv.lock and pyproject.toml are not those that were checked on the laptop; fab bootstrap copies them again"
    yield Command(
        "environment: uv sync",
        f"cd {_q(f'{root}/code')} && rm -f .venv/.synced && "
        f'{{ [ "$(cat uv.lock pyproject.toml | sha256sum)" = "{wanted.environment}  -" ] || {{ echo {_q(other)}; exit 1; }}; }} && '
        f"{settings} {_q(f'{root}/uv')} sync --frozen --no-default-groups --group training && "
        f"echo {wanted.environment} >.venv/.synced",
        is_sync=True,
        note="" if facts.environment else DOWNLOAD,
    )


def tokens(facts: Facts, wanted: Wanted) -> Iterator[Action]:
    """One file that only its owner may read. Without tokens here, what is there stays."""
    if wanted.tokens and facts.tokens != f"600 {hashlib.sha256(wanted.tokens.encode()).hexdigest()}":
        number = wanted.tokens.count("\n")
        file, new = _q(f"{facts.root}/env"), _q(f"{facts.root}/.env.new")
        yield Command(f"{number} tokens", f"umask 077 && rm -f {new} && cat >{new} && mv {new} {file}", stdin=wanted.tokens)


def hooks_and_name(facts: Facts, wanted: Wanted) -> Iterator[Action]:
    """The hooks, who calls the one of boots, and the name under which the machine writes its shutdown report."""
    texts = {"boot-hook": hooks.boot_hook(facts.root), "last-sync": hooks.last_sync(facts.root)}
    if facts.hooks != " ".join(hashlib.sha256(text.encode()).hexdigest() for text in texts.values()):
        for name, text in texts.items():
            file, new = _q(f"{facts.root}/{name}"), _q(f"{facts.root}/.{name}.new")
            yield Command(name, f"cat >{new} && chmod 755 {new} && mv {new} {file}", stdin=text)
    if wanted.place and facts.place != hashlib.sha256(wanted.place.encode()).hexdigest():
        yield Command("its name, for its shutdown report", f"printf %s {_q(wanted.place)} >{_q(f'{facts.root}/machine.json')}")
    if not wanted.has_startup_script and facts.crontab and not facts.is_in_crontab:
        yield _cron("cron calls boot-hook at every boot", f"@reboot {_q(f'{facts.root}/boot-hook')}")
    if facts.crontab and not facts.is_watched:
        yield _cron("cron starts killed supervisors again", f"*/5 * * * * {_q(f'{facts.root}/boot-hook')} revive")


def _cron(name: str, line: str) -> Command:
    return Command(name, f"{{ crontab -l 2>/dev/null; echo {_q(line)}; }} | crontab -")


def idle_guard(facts: Facts, wanted: Wanted) -> Iterator[Action]:
    """Powers a rented machine off that nobody uses."""
    root = facts.root
    if not wanted.idle_minutes:
        asked = "never" if wanted.idle_minutes == 0 else ""
        if facts.idle not in (asked, "never"):
            remember = f"; touch {_q(f'{root}/idle.never')}" if asked else ""
            yield Command("no idle guard", f"rm -f {_q(f'{root}/idle.json')}{remember}")
        return
    text = json.dumps({"minutes": wanted.idle_minutes, "command": POWER_OFF})
    if facts.idle != text:
        yield Command(f"idle guard: off after {wanted.idle_minutes} minutes", f"printf %s {_q(text)} >{_q(f'{root}/idle.json')}")
    is_of_before = facts.is_guarded and facts.runner == hooks.RUNNER_BEFORE
    if is_of_before:  # it would call its own code, which is gone now; [t]: the shell that says this is none
        pattern = f"[t]raining[.]supervision --root {re.escape(root)} idle-guard"
        yield Command("idle guard of before ends", f"pkill -f {_q(pattern)}; flock -w 20 {_q(f'{root}/idle.lock')} true; true")
    if facts.idle != text or not facts.is_guarded or is_of_before:
        yield Command("idle guard starts", hooks.detached(root, "idle-guard", log=f"{root}/idle.log"))


def idle_minutes_of(facts: Facts, asked: int | None) -> int | None:
    """What is asked for now, else what an earlier bootstrap asked for, else the default; None where nothing may power off."""
    if not facts.may_sudo:
        return None
    if asked is not None:
        return asked
    if facts.idle == "never":
        return 0
    try:
        minutes = int(json.loads(facts.idle)["minutes"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return IDLE_MINUTES
    return minutes if 0 < minutes < 10**6 else IDLE_MINUTES


def data(facts: Facts, wanted: Wanted) -> Iterator[Action]:
    """From here by rsync, from elsewhere by the machine itself."""
    for local in wanted.local_data:
        to = f"{facts.root}/{local.to}"
        if local.gone:
            outdated = " ".join(_q(f"{facts.root}/brought/{name}") for name in local.outdated)
            yield Command(
                f"data: {len(local.gone)} files of {local.to} are gone here, and go there ({a_few(local.gone)})",
                _remove_below(to) + (f" && rm -f -- {outdated}" if outdated else ""),
                stdin="".join(f"{name}\n" for name in local.gone),
            )
        if local.record:  # before the copy: one that is cut off has brought nothing that is not in it
            file = _q(f"{facts.root}/brought/{local.record}")
            yield Command(
                f"data: what {local.to} has from here",
                f"mkdir -p {_q(f'{facts.root}/brought')} && cat >{file}.new && mv {file}.new {file}",
                stdin=record_of(local.to, local.files, local.source),
            )
        if local.changes:
            run = "/".join(local.to.split("/")[:2])  # a folder in it may be all that came
            mark = f" && touch {_q(f'{facts.root}/{run}/{BROUGHT}')}" if run.startswith("runs/") else ""
            yield Command(f"folder for {local.to}", f"mkdir -p {_q(to)}{mark}")
            source = f"{local.source}/" if local.source.is_dir() else str(local.source)
            yield Copy(f"data: {local.changes} files to {local.to}", source, f":{to}/", ("-rLtz", "--partial-dir=.rsync-partial"))
    if wanted.sources:
        file = _q(f"{facts.root}/data/.wanted.json")
        yield Command("data: what to bring", f"cat >{file}", stdin=wanted.sources)
        yield Command("data", hooks.runner(facts.root, "fetch", f"{facts.root}/data/.wanted.json"))


def _remove_below(folder: str) -> str:
    """Removes the files that stand on standard input, a line each, and folders that are empty then."""
    loop = 'while IFS= read -r name; do rm -f -- "$name"; rmdir -p -- "$(dirname -- "$name")"; done'
    return f"cd {_q(folder)} && {loop} 2>/dev/null; true"


def _q(text: str) -> str:
    return shlex.quote(text)
