"""Data of this laptop on a machine: what may be copied, what was brought and is gone here, and what else a run would read."""

import hashlib
import json
import os
import re
import shlex
import socket
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from bootstrap.connection import Host
from bootstrap.facts import Facts
from bootstrap.shippable import a_few
from training.errors import RunError, UserError
from training.text import escaped

FORMAT = 1
"""Of a record, ROOT/brought/NAME.json."""
SUFFIXES = (".h5", ".h5ad")  # as training/data/splits.py reads
_SHOWN = 10
_LISTED = 20
Seen = tuple[int, int]
"""Size in bytes, and time of change in whole seconds, as rsync compares them."""


def files_of(source: Path) -> tuple[str, ...]:
    """What rsync will bring of a folder, by name below it; of a file its own name. Links are followed.

    Raises: UserError for a link to nothing, for what is no file, and for a name that no list of files can hold.
    """
    if not source.is_dir():
        return (source.name,)
    found = []
    for folder, folders, names in os.walk(source, followlinks=True, onerror=_refuse_unreadable):
        for name in (*folders, *names):
            path = Path(folder, name)
            inside = str(path.relative_to(source))
            if not name.isprintable():
                raise UserError(
                    f"--data: {source}: '{escaped(inside)}': a file of this name cannot be copied to a machine; rename it"
                )
            found += [inside] * (_kind(path, source) == "file")
    return tuple(sorted(found))


def _kind(path: Path, source: Path) -> str:
    """Raises: UserError for a link that leads nowhere or back to a folder it lies in, and for what is neither file nor folder."""
    remedy = f"accepted: files and folders; remove it: rm {shlex.quote(str(path))}"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        leads = f"a link to {escaped(os.readlink(path))}, which is not there" if path.is_symlink() else error.strerror
        raise UserError(f"--data: {source}: {path.relative_to(source)} is {leads} ({remedy}, or mend the link)") from None
    if stat.S_ISDIR(mode):
        if path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve()):
            raise UserError(f"--data: {source}: {path.relative_to(source)} is a link to a folder that it lies in ({remedy})")
        return "folder"
    if not stat.S_ISREG(mode):
        raise UserError(f"--data: {source}: {path.relative_to(source)} is no file: a pipe, a socket or a device ({remedy})")
    return "file"


def _refuse_unreadable(error: OSError) -> None:
    raise UserError(f"--data: {error.filename}: {error.strerror} (accepted: a folder that you may read)")


def record_name(to: str, source: Path) -> str:
    """Of the record of a source; a folder and a file that go to one place have two. One too long for a file is a SHA-256."""
    name = quote(to if source.is_dir() else f"{to}/{source.name}", safe="")
    return (name if len(name) <= 200 else hashlib.sha256(name.encode()).hexdigest()) + ".json"


def origin_of(source: Path) -> str:
    """Which laptop and which place on it: two folders of one name have one record."""
    return escaped(f"{socket.gethostname().partition('.')[0]}:{source}")


def record_of(to: str, files: Iterable[str], source: Path) -> str:
    """The text of a record: one line, so that several can be read at once."""
    return json.dumps({"format": FORMAT, "to": to, "files": sorted(files), "origin": origin_of(source)}) + "\n"


@dataclass(frozen=True)
class Brought:
    """What bootstraps have brought to one place, as the machine's record says."""

    to: str
    files: Set[str]
    origin: str = ""
    """As `origin_of` says; empty in a record of older code."""


def brought(host: Host, facts: Facts, name: str = "*.json") -> list[Brought]:
    """The records; `name` is that of one.

    Raises: RunError for a record that is none.
    """
    found = []
    place = shlex.quote(f"{facts.root}/brought")
    pattern = name if name == "*.json" else shlex.quote(name)
    for line in host.ask(f"cd {place} 2>/dev/null && cat -- {pattern} 2>/dev/null; true").out.splitlines():
        try:
            record = json.loads(line)
            to, files = str(record["to"]), {str(file) for file in record["files"]}
            to = "code" if to == "code/." else to  # as older code wrote it
            if not all(_stays_below(file) for file in (to, *files)):
                raise ValueError("a name leaves its folder")
            found.append(Brought(to, files, escaped(str(record.get("origin", "")))))
        except (ValueError, TypeError, LookupError, RecursionError):
            raise RunError(
                f"{host.machine.label}: a record in {facts.root}/brought is none; remove that folder there by hand: "
                "what was brought before is then no longer known"
            ) from None
    return found


