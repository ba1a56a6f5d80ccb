"""The Pulumi engine as a person would type it: the `pulumi` on the PATH, run where Pulumi.yaml is."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.outputs import project_root
from infra.policy import INSTANCE
from infra.stack_config import BEGIN, PROJECT, StackSettings, read_settings
from infra.stack_files import stack_names, told_by
from training.errors import RunError, UserError

LEAST_VERSION = (3, 250, 0)
LOGGED = ("up", "destroy")
"""Commands whose events tell more than what they print."""


@dataclass(frozen=True)
class Ended:
    """How a command of the engine ended, with all that it printed; `reported` are the errors among its events."""

    code: int
    text: str
    reported: tuple[str, ...] = ()

    @property
    def errors(self) -> str:
        """What went wrong: the engine's own diagnostics, or, where it came to none (a lock, a passphrase), all that it printed."""
        return "\n".join(self.reported) or self.text


@dataclass(frozen=True)
class Plan:
    """What `pulumi up` is about to do, as names of resources; `updated` with the properties that change.

    Units: `boot_disk_gib` is the size of the boot disk of a VM that stays, in GiB: now, and as asked for.
    """

    replaced: tuple[str, ...]
    deleted: tuple[str, ...]
    boot_disk_gib: tuple[int, int] | None = None
    created: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lacking:
    """A resource that the program declares and the state lacks, with as much of its inputs as is known beforehand."""

    urn: str
    type: str
    name: str
    inputs: Mapping[str, Any]
    protect: bool


