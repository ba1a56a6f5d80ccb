"""Ctrl-C ends a run between two batches."""

import signal
from types import FrameType
from typing import Any

import lightning as L


class EndOnInterrupt(L.Callback):
    """Raises KeyboardInterrupt at the end of the batch at hand; a second Ctrl-C raises it at once.

    Raised wherever the signal lands, it can be lost in a finalizer or leave a logger's lock taken: the run then goes on, or hangs.
    """

    def __init__(self) -> None:
        self.heard = False
        self.before = signal.getsignal(signal.SIGINT)

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Listen, unless the process was told to ignore Ctrl-C."""
        if self.before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard = True
        signal.signal(signal.SIGINT, self.before)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """End here if Ctrl-C was heard."""
        self._end_if_heard()

    def on_validation_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *batch: Any) -> None:
        """End here if Ctrl-C was heard."""
        self._end_if_heard()

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Listen no longer; a Ctrl-C of the last moment still counts."""
        self._end_if_heard()
        signal.signal(signal.SIGINT, self.before)

    def _end_if_heard(self) -> None:
        if self.heard:
            raise KeyboardInterrupt
