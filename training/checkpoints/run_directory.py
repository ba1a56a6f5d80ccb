"""The folder of a run: who may begin or go on there, and the files that people and tools read.

Everything below it is named by relative paths; it may be moved, copied and mirrored.
"""

import csv
import errno
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from training.arc_run import is_arc_run, what_to_do
from training.checkpoints import run_lock
from training.checkpoints.manifest import Checkpoint, complete_checkpoints, newest_intact
from training.checkpoints.settings import config_sha256, fixed_settings
from training.config import Run
from training.config_loader import load_config
from training.config_text import commented_yaml
from training.errors import UserError
from training.files import write_text
from training.run_facts import FORMAT, RUN_JSON, read_facts
from training.text import some

log = logging.getLogger(__name__)

NOTHING_SET_ASIDE = "evaluation.control_fraction=null"
"""What holds for a run from before controls were set aside: its config.yaml has no section `evaluation`."""
LONGEST_NAME = 150
"""Of what a run writes below its folders: TensorBoard's files have the machine's name in theirs [characters]."""
PACKAGES = ("torch", "lightning", "anndata", "h5py", "numpy", "geomloss", "pydantic", "omegaconf")


@dataclass(frozen=True)
class Start:
    """What run.json records of a start."""

    data_fingerprint: str
    total_steps: int
    device: str
    early_stopping: str | None
    """What ends it early, as text; None where nothing does."""
    split: dict[str, Any]
    """The report of cells, sets and leaks per split, as plain values."""


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def model_file(self) -> Path:
        """Weights and what is needed to rebuild the model."""
        return self.path / "model.pt"

    def config(self, overrides: list[str] | None = None) -> Run:
        """The resolved configuration the run was started with, `overrides` laid over it.

        Raises: UserError if this is no run directory.
        """
        if is_arc_run(self.path):
            raise UserError(f"{self.path}: {what_to_do(self.path)}")
        if not os.path.isfile(self.path / "config.yaml"):
            raise UserError(f"{self.path}: not a run directory: it holds no config.yaml (accepted: OUTPUT_DIR/NAME of a run)")
        words, key = overrides or [], NOTHING_SET_ASIDE.partition("=")[0]
        text = (self.path / "config.yaml").read_text(encoding="utf-8", errors="replace")
        is_older = "\nevaluation:" not in text and re.search(r"^task: (?!perturbation\b)", text, re.MULTILINE) is None
        if is_older and not any(word.startswith(f"{key}=") for word in words):
            words = [NOTHING_SET_ASIDE, *words]
        return load_config(self.path / "config.yaml", words)

    def facts(self) -> dict[str, Any]:
        """What run.json says; empty before the first start.

        Raises: UserError if the file is not what a run writes.
        """
        path = self.path / RUN_JSON
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not readable as the facts of a run: {error}") from None
        if not isinstance(facts, dict) or not isinstance(facts.get("starts"), list):
            raise UserError(f"{path}: not the facts of a run: it has no list `starts` (accepted: what a run writes there)")
        return facts

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from training in this folder; taken before anything in it is looked at or changed.

        Raises: UserError if another process trains here, or the folder cannot be written.
        """
        self._refuse_place()
        with run_lock.held(self.path):
            yield

    def refuse(self, config: Run) -> None:
        """Refuse, before any data are read, a run that could not start or go on here; leaves nothing behind.

        Raises: UserError if the run has begun and neither resume nor overwrite is said; for a resume, if there is no complete
            checkpoint or the configuration is not that of the beginning; if the folder cannot be written.
        """
        self._refuse_place()
        if config.resume:
            self._refuse_resume(config)
        else:
            self._refuse_begun(config)

    def starting_point(self, config: Run, start: Start) -> Checkpoint | None:
        """The checkpoint that the run goes on from, None for a fresh start.

        Raises: UserError as `refuse` does, and if a resumed run began with other data, is longer already, or is all damaged.
        """
        self.refuse(config)
        if not config.resume:
            return None
        checkpoint = newest_intact(self.checkpoints)
        if checkpoint is None:
            raise UserError(
                f"{self.checkpoints}: resume=true, but every checkpoint is damaged (to start anew, overwrite=true instead)"
            )
        self.refuse_other_configuration(checkpoint)
        begun, now = checkpoint.manifest.data_fingerprint[:12], start.data_fingerprint[:12]
        if begun != now:
            raise UserError(
                f"{self.path}: resume=true, but the run began with other data (fingerprint {begun}, now {now}): "
                f"the content of {', '.join(path for _, path in config.files)}, or of files that they name, has changed "
                "(accepted: the data as they were, or another name without resume=true)"
            )
        if checkpoint.step > start.total_steps:
            raise UserError(
                f"{self.path}: resume=true, but the run is at step {checkpoint.step} and trainer.max_steps (or max_epochs) asks "
                f"for {start.total_steps} (accepted: {checkpoint.step} or more)"
            )
        return checkpoint

    def refuse_other_configuration(self, checkpoint: Checkpoint) -> None:
        """Refuse a checkpoint that was written under other settings than this run's.

        Raises: UserError.
        """
        if checkpoint.manifest.config_sha256 != config_sha256(self.config()):
            raise UserError(
                f"{checkpoint.folder}: its manifest is of another configuration than {self.path}/config.yaml, so another run has "
                "written it (accepted: checkpoints of this run; move that folder away)"
            )

    def begin(self, config: Run, start: Start) -> Checkpoint | None:
        """Claim the folder for a start or a resume, and record it; a kill in between leaves what the next start can claim.

        Returns: the checkpoint to go on from, None for a fresh start.
        Raises: UserError as `starting_point` does.
        """
        checkpoint = self.starting_point(config, start)
        if checkpoint is not None and checkpoint.step < start.total_steps and config.varies_with_length:
            log.warning("resume=true: the learning rate is that of a run of %d steps from here on", start.total_steps)
        removed = self.path.with_name(f".{self.path.name}.removed")
        try:
            shutil.rmtree(removed, ignore_errors=True)
            if config.overwrite and self.path.exists():
                self.path.rename(removed)
                shutil.rmtree(removed)
            self.path.mkdir(parents=True, exist_ok=True)
            ended_early = self._ended_early(checkpoint, start)
            self._record(start, checkpoint)
            fresh = config.model_copy(update={"resume": False, "overwrite": False})
            write_text(self.path / "config.yaml", commented_yaml(fresh))
            self.checkpoints.mkdir(exist_ok=True)
            self._remove_stale(goes_on=checkpoint is None or (checkpoint.step < start.total_steps and not ended_early))
        except OSError as error:
            raise UserError(
                f"{self.path}: the run directory cannot be written: {error.strerror or error} (set output_dir)"
            ) from None
        return checkpoint

    def history(self) -> dict[str, list[str]]:
        """The validations of eval_history.csv by step; of a step that was trained twice, after a kill, the last row."""
        path = self.path / "eval_history.csv"
        if not path.exists():
            return {}
        with path.open(newline="", encoding="utf-8") as file:
            return {row[0]: row[1:] for row in list(csv.reader(file))[1:]}

    def finished(self, step: int) -> None:
        """Record that the run is complete at this step: an early stop may come before the step that was asked for."""
        write_text(self.path / RUN_JSON, json.dumps(self.facts() | {"finished_step": step}, indent=1) + "\n")

    def way_on(self) -> str:
        """How a run that was broken off goes on."""
        steps = [checkpoint.step for checkpoint in complete_checkpoints(self.checkpoints)]
        return f"resume=true goes on from step {steps[-1]}" if steps else "nothing was saved yet: overwrite=true starts anew"

    def append_validation(self, step: int, values: dict[str, float]) -> None:
        """Add a row to eval_history.csv; a header that no longer fits starts a new file beside the old."""
        path, header = self.path / "eval_history.csv", ["step", *values]
        if path.exists() and path.read_text(errors="replace").partition("\n")[0].split(",") != header:
            path.rename(path.with_suffix(f".before_step_{step}.csv"))
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            rows = csv.writer(file)
            if is_new:
                rows.writerow(header)
            rows.writerow([step, *(repr(value) for value in values.values())])

    def _refuse_place(self) -> None:
        try:
            os.lstat(self.path / "checkpoints" / ("x" * LONGEST_NAME))
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise UserError(
                    f"{self.path}: the run directory cannot be written: its path is too long (set output_dir)"
                ) from None
        above = next(folder for folder in (self.path, *self.path.absolute().parents) if os.path.lexists(folder))
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise UserError(f"{self.path}: the run directory cannot be written: {above} is no writable folder (set output_dir)")

    def _refuse_begun(self, config: Run) -> None:
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        self._refuse_foreign()
        if self.path.is_symlink():
            raise UserError(f"{self.path}: is a link, and a run begins in a folder of its own (set another name or output_dir)")
        if config.overwrite:
            return
        steps = [c.step for c in complete_checkpoints(self.checkpoints)]
        reached = f"with checkpoints of steps {some(steps)}" if steps else "without a complete checkpoint"
        resume = "resume=true to go on, " if steps else ""
        raise UserError(f"{self.path}: exists already, {reached} (accepted: {resume}overwrite=true to delete it, another name)")

    def _refuse_foreign(self) -> None:
        """Refuse a folder that holds anything but a run of ours."""
        if is_arc_run(self.path) and not (self.path / RUN_JSON).exists():
            raise UserError(f"{self.path}: {what_to_do(self.path)}")
        if not self.facts():
            raise UserError(f"{self.path}: exists already and is no run directory (set another name or output_dir)")

    def _refuse_resume(self, config: Run) -> None:
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            raise UserError(f"{self.path}: resume=true, but no run has begun there (to start one, leave resume=true out)")
        self._refuse_foreign()
        if not complete_checkpoints(self.checkpoints):
            raise UserError(
                f"{self.checkpoints}: resume=true, but there is no complete checkpoint (to start anew, overwrite=true instead)"
            )
        begun, now = fixed_settings(self.config()), fixed_settings(config)
        changed = [f"{key} {begun.get(key)} -> {now.get(key)}" for key in sorted(begun | now) if begun.get(key) != now.get(key)]
        if changed:
            raise UserError(
                f"{self.path}: resume=true, but the run began with another configuration: {some(changed)} "
                "(accepted: these as they were, or another name without resume=true)"
            )

    def _ended_early(self, checkpoint: Checkpoint | None, start: Start) -> bool:
        """Whether the run ended before its last step, and is asked for no more than it was."""
        facts = read_facts(self.path)
        if checkpoint is None or facts is None or facts.finished_step != checkpoint.step:
            return False
        return (facts.latest.total_steps, facts.latest.early_stopping) == (start.total_steps, start.early_stopping)

    def _remove_stale(self, goes_on: bool) -> None:
        """Remove what a kill left half-written, and what was said of weights that are not the last ones any more."""
        complete = {checkpoint.folder for checkpoint in complete_checkpoints(self.checkpoints)}
        for folder in (*self.checkpoints.glob(".step=*.partial"), *self.checkpoints.glob("step=*")):
            if folder.is_dir() and folder not in complete:
                log.warning("%s: incomplete, removed", folder)
                shutil.rmtree(folder)
        for name in ("model.pt", "metrics.json", "evaluation.csv", "report.html") if goes_on else ():
            (self.path / name).unlink(missing_ok=True)

    def _record(self, start: Start, checkpoint: Checkpoint | None) -> None:
        facts = {name: value for name, value in self.facts().items() if name != "finished_step"}
        if not facts:
            facts = {"format": FORMAT, "run_id": uuid.uuid4().hex}
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "step": checkpoint.step if checkpoint else 0,
            "reason": "resume=true" if checkpoint else "start",
            "total_steps": start.total_steps,
            "early_stopping": start.early_stopping,
            "device": start.device,
        }
        facts |= {
            "python": platform.python_version(),
            "versions": {name: version(name) for name in PACKAGES},
            "git_commit": git_commit(),
            "data_fingerprint": start.data_fingerprint,
            "split": start.split,
            "starts": [*facts.get("starts", []), entry],
        }
        write_text(self.path / RUN_JSON, json.dumps(facts, indent=1) + "\n")


def git_commit() -> str | None:
    """Commit of the code that runs, with `+changes` where the working tree differs; None outside a repository.

    Code that was brought to a machine says it in `.commit` (bootstrap/steps.py).
    """
    here = Path(__file__).parent
    with suppress(OSError):
        return (here.parent.parent / ".commit").read_text().strip() or None
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"]
    try:
        described = subprocess.run(command, cwd=here, capture_output=True, text=True)
    except OSError:
        return None
    return described.stdout.strip() or None if described.returncode == 0 else None
