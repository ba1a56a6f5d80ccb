"""The one training loop: Lightning's, with our callbacks and loggers."""

import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import lightning as L
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from tqdm.contrib.logging import logging_redirect_tqdm

from training.checkpoints.manifest import Checkpoint
from training.checkpoints.model_file import PAYLOAD
from training.checkpoints.run_directory import RunDirectory
from training.checkpoints.settings import config_sha256
from training.plan import Config, Data, Prepared
from training.trainer.checkpointing import SaveCheckpoints
from training.trainer.interruption import EndOnInterrupt
from training.trainer.loggers import JsonLines
from training.trainer.objective import Objective
from training.trainer.progress import WriteProgress
from training.trainer.validation import LastStepValidates, ValidateFirst


@dataclass(frozen=True)
class Habits:
    """What differs between the training loops of tasks."""

    validates: bool
    """Whether the run validates at all."""
    callbacks: Sequence[Callback]
    """Callbacks of its own, called before a checkpoint is written: their state is in it."""
    saves_best: bool = True
    """Whether each new best value of the validation is saved off the cadence too."""


def train(
    prepared: Prepared[Config, Data],
    module: Objective,
    data: L.LightningDataModule,
    directory: RunDirectory,
    checkpoint: Checkpoint | None,
    habits: Habits,
) -> None:
    """Train to the last step of the run, from a checkpoint if there is one.

    Raises: RunError where it cannot go on; KeyboardInterrupt after a signal, with a checkpoint of the step at hand.
    """
    config, length = prepared.config, prepared.length
    start = checkpoint.step if checkpoint else 0
    callbacks = _callbacks(prepared, directory, checkpoint, habits)
    _quieten_lightning()
    trainer = L.Trainer(
        accelerator=prepared.device,
        devices=1,
        precision="bf16-mixed" if config.trainer.precision == "bf16" else "32-true",
        max_steps=max(length.total_steps, start + 1),  # Lightning would skip a fit that has a validation alone to do
        max_epochs=-1,
        accumulate_grad_batches=length.accumulate_micro_steps,
        val_check_interval=config.trainer.val_every_steps * length.accumulate_micro_steps,
        check_val_every_n_epoch=None,
        limit_val_batches=1.0 if habits.validates else 0,
        num_sanity_val_steps=0,
        logger=[JsonLines(directory.path / "metrics.jsonl"), TensorBoardLogger(directory.path, name="tensorboard", version="")],
        log_every_n_steps=1,
        profiler=module.data_wait,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    ckpt_path = checkpoint.folder / PAYLOAD if checkpoint else None
    try:
        with logging_redirect_tqdm():  # log lines pass above the progress bar of a terminal
            trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    except SystemExit as error:
        if isinstance(error, SIGTERMException) or isinstance(error.__context__, KeyboardInterrupt):  # Lightning makes exits of both
            end = next(each for each in callbacks if isinstance(each, EndOnInterrupt))
            raise KeyboardInterrupt(end.outcome or f"at step {trainer.global_step}") from None
        raise


def _callbacks(
    prepared: Prepared[Config, Data], directory: RunDirectory, checkpoint: Checkpoint | None, habits: Habits
) -> list[Callback]:
    config, length = prepared.config, prepared.length
    save = SaveCheckpoints(
        directory.checkpoints,
        config.checkpoints,
        total_steps=length.total_steps,
        config_sha256=config_sha256(config),
        data_fingerprint=prepared.fingerprint,
        resumed_step=checkpoint.step if checkpoint else 0,
        saves_best=habits.saves_best,
    )
    end = EndOnInterrupt(save)
    progress = WriteProgress(directory.path, length.total_steps)
    callbacks: list[Callback] = [LastStepValidates(length.total_steps), *habits.callbacks, save, progress, end]
    if checkpoint is not None and habits.validates and is_owed_a_validation(prepared, checkpoint):
        callbacks.insert(0, ValidateFirst(length.total_steps))
    if sys.stdout.isatty():
        callbacks.append(TQDMProgressBar(refresh_rate=10))
    return callbacks


def is_owed_a_validation(prepared: Prepared[Config, Data], checkpoint: Checkpoint) -> bool:
    """Whether a run that validates ended between the step of this checkpoint and the validation that follows it."""
    is_due = checkpoint.step % prepared.config.trainer.val_every_steps == 0 or checkpoint.step == prepared.length.total_steps
    return is_due and checkpoint.manifest.val_loss_total is None


def _quieten_lightning() -> None:
    """Keep Lightning's advertisements and hints out of the log; its warnings stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # A resume without the early stopping of before is meant so.
    warnings.filterwarnings("ignore", message=r"Be aware that when using `ckpt_path`, callbacks used", category=UserWarning)
    # Lightning 2.6.6 with torch 2.15; nothing that a user could do about it.
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated", category=FutureWarning)