def refuse_loss(host: Host, facts: Facts, known: Brought, source: Path, gone: Sequence[str], replaced: Sequence[str]) -> None:
    """Raises: UserError where all that was brought would go, or what came from another laptop or folder: that may be a mistake."""
    record, origin = f"brought/{record_name(known.to, source)}", origin_of(source)
    if lost := sorted({*gone, *replaced} if known.origin not in ("", origin) else ()):
        raise UserError(
            f"{host.machine.label}: {known.to} there came from {known.origin}, and {origin} would remove or replace {len(lost)} of "
            f"its files ({a_few(lost)}). Rename one of the two; or remove there what came from the other: "
            f"{_removal(host, facts, known, record)}; or, if both are the same data, let the machine forget where they came from: "
            f"{_by_hand(host, f'rm -- {shlex.quote(facts.root)}/{record}')}"
        )
    if known.files and len(gone) == len(known.files):
        raise UserError(
            f"{host.machine.label}: nothing that was brought to {known.to} is in {source} any more ({len(gone)} files: "
            f"{a_few(gone)}): is a disk not mounted? If they are to go there too: {_removal(host, facts, known, record)}; then the "
            "same command again"
        )


def _removal(host: Host, facts: Facts, known: Brought, record: str) -> str:
    """The command that removes what was brought, and its record; of many files in a folder of data, that folder."""
    is_folder = len(known.files) > _LISTED and known.to.startswith(("data/", "runs/"))
    names = [known.to] if is_folder else [f"{known.to}/{file}" for file in sorted(known.files)]
    return _by_hand(host, f"cd {shlex.quote(facts.root)} && rm -rf -- {shlex.join([*names, record])}")


def _by_hand(host: Host, command: str) -> str:
    return shlex.join(["ssh", "-F", str(host.ssh_config), host.machine.label, command])


def _stays_below(name: str) -> bool:
    return name.isprintable() and not any(part in ("", ".", "..") for part in name.split("/"))


def compare(host: Host, facts: Facts, split: str, features: str | None, project: Path) -> None:
    """Compare what a run reads there with the same here, as far as it is here.

    Data that a machine downloads itself, and those of which this laptop has nothing, are for `training check` to judge.

    Raises: UserError with the differences: files that are there alone would be trained on.
    """
    patterns = list(_patterns(project, split))
    folders = sorted({folder for folder in map(_folder, patterns) if not folder or _stays_below(folder)})
    here = {pattern: _matching(pattern, _here(project, _folder(pattern))) for pattern in patterns}
    texts = [path for path in (split, features) if path and (project / path).is_file()]
    if not any(here.values()) and not texts:
        return
    there, sums, downloads = _there(host, facts, folders, texts)
    lines = [f"{path}: is another one there" for path in texts if path in sums and sums[path] != _sha256(project / path)]
    lines += [f"{path}: is not there" for path in texts if path not in sums]
    for pattern, mine in here.items():
        theirs = _matching(pattern, there) if mine else {}
        own = {path for path in theirs if not any(PurePosixPath(path).is_relative_to(to) for to in downloads)}
        lines += [f"{path}: is there, and not here: it would be trained on" for path in sorted(own - mine.keys())]
        lines += [f"{path}: is here, and not there" for path in sorted(mine.keys() - theirs.keys())]
        lines += [f"{path}: is another one there" for path in sorted(mine.keys() & theirs.keys()) if mine[path] != theirs[path]]
    if lines:
        alone = {path for pattern, mine in here.items() if not _folder(pattern) for path in mine}
        raise UserError(
            _differ(host, facts, list(dict.fromkeys(lines)), [*filter(None, folders), *sorted(alone)], brought(host, facts))
        )


