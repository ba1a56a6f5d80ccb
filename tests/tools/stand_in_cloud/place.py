"""One user's copy of the project, with a backend and a cloud of its own, that a test may copy and break."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from infra.policy import INSTANCE
from tests.tools.stand_in_cloud.engine import REPOSITORY, Completed, Engine
from tests.tools.stand_in_cloud.world import World

BUCKET = "demo-project-incubator"


def sure(done: Completed) -> Completed:
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@dataclass
class Place:
    """One user's copy of the project, with a backend and a cloud of its own."""

    folder: Path

    @property
    def project(self) -> Path:
        return self.folder / "project"

    @property
    def world(self) -> World:
        return World(self.folder / "world.json")

    @property
    def engine(self) -> Engine:
        return Engine(self.project, self.folder / "home", self.world)

    def copy(self, folder: Path) -> Self:
        """The same place, as it is now, elsewhere."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return type(self)(folder)

    def set(self, stack: str, **settings: Any) -> None:
        """Change settings in the stack's file."""
        file = self.project / "configs" / "stacks" / f"Pulumi.{stack}.yaml"
        told = yaml.safe_load(file.read_text())
        told["config"] |= {key if ":" in key else f"incubator:{key}": value for key, value in settings.items()}
        file.write_text(yaml.safe_dump(told))

    def write(self, before: str = "", after: str = "") -> None:
        """Write lines into the program, at its beginning and at its end."""
        file = self.project / "infra" / "__main__.py"
        file.write_text(before + file.read_text() + after)

    def ids(self, type_: str | None = None) -> list[str]:
        """What is in the cloud, without what stays: storage."""
        found = self.world.read()["resources"].values()
        return sorted(one["id"] for one in found if one["type"] == type_ or (type_ is None and ":compute/" in one["type"]))

    def vm(self) -> dict[str, Any]:
        (vm,) = [one for one in self.world.read()["resources"].values() if one["type"] == INSTANCE]
        return vm

    @classmethod
    def begin(cls, folder: Path) -> Self:
        """A clone of the repository in which somebody has made the stacks, and told them the project."""
        place = cls(folder)
        shutil.copytree(REPOSITORY / "infra", place.project / "infra")
        ignored = shutil.ignore_patterns("Pulumi.*")  # the settings of whoever runs the tests
        shutil.copytree(REPOSITORY / "configs" / "stacks", place.project / "configs" / "stacks", ignore=ignored)
        shutil.copy(REPOSITORY / "Pulumi.yaml", place.project)
        World.create(place.folder / "world.json")
        for template in [*(place.project / "configs" / "stacks").glob("*.yaml")]:
            text = template.read_text()
            template.with_name(f"Pulumi.{template.name}").write_text(text)
        place.set("storage", location="us-central1")
        for stack in ("storage", "l4", "cpu"):
            place.engine.init(stack)
            place.set(stack, **{"gcp:project": "demo-project"})
        return place