class Engine:
    """`pulumi` for one stack."""

    def __init__(self, stack: str | None) -> None:
        """Choose the stack: the one that is named, or $PULUMI_STACK, or the one that is selected.

        Raises: UserError if there is no engine, an old one, or no stack is chosen.
        """
        self.path, self.root = _engine_path(), project_root()
        chosen = stack or os.environ.get("PULUMI_STACK") or self._selected()
        if not chosen:
            known = ", ".join(stack_names())
            raise UserError(f"no stack is chosen: add --stack NAME, or run: pulumi stack select NAME (in configs/stacks: {known})")
        self.stack = chosen

    def _selected(self) -> str:
        asked = self._ask("stack", "--show-name", may_fail=True)
        return asked.text.strip() if asked.code == 0 else ""

    def make_sure_it_exists(self) -> None:
        """Create the stack in the backend if there is only its file.

        Raises: UserError if there is not even a file; RunError if the engine cannot.
        """
        if self.exists():
            return
        if not (self.root / "configs" / "stacks" / f"Pulumi.{self.stack}.yaml").exists():
            file = f"configs/stacks/Pulumi.{self.stack}.yaml"
            raise UserError(f"stack {self.stack}: there is no {file}; run: {BEGIN} (or copy one of those there)")
        read_settings(self.stack, told_by(self.stack))  # before anything is made
        if self.show("stack", "init", self.stack, "--no-select").code != 0:
            raise RunError(f"stack {self.stack} could not be created (see above)")

    def exists(self) -> bool:
        """Whether the backend knows the stack."""
        return self.stack in self.names()

    def names(self) -> set[str]:
        """The stacks that the backend knows."""
        return {entry["name"].split("/")[-1] for entry in json.loads(self._ask("stack", "ls", "--json").text or "[]")}

    def settings(self) -> StackSettings:
        """The stack's settings.

        Raises: UserError as `read_settings` does.
        """
        if not self.exists():
            raise UserError(
                f"stack {self.stack} is not in this backend yet; run: pulumi stack init {self.stack} (or ./fab up --stack NAME)"
            )
        told = json.loads(self._ask("config", "--json", "--stack", self.stack).text or "{}")
        return read_settings(self.stack, {key: entry.get("objectValue", entry.get("value")) for key, entry in told.items()})

    def set(self, key: str, value: str) -> None:
        """Write a setting into the stack's file."""
        self._ask("config", "set", f"{PROJECT}:{key}", value, "--stack", self.stack)

    def outputs(self) -> dict[str, Any]:
        """What the stack says of itself; empty if it is not up."""
        found: dict[str, Any] = json.loads(self._ask("stack", "output", "--json", "--stack", self.stack).text or "{}")
        return found

    def holds(self, type_: str) -> bool:
        """Whether the state has a resource of a type."""
        state = json.loads(self._ask("stack", "export", "--stack", self.stack).text)
        return any(resource["type"] == type_ for resource in (state.get("deployment") or {}).get("resources") or [])

    def plan(self) -> Plan:
        """What `pulumi up` would do.

        Raises: UserError with what the engine said: a plan creates nothing.
        """
        steps = self._steps()
        names: dict[str, list[str]] = {op: [] for op in ("replace", "delete", "create", "update")}
        for step in steps:
            changed = f" ({', '.join(step['diffReasons'])})" if step["op"] == "update" and step.get("diffReasons") else ""
            names.setdefault(step["op"], []).append(step["urn"].split("::")[-1] + changed)
        return Plan(
            tuple(names["replace"]),
            tuple(names["delete"]),
            next((_boot_disk_gib(step) for step in steps if step["op"] == "update" and f"{INSTANCE}::" in step["urn"]), None),
            tuple(names["create"]),
            tuple(names["update"]),
        )

    def _steps(self, *words: str) -> list[dict[str, Any]]:
        asked = self._ask("preview", "--json", "--stack", self.stack, *words, may_fail=True)
        try:
            told = json.loads(asked.text)
        except ValueError:
            raise UserError(_errors_of(asked.text)) from None
        if asked.code != 0:
            raise UserError(_errors(told.get("diagnostics", [])) or asked.text.strip())
        steps: list[dict[str, Any]] = told.get("steps", [])
        return steps

    def lacking(self) -> tuple[dict[str, Any], list[Lacking]]:
        """What the state lacks: as the file for `pulumi import`, in which only the ids are missing, and one by one.

        Raises: UserError with what the engine said.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "import.json")
            steps = self._steps("--import-file", str(path))
            file: dict[str, Any] = json.loads(path.read_text())
        states = [step["newState"] for step in steps if step["op"] == "create"]
        return file, [
            Lacking(state["urn"], state["type"], state["urn"].split("::")[-1], state.get("inputs", {}), state.get("protect", False))
            for state in states
        ]

    def take_in(self, file: Mapping[str, Any], protect: bool) -> None:
        """`pulumi import` of what a file names; the engine's flag holds for all of it.

        Raises: RunError if the engine could not.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "import.json")
            path.write_text(json.dumps(file))
            flags = ("--yes", "--skip-preview", "--generate-code=false", f"--protect={str(protect).lower()}")
            ended = self.show("import", "--file", str(path), "--stack", self.stack, *flags)
        if ended.code != 0:
            raise RunError(
                f"pulumi import did not finish (see above). What it has taken in is in the state of stack {self.stack}, and in the "
                f"cloud nothing has changed; run it again: ./fab adopt --stack {self.stack}"
            )

    def show(self, *words: str) -> Ended:
        """Run a command that prints to the terminal, and keep what it prints."""
        print(f"$ pulumi {' '.join(words)}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder, "events.json")
            flags = ("--event-log", str(log)) if words[0] in LOGGED else ()
            ended = self._show(*words, *flags)
            return Ended(ended.code, ended.text, errors_among(log.read_text())) if log.exists() else ended

    def _show(self, *words: str) -> Ended:
        lines: list[str] = []
        with subprocess.Popen(
            [self.path, *words],
            cwd=self.root,
            env=_environment() | {"PULUMI_DEBUG_COMMANDS": "1"},  # without it the engine knows no --event-log
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            interrupted = False
            while True:  # a Ctrl-C reaches the engine too, which then writes down what is under way: it is heard out
                try:
                    _pass_on(process, lines)
                    break
                except KeyboardInterrupt:
                    interrupted = True
        if interrupted:
            raise RunError(
                f"interrupted; what came is in the state of stack {self.stack}, unless Ctrl-C came twice. "
                f"Go on: the same command again; back: ./fab down --stack {self.stack}; "
                f"what costs meanwhile: ./fab sweep --stack {self.stack}"
            )
        return Ended(process.returncode, "".join(lines))

    def _ask(self, *words: str, may_fail: bool = False) -> Ended:
        command = [self.path, *words, "--non-interactive", "--color", "never"]
        done = subprocess.run(command, cwd=self.root, env=_environment(), capture_output=True, text=True)
        if done.returncode != 0:
            _refuse_a_closed_door(done.stderr + done.stdout)
            if not may_fail:
                raise RunError(f"pulumi {' '.join(words)}: {_errors_of(done.stderr)}")
        return Ended(done.returncode, done.stdout or done.stderr if may_fail and done.returncode != 0 else done.stdout)


def errors_among(log: str) -> tuple[str, ...]:
    """The errors in a log of the engine's events, one JSON a line: those of resources before those of the update as a whole."""
    found = list[tuple[bool, str]]()
    for line in log.splitlines():
        try:
            told = json.loads(line).get("diagnosticEvent") or {}
        except ValueError:  # the engine was cut off
            continue
        if told.get("severity") == "error":
            found.append((not told.get("urn"), str(told.get("message", "")).strip()))
    return tuple(message for _, message in sorted(found, key=lambda pair: pair[0]))


def _boot_disk_gib(step: Mapping[str, Any]) -> tuple[int, int]:
    sizes = [step[state]["inputs"]["bootDisk"]["initializeParams"]["size"] for state in ("oldState", "newState")]
    return int(sizes[0]), int(sizes[1])


def _pass_on(process: "subprocess.Popen[str]", lines: list[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        sys.stdout.write(line)
        sys.stdout.flush()
    process.wait()


def _engine_path() -> str:
    found = shutil.which("pulumi")
    if found is None:
        raise UserError(
            "there is no pulumi on the PATH; on Linux: curl -fsSL https://get.pulumi.com | sh (else: pulumi.com/docs/install)"
        )
    told = subprocess.run([found, "version"], capture_output=True, text=True).stdout
    version = tuple(int(number) for number in re.findall(r"\d+", told)[:3])
    if version < LEAST_VERSION:
        raise UserError(
            f"{found} is version {told.strip() or 'unknown'} (accepted: {'.'.join(map(str, LEAST_VERSION))} or newer); "
            "update it: curl -fsSL https://get.pulumi.com | sh"
        )
    return found


def _environment() -> dict[str, str]:
    """This process's own, with the uv that started it on the PATH: Pulumi calls uv by its name."""
    uv = os.environ.get("UV")
    return {**os.environ, "PATH": f"{os.environ.get('PATH', '')}{os.pathsep}{os.path.dirname(uv)}"} if uv else {**os.environ}


def _refuse_a_closed_door(printed: str) -> None:
    """Without a login or the passphrase the engine says nothing else."""
    if "PULUMI_ACCESS_TOKEN" in printed:
        raise UserError("pulumi is not logged in; run: pulumi login file://~ (state on this laptop; or gs://BUCKET)")
    if "passphrase" in printed:
        raise UserError("pulumi has no passphrase, or a wrong one: set PULUMI_CONFIG_PASSPHRASE, or PULUMI_CONFIG_PASSPHRASE_FILE")


def _errors_of(printed: str) -> str:
    """In one line, without the engine's warnings."""
    lines = [line.removeprefix("error: ") for line in printed.splitlines() if not line.startswith("warning:")]
    return " ".join(" ".join(lines).split())


def _errors(diagnostics: Sequence[dict[str, Any]]) -> str:
    return " ".join(
        " ".join(entry["message"].split()).removeprefix("error: ") for entry in diagnostics if entry.get("severity") == "error"
    )
