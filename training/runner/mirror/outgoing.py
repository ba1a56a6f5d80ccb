"""What the pusher sends: links to payloads and copies of small files, out of the reach of the run, which goes on writing."""

import errno
import hashlib
import os
import shutil
from pathlib import Path

from training.checkpoints.manifest import Checkpoint
from training.runner.mirror.push_state import Version

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def hold(checkpoint: Checkpoint, at: Path) -> Path:
    """Links to the payload below `at`; the checkpoint's own folder where none can be made: disk full, another disk."""
    folder = at / checkpoint.folder.name
    shutil.rmtree(at, ignore_errors=True)
    try:
        for file in checkpoint.manifest.files:
            (folder / file.name).parent.mkdir(parents=True, exist_ok=True)
            os.link(checkpoint.folder / file.name, folder / file.name)
    except FileNotFoundError:
        raise
    except OSError:
        return checkpoint.folder
    return folder


def copy_whole(path: Path, to: Path, version: Version) -> bool:
    """Copy a file; False, and nothing left of it, if the disk is full."""
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
        os.utime(to, ns=(version.mtime_ns, version.mtime_ns))
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        to.unlink(missing_ok=True)
        return False
    return True


def md5_by_name(folder: Path, checkpoint: Checkpoint) -> dict[str, str] | None:
    """MD5 of each file of a checkpoint, as the bucket tells it; None if one does not have the SHA-256 of its manifest."""
    found = {}
    for file in checkpoint.manifest.files:
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        with (folder / file.name).open("rb") as content:
            while block := content.read(2**20):
                sha256.update(block)
                md5.update(block)
        if sha256.hexdigest() != file.sha256:
            return None
        found[file.name] = md5.hexdigest()
    return found
