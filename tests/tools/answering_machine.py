"""A machine behind a real SSH server whose programs are a test's own: an old, a new or a hostile one."""

import json
from pathlib import Path

from tests.tools.ssh_machine import SshMachine
from training.checkpoints.manifest import write_manifest

RECORD = Path(__file__).parents[1] / "fixtures" / "protocol_format_0" / "status.json"
BEGUN = {"starts": [{"time": "2026-11-21T00:00:00"}]}
ROOT = "/mnt/data/incubator"


class AnsweringMachine:
    """Looks bootstrapped: its `python` prints the answer that was laid there, whatever the verb."""

    def __init__(self, machine: SshMachine) -> None:
        self.machine, self.root = machine, machine.disk / "incubator"
        (self.root / "code" / ".venv" / "bin").mkdir(parents=True)
        (self.root / "code" / ".shipped").write_text("fab\n")
        (self.root / "code" / ".venv" / ".synced").write_text("ee\n")
        for hook in ("boot-hook", "last-sync"):
            (self.root / hook).touch()
        self.python(f"cat {ROOT}/answer")
        self.says(json.loads(RECORD.read_text()))

    def python(self, script: str) -> None:
        program = self.root / "code" / ".venv" / "bin" / "python"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def says(self, answer: object) -> None:
        (self.root / "answer").write_text(answer if isinstance(answer, str) else json.dumps(answer))

    def run(self, name: str = "job", step: int = 8) -> Path:
        """An honest run directory."""
        folder = self.root / "runs" / name
        checkpoint = folder / "checkpoints" / f"step={step:09d}"
        checkpoint.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(BEGUN))
        (folder / "model.pt").write_text("weights")
        (checkpoint / "trainer.ckpt").write_text("payload")
        write_manifest(checkpoint, step, "config", "data", None)
        return folder
