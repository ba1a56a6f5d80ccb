"""One function per verb of the command line; they know the Task protocol, not the tasks."""

import logging
from pathlib import Path

from training.checkpoints.model_file import save_model
from training.checkpoints.run_directory import RunDirectory, Start
from training.checkpoints.run_lock import refuse_if_held
from training.checkpoints.trained_model import model_at
from training.checkpoints.training_log import TrainingLog
from training.config import Run
from training.errors import UserError
from training.mkl import settle_vector_functions
from training.plan import Config, Data, Prepared, device_of, one_pass, plan_text
from training.reporting.report import write_report
from training.tasks.task import Task, prepare, task_of
from training.trainer.fit import is_owed_a_validation, train

log = logging.getLogger(__name__)


def fit(config: Run) -> Path:
    """Train, from the start or from a checkpoint, and leave a complete run directory.

    Raises: UserError before anything is written; RunError where the run cannot go on.
    """
    settle_vector_functions()
    task, directory = task_of(config), RunDirectory(config.directory)
    with TrainingLog() as record, directory.held():
        directory.refuse(config)
        prepared = prepare(task, config, device_of(config))
        log.info("%s", task.summary(prepared.data))
        checkpoint = directory.begin(config, _start(task, prepared))
        record.open(directory.path / "training.log")
        validates = task.validates(config)
        try:
            log.info("%s", plan_text(task.plan(prepared)))
            is_whole = checkpoint is not None and checkpoint.step >= prepared.length.total_steps
            if checkpoint is None or not is_whole or (validates and is_owed_a_validation(prepared, checkpoint)):
                module = task.objective(prepared)
                data = task.batches(prepared, checkpoint.step if checkpoint else 0)
                train(prepared, module, data, directory, checkpoint, validates=validates)
            model = model_at(directory, "best")
            save_model(model, directory.model_file)
            task.finish(prepared, directory, model)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(f"{interrupt}; {directory.way_on()}") from None
        log.info(
            "Done: %s holds the weights of step %d. Next: training evaluate %s", directory.model_file, model.step, directory.path
        )
    return directory.path


def check(config: Run, write_features: Path | None = None) -> None:
    """Everything but training: data, splits, features, memory, one forward and backward pass.

    `write_features` first writes a file of which genes each perturbation of the data names.

    Raises: UserError for everything that `fit` refuses.
    """
    task = task_of(config)
    if write_features is not None:
        task.check_first(config, write_features)
        try:
            check(config)
        except BaseException:
            write_features.unlink()  # what is refused, or broken off, leaves nothing behind
            raise
        return
    settle_vector_functions()
    directory = RunDirectory(config.directory)
    refuse_if_held(directory.path)
    directory.refuse(config)
    prepared = prepare(task, config, device_of(config))
    directory.starting_point(config, _start(task, prepared))
    log.info("%s", task.summary(prepared.data))
    log.info("%s", plan_text(task.plan(prepared)))
    log.info("%s", one_pass(task.objective(prepared), task.first_batch(prepared)))
    log.info("Check passed: training fit would start.")


def show_plan(config: Run) -> str:
    """The plan as `training show-config` prints it: without data, why it is not known."""
    task = task_of(config)
    try:
        return plan_text(task.plan(prepare(task, config, "cpu")))
    except UserError as refusal:
        return f"Plan: not known without the data: {refusal}"


def predict(
    run_directory: Path, overrides: list[str], output: Path, split: str, table: Path | None, checkpoint: str | None
) -> None:
    """Write predictions of a trained model, of a split or of the rows of a table.

    Raises: UserError for a run, a table or an output that cannot be used, or a task that has no predictions.
    """
    task_of(RunDirectory(run_directory).config(overrides)).predict(run_directory, overrides, output, split, table, checkpoint)


def evaluate(run_directory: Path, overrides: list[str], split: str, checkpoint: str | None) -> str:
    """Judge the model beside the baselines on a split; write metrics.json and report.html.

    Returns: the verdict.
    Raises: UserError for a run that cannot be used, or a split without data.
    """
    verdict = task_of(RunDirectory(run_directory).config(overrides)).evaluate(run_directory, overrides, split, checkpoint)
    log.info("%s", report(run_directory))
    return verdict


def report(run_directory: Path) -> Path:
    """Write report.html from what the run directory holds.

    Raises: UserError if it is no run directory.
    """
    task = task_of(RunDirectory(run_directory).config())
    return write_report(run_directory, task.panels, task.sections(run_directory))


def _start(task: Task[Config, Data], prepared: Prepared[Config, Data]) -> Start:
    return Start(prepared.fingerprint, prepared.length.total_steps, prepared.device, task.record(prepared.data))
