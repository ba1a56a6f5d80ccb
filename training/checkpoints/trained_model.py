"""Which trained weights a run offers."""

import logging
from contextlib import suppress

from training.checkpoints.callback import PAYLOAD
from training.checkpoints.manifest import Checkpoint, best, complete_checkpoints, is_intact
from training.checkpoints.model_file import SavedModel, load_checkpoint_model, load_model
from training.checkpoints.run_directory import RunDirectory
from training.errors import UserError
from training.text import some

log = logging.getLogger(__name__)


ATTEMPTS = 100
"""How often another checkpoint is chosen where a living run removes the one just chosen, for it has written a newer one."""


def model_at(directory: RunDirectory, which: str | None) -> SavedModel:
    """A trained model of a run: model.pt, or (`which`) the checkpoint `best`, `last` or of a step.

    Without model.pt (an unfinished run) the best checkpoint so far is taken; a damaged one is passed over with a warning.

    Raises: UserError if there is none, the step that is asked for is not there or damaged, or what is chosen is another run's.
    """
    for _ in range(ATTEMPTS):
        with suppress(FileNotFoundError):
            return _model_at(directory, which)
    raise UserError(f"{directory.checkpoints}: a run replaces checkpoints faster than they can be read; try again after its end")


def _model_at(directory: RunDirectory, which: str | None) -> SavedModel:
    if which is None and directory.model_file.exists():
        return load_model(directory.model_file)
    found = complete_checkpoints(directory.checkpoints)
    if not found:
        raise UserError(f"{directory.path}: holds neither model.pt nor a complete checkpoint: nothing was trained here yet")
    if which in (None, "best", "last"):
        chosen = _intact(found, by_value=which != "last")
    else:
        named = {str(checkpoint.step): checkpoint for checkpoint in found}
        if which not in named:
            raise UserError(f"{directory.checkpoints}: no complete checkpoint {which} (accepted: best, last, {some(named)})")
        chosen = named[which]
        if not is_intact(chosen):
            raise UserError(f"{chosen.folder}: damaged: a file does not have the SHA-256 of its manifest")
    directory.refuse_other_configuration(chosen)
    try:
        return load_checkpoint_model(chosen.folder / PAYLOAD, chosen.manifest.val_loss_total)
    except UserError:
        if chosen.folder.exists():
            raise
        raise FileNotFoundError(chosen.folder) from None


def _intact(found: tuple[Checkpoint, ...], by_value: bool) -> Checkpoint:
    left = found
    while left:
        chosen = (best(left) if by_value else None) or left[-1]
        if is_intact(chosen):
            return chosen
        log.warning("%s: damaged: a file does not have the SHA-256 of its manifest; another checkpoint is taken", chosen.folder)
        left = tuple(checkpoint for checkpoint in left if checkpoint is not chosen)
    raise UserError(f"{found[-1].folder.parent}: every checkpoint is damaged")
