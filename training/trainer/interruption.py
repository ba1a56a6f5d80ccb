"""SIGTERM and Ctrl-C end a run between two optimizer steps, with a checkpoint of the last one."""

import logging
import signal
from types import FrameType
from typing import Any

import lightning as L

from training.trainer.checkpointing import SaveCheckpoints

log = logging.getLogger(__name__)


class EndOnInterrupt(L.Callback):
    """Saves a checkpoint at the end of the optimizer step at hand, and raises KeyboardInterrupt; a second Ctrl-C raises it at once.

    Raised wherever the signal lands, it can be lost in a finalizer or leave a logger's lock taken: the run then goes on, or hangs.
    The step is logged like any other before the run ends. Its validation, if it was due, is left to the resume. Comes after `save`
    in the list of callbacks.
    """

    def __init__(self, save: SaveCheckpoints) -> None:
        self.save = save
        self.heard: signal.Signals | None = None
        self.is_ending = False
        self.outcome = ""
        """What is said of the end: `at step 12, checkpoint saved`."""
        self.before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Listen, unless the process was told to ignore Ctrl-C; not before, when Lightning takes SIGTERM for itself."""
        self.before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        if self.before[signal.SIGINT] is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._hear)
        signal.signal(signal.SIGTERM, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, self.before[signal.SIGINT])

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save if a signal was heard and the step is whole; the last step of a run goes its usual way."""
        step_is_done = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self.heard is not None and step_is_done and trainer.global_step < self.save.total_steps:
            self.save.save_now(trainer)
            self.is_ending = True

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """End here if the step before was saved for that."""
        if self.is_ending:
            self._end(trainer, "checkpoint saved")

    def on_validation_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *batch: Any) -> None:
        """End here if a signal was heard: the resume validates this step again, from the first batch on."""
        if self.heard is None:
            return
        self.save.save_now(trainer)
        self._end(trainer, "checkpoint saved, its validation is left to the resume")

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Listen no longer; a signal of the last moment still counts."""
        if self.heard is not None:
            self._end(trainer, "checkpoint saved")
        self._listen_no_longer()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Listen no longer."""
        self._listen_no_longer()

    def _listen_no_longer(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _end(self, trainer: L.Trainer, what: str) -> None:
        heard = "" if self.heard is None else f"{self.heard.name}: "
        self.outcome = f"at step {trainer.global_step}, {what}"
        log.info("%sinterrupted %s", heard, self.outcome)
        raise KeyboardInterrupt
