"""When a run validates beside its cadence, and the row of eval_history.csv that each validation leaves."""

import lightning as L
from lightning.pytorch.callbacks import Callback

from training.checkpoints.run_directory import RunDirectory
from training.trainer.objective import Objective


class LastStepValidates(Callback):
    """The last step validates whatever the cadence: a stop that is asked for lets Lightning validate once more."""

    def __init__(self, total_steps: int) -> None:
        self.total_steps = total_steps

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Ask for the stop when the last step is done."""
        if trainer.global_step >= self.total_steps:
            trainer.should_stop = True


class ValidateFirst(Callback):
    """A resume begins with the validation that a stop has cut off; Lightning takes a step that it restores for validated."""

    def __init__(self, total_steps: int) -> None:
        self.total_steps = total_steps

    def on_train_start(self, trainer: L.Trainer, *_: object) -> None:
        """Validate as the training loop does between two batches, and end if no step is left."""
        validation = trainer.fit_loop.epoch_loop.val_loop
        validation.restarting = False
        trainer.validating = True
        validation.run()
        trainer.training = True
        trainer.should_stop = trainer.global_step >= self.total_steps


class ValidationHistory(Callback):
    """A row of eval_history.csv per validation."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Append what the objective measured."""
        assert isinstance(module, Objective)
        self.directory.append_validation(trainer.global_step, module.validated)
