"""The callback that keeps progress.json, which the watchdog and `status` read."""

import os
import statistics
import time
from collections import deque
from pathlib import Path
from typing import Any, Literal

import lightning as L

from training.checkpoints.progress_file import Progress, write_progress

EVERY_SECONDS = 1.0
STEPS = 50


class WriteProgress(L.Callback):
    """Writes at most once a second, and always at the first step of a start, at the last, and when the run ends."""

    def __init__(self, run: Path, total_steps: int) -> None:
        self.run, self.total_steps = run, total_steps
        self._seconds: deque[float] = deque(maxlen=STEPS)
        self._step_ended: float | None = None
        self._written = float("-inf")
        self._first = True

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count a step that is whole."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        now = time.monotonic()
        if self._step_ended is not None:
            self._seconds.append(now - self._step_ended)
        self._step_ended = now
        if self._first or trainer.global_step >= self.total_steps or now - self._written >= EVERY_SECONDS:
            self._first = False
            self._write(trainer, "train")

    def on_validation_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *batch: Any) -> None:
        """Say that a long validation is no hang."""
        if time.monotonic() - self._written >= EVERY_SECONDS:
            self._write(trainer, "validate")

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Leave the validation out of the seconds of a step."""
        self._step_ended = None

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Write how it ended."""
        self._write(trainer, "train")

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Write how far it came."""
        if not self._first:
            self._write(trainer, "train")

    def _write(self, trainer: L.Trainer, phase: Literal["train", "validate"]) -> None:
        self._written = time.monotonic()
        median = statistics.median(self._seconds) if self._seconds else None
        loss = trainer.callback_metrics.get("train/loss_total")
        known = None if loss is None else float(loss)
        write_progress(self.run, Progress(os.getpid(), trainer.global_step, self.total_steps, phase, time.time(), median, known))
