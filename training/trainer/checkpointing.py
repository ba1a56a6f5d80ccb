"""When a checkpoint is written, which ones stay, and what happens when the disk is full."""

import errno
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import torch

from training.checkpoints.manifest import best, complete_checkpoints, folder_of, write_manifest
from training.checkpoints.model_file import PAYLOAD
from training.config import CheckpointsConfig
from training.errors import RunError

log = logging.getLogger(__name__)


class SaveCheckpoints(L.Callback):
    """Saves every `every_steps` optimizer steps and at the last one.

    Where a step is validated too, the checkpoint waits for the validation, so that the value in its manifest is that of
    its own weights. A validation that fails or does not come costs the value alone. `keep_last` newest and the best by
    validation stay.
    """

    def __init__(
        self,
        root: Path,
        config: CheckpointsConfig,
        *,
        total_steps: int,
        config_sha256: str,
        data_fingerprint: str,
        resumed_step: int | None = None,
        saves_best: bool = True,
    ) -> None:
        self.root, self.config, self.total_steps = root, config, total_steps
        self.config_sha256, self.data_fingerprint, self.saves_best = config_sha256, data_fingerprint, saves_best
        self.saved_step = resumed_step
        """Step of the newest checkpoint that is intact, as this process knows: it has written it, or goes on from it."""
        self._waits = False
        """Whether the step at hand waits for its validation."""

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save where no validation follows this step."""
        step_is_done = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        self._waits = step_is_done and self._validation_follows(trainer, batch_idx)
        if step_is_done and self._is_due(trainer.global_step) and not self._waits:
            self._save(trainer, None)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Save with the value that was just measured; a new best is saved off the cadence too, and where the run ends early."""
        self._waits = False
        value = float(trainer.callback_metrics["val/loss_total"])
        known = best(complete_checkpoints(self.root))
        improved = known is None or known.manifest.val_loss_total is None or value < known.manifest.val_loss_total
        if (improved and self.saves_best) or self._is_due(trainer.global_step) or trainer.should_stop:
            self._save(trainer, value)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Save the last step if no validation has."""
        self.save_now(trainer)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Save a step whose validation failed; whoever wants out at once (Ctrl-C) waits for nothing."""
        if self._waits and isinstance(exception, Exception):
            try:
                self.save_now(trainer)
            except RuntimeError as error:  # what ends the run is the exception at hand
                log.error("%s", error)

    def save_now(self, trainer: L.Trainer) -> None:
        """Save this step, whatever the cadence, if it is not saved yet."""
        if self.saved_step != trainer.global_step:
            self._save(trainer, None)

    def _is_due(self, step: int) -> bool:
        return step % self.config.every_steps == 0 or step == self.total_steps

    def _validation_follows(self, trainer: L.Trainer, batch_idx: int) -> bool:
        if not trainer.enable_validation or not sum(trainer.num_val_batches):
            return False
        return trainer.should_stop or (batch_idx + 1) % int(trainer.val_check_interval or 1) == 0

    def _save(self, trainer: L.Trainer, value: float | None) -> None:
        step = trainer.global_step
        if not all(bool(torch.isfinite(weight).all()) for weight in trainer.lightning_module.parameters()):
            raise RunError(
                f"step {step}: a weight is not finite, and no checkpoint is written of it; those before are intact. Start a new "
                "run with a lower optim.lr or optim.gradient_clip_norm."
            )
        partial, final = self.root / f".{folder_of(step)}.partial", self.root / folder_of(step)
        try:
            if step == self.saved_step:  # a stop came before its validation: the same weights, and now their value
                states = {each.state_key: state for each in trainer.callbacks if (state := each.state_dict())}  # type: ignore[attr-defined]
                if states:  # early stopping has counted this validation
                    self._write_again(final, partial, states)
                write_manifest(final, step, self.config_sha256, self.data_fingerprint, value)
            else:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
                trainer.save_checkpoint(partial / PAYLOAD)
                write_manifest(partial, step, self.config_sha256, self.data_fingerprint, value)
                shutil.rmtree(final, ignore_errors=True)  # an incomplete one of an earlier start
                partial.rename(final)
            self.saved_step = step
            self._remove_old()
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            shutil.rmtree(partial, ignore_errors=True)
            kept = complete_checkpoints(self.root)
            previous = f"{kept[-1].folder} is intact" if kept else "there is no earlier one"
            way_on = "go on with resume=true" if kept else "start anew with overwrite=true"
            free = shutil.disk_usage(self.root.parent).free / 2**20
            raise RunError(
                f"{final}: the checkpoint of step {step} could not be written ({' '.join(str(error).split())}; {free:.0f} MiB free "
                f"there); {previous}. {_remedy(error, self.root)}, then {way_on}."
            ) from error
        log.info("step %d: checkpoint %s%s", step, final, "" if value is None else f" (val/loss_total {value:.6g})")

    def _write_again(self, final: Path, partial: Path, states: dict[str, Any]) -> None:
        """The checkpoint with newer states of callbacks; the manifest, which names another hash, goes first and is written anew."""
        payload = torch.load(final / PAYLOAD, map_location="cpu", weights_only=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        torch.save(payload | {"callbacks": states}, partial / PAYLOAD)
        manifest = next(c.manifest for c in complete_checkpoints(self.root) if c.folder == final)
        write_manifest(partial, manifest.step, self.config_sha256, self.data_fingerprint, manifest.val_loss_total)
        shutil.rmtree(final)
        partial.rename(final)

    def _remove_old(self) -> None:
        kept = complete_checkpoints(self.root)
        stay = {c.step for c in kept[-self.config.keep_last :]} | ({b.step} if (b := best(kept)) else set())
        for checkpoint in kept:
            if checkpoint.step not in stay:
                (checkpoint.folder / "MANIFEST.json").unlink()  # first: what is half removed must not count
                shutil.rmtree(checkpoint.folder)


def _remedy(error: Exception, root: Path) -> str:
    number = getattr(error, "errno", None)
    if number in (errno.EACCES, errno.EPERM):
        return f"Let user id {os.geteuid()} write to {root} again (chown or chmod it)"
    if number == errno.EROFS:
        return f"Mount the disk of {root} for writing again"
    if number in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "Free some space"
    return f"See to the disk of {root}"
