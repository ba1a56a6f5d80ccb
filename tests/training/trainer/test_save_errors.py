"""A checkpoint that cannot be written: what is offered helps against what went wrong."""

import errno
import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from training.config import CheckpointsConfig
from training.errors import RunError
from training.trainer.checkpointing import SaveCheckpoints


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "Free some space, then start anew with overwrite=true"),
        (RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0"), "Free some space, then"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), f"Let user id {os.geteuid()} write to "),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), "Mount the disk of "),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "See to the disk of "),
    ],
)
def test_the_remedy_is_for_what_went_wrong(tmp_path, error, remedy):
    def fail(path: object) -> None:
        raise error

    trainer: Any = SimpleNamespace(
        global_step=10, save_checkpoint=fail, lightning_module=SimpleNamespace(parameters=lambda: [torch.zeros(1)])
    )
    save = SaveCheckpoints(
        tmp_path / "checkpoints", CheckpointsConfig(), total_steps=20, config_sha256="config", data_fingerprint="data"
    )

    with pytest.raises(RunError) as failed:
        save.save_now(trainer)

    assert remedy in str(failed.value)
    assert ("Free some space" in str(failed.value)) == remedy.startswith("Free some space")
