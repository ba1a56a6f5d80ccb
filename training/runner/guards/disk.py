"""The disk guard: what is safe in the bucket goes first, then the run."""

import logging
import shutil
import time

from training.runner.job import JobPaths
from training.runner.mirror.push_state import prune_local, read_push_state

log = logging.getLogger(__name__)
GIB = 2**30


class DiskGuard:
    """Looks at the free space of the run's disk every `every_seconds`."""

    def __init__(self, paths: JobPaths, min_free_gib: float, every_seconds: float) -> None:
        self.paths, self.min_free_gib, self.every_seconds = paths, min_free_gib, every_seconds
        self._looked = float("-inf")

    def has_room(self, now: bool = False) -> bool:
        """Whether there is room, after checkpoints that are safe in the bucket were removed if need be; `now` does not wait."""
        if not now and time.monotonic() - self._looked < self.every_seconds:
            return True
        self._looked = time.monotonic()
        if self.free_gib() >= self.min_free_gib:
            return True
        pushed = read_push_state(self.paths.folder)
        freed = prune_local(self.paths.run, pushed) if pushed is not None else 0
        if freed:
            log.info("supervisor: the disk is nearly full: removed %.2f GiB of checkpoints that the bucket has", freed / GIB)
        return self.free_gib() >= self.min_free_gib

    def free_gib(self) -> float:
        """Free space of the disk of the runs."""
        runs = self.paths.root / "runs"
        return shutil.disk_usage(runs if runs.exists() else self.paths.root).free / GIB

    def reason(self) -> str:
        """Why the run was ended."""
        return (
            f"the disk is full: {self.free_gib():.2f} GiB free below {self.paths.root}, and min_free_gib is {self.min_free_gib:g}; "
            "nothing more could be removed: free some space, then train again"
        )
