"""How long the training loop waits for its next batch. Lightning's profiler hook is the one place that sees it."""

import time

from lightning.pytorch.profilers import Profiler


class DataWait(Profiler):
    """Sums the seconds inside `next()` of the training loader, and ignores everything else."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds, self._started = 0.0, 0.0

    def start(self, action_name: str) -> None:
        """Called by Lightning before an action."""
        if action_name.endswith("train_dataloader_next"):
            self._started = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Called by Lightning after an action."""
        if action_name.endswith("train_dataloader_next"):
            self._seconds += time.perf_counter() - self._started

    def take_seconds(self) -> float:
        """Seconds waited since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
