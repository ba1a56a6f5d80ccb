"""The user's request to stop a job: a file that says when, by the clock that runs from boot. That of the machine may jump."""

import json
import logging
import time

from training.runner.job import JobPaths
from training.runner.processes import boot_id, boot_seconds

log = logging.getLogger(__name__)


def say_stopped(paths: JobPaths) -> None:
    """Said again, it is said now. On a full disk the file is empty, which says it too."""
    try:
        paths.stopped.write_text(json.dumps({"boot": boot_id(), "seconds": boot_seconds()}))
    except OSError as error:
        log.warning("%s: %s", paths.stopped, error)


def was_stopped_after(paths: JobPaths, since: float) -> bool:
    """Whether it was said after a moment of this boot.

    Units: `since` in seconds since boot.
    """
    try:
        about, text = paths.stopped.stat(), paths.stopped.read_text()
    except FileNotFoundError:
        return False
    try:
        said = json.loads(text)
        return bool(said["boot"] == boot_id() and float(said["seconds"]) > since)
    except (ValueError, TypeError, LookupError):  # empty: only the clock of the machine is left, and its future is not believed
        return time.time() - (boot_seconds() - since) < about.st_mtime <= time.time()
