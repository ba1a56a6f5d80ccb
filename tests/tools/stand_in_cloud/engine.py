"""The real Pulumi engine, as a person types it, over the stand-in cloud."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.tools.stand_in_cloud import plugin
from tests.tools.stand_in_cloud.world import VARIABLE, State, World

REPOSITORY = Path(__file__).parents[3]
BROUGHT = REPOSITORY / ".tools" / "bin"
STAND_INS = REPOSITORY / "tests" / "tools" / "bin"
LEAST_VERSION = (3, 250, 0)
Completed = subprocess.CompletedProcess[str]


@functools.cache
def engine_path() -> Path | None:
    """The `pulumi` that tests run: the one that tests/tools/bring_tools built, or one on PATH that is new enough."""
    for found in (shutil.which("pulumi", path=str(BROUGHT)), shutil.which("pulumi")):
        if found is not None and _version(found) >= LEAST_VERSION:
            return Path(found)
    return None


def _version(executable: str) -> tuple[int, ...]:
    told = subprocess.run(
        [executable, "version"], capture_output=True, text=True, env={**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"}
    )
    return tuple(int(number) for number in re.findall(r"\d+", told.stdout)[:3])


class Engine:
    """One user at one project: `root` has the Pulumi.yaml, `home` takes the state and the settings of `pulumi`."""

    def __init__(self, root: Path, home: Path, world: World, *, warm: bool = True) -> None:
        self.root, self.home, self.world = root, home, world
        found = engine_path()
        if found is None:
            raise FileNotFoundError("no pulumi >= 3.250.0: run tests/tools/bring_tools")
        self.path, backend = found, home / "state"
        backend.mkdir(parents=True, exist_ok=True)
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("PULUMI_", "GOOGLE_"))}
        binaries = [str(STAND_INS), str(Path(sys.executable).parent), str(found.parent), outside.get("PATH", "")]
        self.env = outside | {
            "PATH": os.pathsep.join(binaries),
            "PULUMI_BACKEND_URL": f"file://{backend}",
            "PULUMI_CONFIG_PASSPHRASE": "test",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "PULUMI_HOME": str(home / "pulumi"),
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            VARIABLE: str(world.path),
            **(plugin.warm() if warm else {}),
        }

    def run(self, *words: str, timeout: float = 120) -> Completed:
        """`pulumi WORDS`, asking nothing, without colours."""
        command = [str(self.path), *words, "--non-interactive", "--color", "never"]
        return subprocess.run(
            command, cwd=self.root, env=self.env, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
        )

    def init(self, stack: str, **config: str) -> None:
        """A new stack, with settings."""
        self._sure("stack", "init", stack)
        if config:
            pairs = [word for key, value in config.items() for word in ("--plaintext", f"{key}={value}")]
            self._sure("config", "set-all", "--stack", stack, *pairs)

    def _sure(self, *words: str) -> Completed:
        done = self.run(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def start(self, *words: str) -> subprocess.Popen[str]:
        """`pulumi WORDS` that goes on, so that a test can interrupt it; in a process group of its own, as a shell starts it."""
        command = [str(self.path), *words, "--non-interactive", "--color", "never"]
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )

    def wait_for(self, seen: Callable[[State], object], seconds: float = 30) -> None:
        """Wait until something is so in the cloud."""
        until = time.monotonic() + seconds
        while not seen(self.world.read()):
            assert time.monotonic() < until, "it did not come"
            time.sleep(0.02)

    def plan(self, stack: str) -> dict[str, str]:
        """What `pulumi preview` would do, by the name of the resource: same, create, update, replace, delete, read, refresh."""
        steps = json.loads(self._sure("preview", "--stack", stack, "--json", "--show-sames").stdout)["steps"]
        plan: dict[str, str] = {}
        for step in steps:
            name, op = step["urn"].rpartition("::")[2], "replace" if "replace" in step["op"] else step["op"]
            plan[name] = op if plan.get(name) != "replace" else "replace"
        return plan

    def outputs(self, stack: str) -> dict[str, Any]:
        """`pulumi stack output --json`."""
        return json.loads(self._sure("stack", "output", "--stack", stack, "--json").stdout)

    def preview(self, stack: str, *words: str) -> Completed:
        """`pulumi preview`."""
        return self.run("preview", "--stack", stack, "--diff", *words)

    def up(self, stack: str, *words: str) -> Completed:
        """`pulumi up --yes --skip-preview`."""
        return self.run("up", "--stack", stack, "--yes", "--skip-preview", *words)

    def destroy(self, stack: str, *words: str) -> Completed:
        """`pulumi destroy --yes --skip-preview`."""
        return self.run("destroy", "--stack", stack, "--yes", "--skip-preview", *words)

    def refresh(self, stack: str, *words: str) -> Completed:
        """`pulumi refresh --yes --skip-preview`."""
        return self.run("refresh", "--stack", stack, "--yes", "--skip-preview", *words)
