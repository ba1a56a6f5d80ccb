"""`fab init`: the settings of every stack, in files of the user's own, and a passphrase for Pulumi's state."""

import os
import secrets
from pathlib import Path

import yaml

from infra.machine_types import REGIONS
from infra.stack_config import PROJECT, StorageSettings, read_settings
from infra.stack_files import folder, told_by
from training.errors import UserError

PASSPHRASE_FILE = Path("~/.pulumi-passphrase")
PASSPHRASE_VARIABLES = ("PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE")


def begin(project: str, region: str) -> list[str]:
    """Write `configs/stacks/Pulumi.STACK.yaml` for each `STACK.yaml` there, and a passphrase file; nothing is overwritten.

    Returns: what was done, a line each.
    Raises: UserError, before anything is written, for a project, region or setting that is not accepted
        or is told otherwise already.
    """
    files = {}
    for template in sorted(folder().glob("[!P]*.yaml")):
        stack = template.stem
        declared = yaml.safe_load(template.read_text())["config"]
        place = _place(str(declared[f"{PROJECT}:kind"]), region)
        told = told_by(stack)
        for key, value in (("gcp:project", project), *((key, value) for key, value in place.items() if key.endswith("location"))):
            if told.get(key, value) != value:
                raise UserError(
                    f"configs/stacks/Pulumi.{stack}.yaml: {key}: {told[key]}, not {value}; to change it: "
                    f"pulumi config set {key} {value} --stack {stack}"
                )
        missing = {key: value for key, value in {**declared, "gcp:project": project, **place}.items() if key not in told}
        read_settings(stack, {**told, **missing})
        files[stack] = missing
    passphrase = _passphrase()  # first: it may be refused
    return [*(_write(stack, missing) for stack, missing in files.items()), *passphrase]


def _place(kind: str, region: str) -> dict[str, str]:
    """The bucket's region, and a zone in it for machines."""
    if kind == StorageSettings.kind:
        return {f"{PROJECT}:location": region}
    return {f"{PROJECT}:zone": f"{region}-{REGIONS[region].zones[0] if region in REGIONS else 'a'}"}


def _write(stack: str, missing: dict[str, object]) -> str:
    file, shown = folder() / f"Pulumi.{stack}.yaml", f"configs/stacks/Pulumi.{stack}.yaml"
    if not missing:
        return f"{shown}: kept as it is"
    if not file.exists():
        file.write_text(yaml.safe_dump({"config": missing}, sort_keys=False))
        return f"{shown}: {', '.join(f'{key} {value}' for key, value in missing.items())}"
    whole = yaml.safe_load(file.read_text()) or {}
    whole["config"] = {**(whole.get("config") or {}), **missing}
    file.write_text(yaml.safe_dump(whole, sort_keys=False))
    return f"{shown}: added {', '.join(missing)}"


def _passphrase() -> list[str]:
    """A file with a passphrase, where none is told; Pulumi encrypts with it what is secret in its state.

    Raises: UserError if it is a link to a file that is not there, which may have the passphrase elsewhere.
    """
    if any(os.environ.get(variable) for variable in PASSPHRASE_VARIABLES):
        return []
    file = PASSPHRASE_FILE.expanduser()
    lines = []
    if not file.exists():
        if file.is_symlink():
            raise UserError(
                f"{PASSPHRASE_FILE}: a link to {file.readlink()}, which is not there; bring that file back, or, if no state needs "
                f"it: rm {PASSPHRASE_FILE}"
            )
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(secrets.token_urlsafe(32) + "\n")
        lines.append(f"{PASSPHRASE_FILE}: a new passphrase, readable by you alone; keep a copy: Pulumi's state needs it")
    return [*lines, f"now, and in your shell's profile: export PULUMI_CONFIG_PASSPHRASE_FILE={PASSPHRASE_FILE}"]
