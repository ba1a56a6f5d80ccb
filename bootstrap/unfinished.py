"""Runs that have not finished keep their data: one that found others could not go on from its checkpoint."""

import os
import shlex
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from bootstrap.connection import Host
from bootstrap.data import alternatives, by_hand, matching
from bootstrap.facts import Facts
from bootstrap.shippable import a_few
from training.errors import UserError
from training.untrusted import is_single_name

# Of all jobs those that live, that a boot goes on with, or that have a checkpoint that `train` can go on from.
_SCRIPT = """
for job in jobs/*; do
    name=${job#jobs/}
    [ -e "$job/job.json" ] || continue
    grep -qs '"phase": "finished"' "$job/state.json" && continue
    if grep -qsE '"phase": "(stopped|failed)"' "$job/state.json" && flock -n "$job/lock" true; then
        ls "runs/$name"/checkpoints/step=*/MANIFEST.json >/dev/null 2>&1 || continue
    fi
    echo "$name"
done
"""


def refuse_change(host: Host, facts: Facts, source: Path, to: str, changed: Sequence[str], gone: Sequence[str]) -> None:
    """Raises: UserError if a run that has not finished reads what would change: it could not go on from its checkpoint."""
    for name in _unfinished(host, facts) if changed or gone else ():
        is_read = _reads(host, facts, name)
        others = tuple(file for file in changed if is_read(f"{to}/{file}"))
        if others:  # what differs in its time alone is no change
            words = ("-Ltz", "--checksum", "--dry-run", "--itemize-changes")
            told = host.copy(f"{source if source.is_dir() else source.parent}/", f":{facts.root}/{to}/", *words, files=others)
            others = tuple(line.partition(" ")[2] for line in told.splitlines() if line.startswith("<f"))
        files = sorted({*others, *(file for file in gone if is_read(f"{to}/{file}"))})
        if files:
            away = f"cd {shlex.quote(facts.root)} && rm -rf -- jobs/{name} runs/{name}"
            raise UserError(
                f"{host.machine.label}: {name} has not finished, and this would change {len(files)} files of {to} that it reads "
                f"({a_few(files)}): it could not go on. Let it finish first (./fab train goes on with it), or bring these data "
                f"under another name. To give it up with all that it has left there: ./fab stop --run {name}, then "
                f"{by_hand(host, away)}"
            )


def _unfinished(host: Host, facts: Facts) -> list[str]:
    """Names of the runs whose data are to stay as they are."""
    names = host.ask(f"cd {shlex.quote(facts.root)} 2>/dev/null || exit 0\n{_SCRIPT}").out.splitlines()
    return [name for name in names if is_single_name(name)]


def _reads(host: Host, facts: Facts, name: str) -> Callable[[str], bool]:
    """Whether a run reads a file, named below the machine's folder; every file where that is not known."""
    try:
        data = yaml.safe_load(host.ask(f"cat {shlex.quote(f'{facts.root}/jobs/{name}/run.yaml')}").out)["data"]
        paths = [path for key in ("split", "perturbation_features_file") if isinstance(path := data.get(key), str)]
        split = host.ask(f"cd {shlex.quote(f'{facts.root}/code')} && cat -- {shlex.quote(data['split'])}").out
        patterns = [each for text in tomllib.loads(split)["datasets"].values() for each in alternatives(text)]
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return lambda file: True
    root = facts.root.rstrip("/")
    paths, patterns = ([_below(root, each) for each in found] for found in (paths, patterns))
    return lambda file: (known := file.removeprefix("code/")) in paths or any(matching(each, {known: (0, 0)}) for each in patterns)


def _below(root: str, path: str) -> str:
    """A path of the machine, which starts at its code, as one below its folder; `code/` is left out."""
    return os.path.normpath(os.path.join(root, "code", path)).removeprefix(f"{root}/").removeprefix("code/")
