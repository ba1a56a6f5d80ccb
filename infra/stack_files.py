"""The stacks' files as they lie in configs/stacks: what is known of an installation when Pulumi or its state is gone."""

from pathlib import Path
from typing import Any

import yaml

from infra.outputs import project_root
from infra.stack_config import PROJECT
from training.errors import UserError


def stack_names() -> list[str]:
    """The stacks that have a file of settings here."""
    return sorted(file.name.split(".")[1] for file in folder().glob("Pulumi.*.yaml"))


def folder() -> Path:
    """Where the files lie."""
    return project_root() / "configs" / "stacks"


def told_by(stack: str) -> dict[str, Any]:
    """The settings in a stack's file; none where there is no file.

    Raises: UserError if it cannot be read.
    """
    file = folder() / f"Pulumi.{stack}.yaml"
    try:
        config = (yaml.safe_load(file.read_text()) or {}).get("config") or {}
        return {str(key): value for key, value in config.items()}
    except FileNotFoundError:
        return {}
    except (OSError, yaml.YAMLError, AttributeError, ValueError) as error:  # ValueError: not UTF-8, or a date that is none
        raise UserError(f"configs/stacks/{file.name}: not the YAML of a stack: {' '.join(str(error).split())}") from None


def project_of(stack: str | None) -> str:
    """The GCP project of a stack, or of all, read from their files: Pulumi and its state may be gone.

    Raises: UserError if no file names one, or if they name several.
    """
    told = {name: told_by(name).get("gcp:project") for name in stack_names()}
    projects = sorted({str(project) for name, project in told.items() if project and stack in (None, name)}) or sorted(
        {str(project) for project in told.values() if project}
    )
    if len(projects) != 1:
        raise UserError(f"configs/stacks: gcp:project: {', '.join(projects) or 'not set in any file'}; add --project PROJECT")
    return projects[0]


def our_buckets(project: str) -> frozenset[str]:
    """The buckets of this installation in a project: as the files of its storage stacks say; without any such file the usual.

    A bucket's name is the world's only one, so it says whose a machine is: it stands in a label of everything that is rented.
    Empty for a project of which the storage stacks here say nothing: what is there is not of this installation.
    """
    storage = [told for told in map(told_by, stack_names()) if told.get(f"{PROJECT}:kind") == "storage"] or [{}]
    mine = [told for told in storage if told.get("gcp:project", project) == project]
    return frozenset(str(told.get(f"{PROJECT}:bucket") or f"{project}-{PROJECT}") for told in mine)