def _differ(host: Host, facts: Facts, lines: list[str], sources: list[str], records: Iterable[Brought]) -> str:
    known = {f"{each.to}/{file}".removeprefix("code/") for each in records for file in each.files}
    only = [line.partition(": is there, and not here")[0] for line in lines if ": is there, and not here" in line]
    strange = [path for path in only if path not in known or "/" not in path]  # of a file alone only itself is brought
    shown = [*lines[:_SHOWN], *([f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else [])]
    told = f"{host.machine.label}: what the run reads there is not what is here:\n  " + "\n  ".join(shown)
    data = "".join(f" --data {shlex.quote(source)}" for source in sources)
    told += f"\nTo make it the same: ./fab bootstrap{data}"
    if strange:
        remove = f"cd {shlex.quote(f'{facts.root}/code')} && rm -- {shlex.join(strange)}"
        told += f"\nNo bootstrap removes {a_few(strange)}: {_by_hand(host, remove)}"
    return told


def _patterns(project: Path, split: str) -> Iterator[str]:
    """Of the data sets that a split file names, relative to the project; none where there is no such file here."""
    with suppress(OSError, ValueError, RecursionError):  # what is wrong with it is for `training check` to say
        datasets = tomllib.loads((project / split).read_text(encoding="utf-8-sig")).get("datasets")
        for text in datasets.values() if isinstance(datasets, dict) else ():
            if isinstance(text, str):
                for pattern in _alternatives(text):
                    if not pattern.startswith(("/", "~")):
                        yield os.path.normpath(pattern)


def _alternatives(pattern: str) -> list[str]:
    """The patterns that {a,b} stands for."""
    brace = re.search(r"\{([^{}]*)\}", pattern)
    if brace is None:
        return [pattern]
    parts = [pattern[: brace.start()] + option.strip() + pattern[brace.end() :] for option in brace[1].split(",")]
    return [alternative for part in parts for alternative in _alternatives(part)]


def _folder(pattern: str) -> str:
    """The folder above all files that a pattern can match."""
    parts = PurePosixPath(pattern).parts
    plain = [*parts[: next((n for n, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts))]]
    if plain and len(plain) == len(parts) and pattern.endswith(SUFFIXES):
        plain.pop()
    return "/".join(plain)


def _matching(pattern: str, files: Mapping[str, Seen]) -> dict[str, Seen]:
    """The files that a pattern names, as training/data/splits.py reads it: one without a suffix names a folder."""
    patterns = [pattern] if pattern.endswith(SUFFIXES) else [f"{pattern}/*{end}" for end in SUFFIXES]
    try:
        expressions = [re.compile(_expression(each)) for each in patterns]
    except re.error:  # such as [z-a]: `training check` judges it
        return {}
    return {path: seen for path, seen in files.items() if any(one.fullmatch(path) for one in expressions)}


def _expression(pattern: str) -> str:
    """A pattern of Python's glob as a regular expression; what is hidden is matched by name alone."""
    parts = []
    for part in pattern.split("/"):
        if part == "**":
            parts.append("(?:[^/.][^/]*/)*")
            continue
        text = re.sub(r"\\\[(.+?)\\\]", lambda found: f"[{found[1].replace(chr(92), '').replace('!', '^', 1)}]", re.escape(part))
        text = text.replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
        parts.append(f"{'(?!' + chr(92) + '.)' if re.match(r'[*?[]', part) else ''}{text}/")
    return "".join(parts).removesuffix("/")


def _here(project: Path, folder: str) -> dict[str, Seen]:
    """Files of data sets below a folder; of the project itself those that lie directly in it, not those of .venv and the like."""
    found = {}
    for above, folders, names in os.walk(project / folder, followlinks=True):
        folders[:] = folders if folder else []
        for name in names:
            path = Path(above, name)
            if name.endswith(SUFFIXES) and path.is_file():
                about = path.stat()
                found[str(path.relative_to(project))] = (about.st_size, int(about.st_mtime))
    return found


def _there(
    host: Host, facts: Facts, folders: Iterable[str], texts: Iterable[str]
) -> tuple[dict[str, Seen], dict[str, str], tuple[str, ...]]:
    """Files of data sets, SHA-256 of other files, and where the machine's own downloads lie, all relative to its `code`."""
    names = " -o ".join(f"-name '*{end}'" for end in SUFFIXES)
    finds = [
        f"find -L {shlex.quote(folder) if folder else '. -maxdepth 1'} -type f \\( {names} \\) -printf 'F %s %T@ %p\\n' 2>/dev/null"
        for folder in folders
    ]
    sums = [f"sha256sum -- {shlex.quote(path)} 2>/dev/null | sed 's/^/S /'" for path in texts]
    script = "; ".join(
        [f"cd {shlex.quote(f'{facts.root}/code')} || exit 1", *finds, *sums, "cat data/.sources.json 2>/dev/null; true"]
    )
    lines = host.ask(script).out.splitlines()
    found, digests, rest = {}, {}, []
    for line in lines:
        if file := re.fullmatch(r"F (\d{1,18}) (\d{1,18})(?:\.\d*)? (?:\./)?(.+)", line):
            found[file[3]] = (int(file[1]), int(file[2]))
        elif digest := re.fullmatch(r"S \\?([0-9a-f]{64})  (.+)", line):
            digests[digest[2]] = digest[1]
        else:
            rest.append(line)
    return found, digests, _targets("\n".join(rest))


def _targets(record: str) -> tuple[str, ...]:
    """Where the machine's downloads lie, by its record of them (training/runner/sources/record.py)."""
    with suppress(ValueError, RecursionError):
        document = json.loads(record)
        return tuple(f"data/{to}" for to in document) if isinstance(document, dict) else ()
    return ()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
