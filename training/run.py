"""One function per verb of the command line; they know the Task protocol, not the tasks."""

import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from training.checkpoints.manifest import complete_checkpoints
from training.checkpoints.model_file import load_model, save_model
from training.checkpoints.run_directory import RunDirectory, Start
from training.checkpoints.run_lock import refuse_if_held
from training.checkpoints.training_log import TrainingLog
from training.config import Run
from training.config_text import commented_yaml
from training.errors import RunError, UserError
from training.mkl import settle_vector_functions
from training.optim.param_groups import build_optimizer
from training.plan import Config, Data, Prepared, device_of, one_pass, plan_text
from training.reporting.report import write_report
from training.run_facts import read_facts
from training.tasks.task import Task, prepare, task_of
from training.trainer.fit import is_owed_a_validation, train

log = logging.getLogger(__name__)

OVERFIT_STEPS, OVERFIT_LR = 200, 3e-3


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
                train(prepared, module, data, directory, checkpoint, task.habits(prepared, directory, checkpoint))
            model = task.kept(prepared, directory)
            save_model(model, directory.model_file)
            task.finish(prepared, directory, model)
            directory.finished(complete_checkpoints(directory.checkpoints)[-1].step)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(f"{interrupt}; {directory.way_on()}") from None
        next_step = f" Next: training evaluate {directory.path}" if task.can_evaluate else ""
        log.info("Done: %s holds the weights of step %d.%s", directory.model_file, model.step, next_step)
    return directory.path


def check(config: Run, write_features: Path | None = None, overfits: bool = False) -> None:
    """Everything but training: data, splits, features, memory, one forward and backward pass.

    `write_features` first writes a file of which genes each perturbation of the data names; `overfits` trains on one batch as well.

    Raises: UserError for everything that `fit` refuses.
    """
    task = task_of(config)
    if write_features is not None:
        task.check_first(config, write_features)
        try:
            check(config, overfits=overfits)
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
    if overfits:
        log.info("%s", overfit(config))
    log.info("Check passed: training fit would start.")


def overfit(config: Run) -> str:
    """Train on one batch again and again, on the CPU: a model, a loss and an optimizer that work come near its floor in seconds.

    Raises: UserError if the loss does not fall to half within `OVERFIT_STEPS` steps.
    """
    settle_vector_functions()
    task = task_of(config)
    prepared = prepare(task, config, "cpu")
    module, batch = task.objective(prepared), task.first_batch(prepared)
    optimizer = build_optimizer(module.model, module.optim.model_copy(update={"lr": OVERFIT_LR}))
    losses = []
    for step in range(OVERFIT_STEPS):
        module.on_train_batch_start(batch, step)
        optimizer.zero_grad()
        loss: Any = module.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    told = f"One batch, {OVERFIT_STEPS} steps of AdamW at {OVERFIT_LR:g}: loss {losses[0]:.5g} -> {min(losses):.5g}"
    if not min(losses) < losses[0] / 2:
        raise UserError(f"{told}: it does not fall to half; look at the scale of the data, the loss and the model's settings")
    return told


def reproduce(run_directory: Path, fresh: Path) -> str:
    """Train a run again in a fresh process and compare weights and history to the bit; the new run directory is `fresh`.

    Returns: what was compared.
    Raises: UserError for a directory without a finished run; RunError if something differs, or the new run fails.
    """
    directory = RunDirectory(run_directory)
    config = directory.config()
    if not directory.model_file.exists():
        raise UserError(f"{run_directory}: has no model.pt: only a finished run can be reproduced (finish it: resume=true)")
    if fresh.exists():
        raise UserError(f"{fresh}: exists already (accepted: a new folder)")
    fresh.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir=fresh.absolute().parent, encoding="utf-8") as file:
        file.write(commented_yaml(config))  # as it is read today: an older config.yaml says less
        file.flush()
        words = [file.name, f"output_dir={fresh.absolute().parent}", f"name={fresh.name}"]
        done = subprocess.run([sys.executable, "-P", "-m", "training", "fit", *words], stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise (UserError if done.returncode == 2 else RunError)(f"the run of {fresh} ended with exit code {done.returncode}")
    again, differing = RunDirectory(fresh), []
    first, second = load_model(directory.model_file), load_model(again.model_file)
    if (first.step, first.weights.keys()) != (second.step, second.weights.keys()) or not all(
        torch.equal(weight, second.weights[name]) for name, weight in first.weights.items()
    ):
        differing.append(f"weights ({directory.model_file} and {again.model_file})")
    if directory.history() != again.history():
        differing.append("validations (eval_history.csv)")
    if differing:
        facts = [read_facts(path) for path in (run_directory, fresh)]
        kinds = " and ".join(f"{f.latest.device}, {f.versions.get('torch')}, {f.git_commit}" for f in facts if f is not None)
        raise RunError(
            f"{config.name}: not reproduced: {', '.join(differing)} differ (device, torch and commit: {kinds}; "
            "the same number of threads is needed too: OMP_NUM_THREADS)"
        )
    validations = len(directory.history())
    return f"{config.name}: reproduced to the bit: {len(first.weights)} weights of step {first.step}, {validations} validations"


def show_plan(config: Run) -> str:
    """The plan as `training show-config` prints it: without data, why it is not known."""
    task = task_of(config)
    try:
        return plan_text(task.plan(prepare(task, config, "cpu")))
    except UserError as refusal:
        return f"Plan: not known without the data: {refusal}"


def predict(
    run_directory: Path, overrides: list[str], output: Path, split: str | None, table: Path | None, checkpoint: str | None
) -> None:
    """Write predictions of a trained model, of a split or of the rows of a table.

    Raises: UserError for a run, a table or an output that cannot be used, or a task that has no predictions.
    """
    task_of(RunDirectory(run_directory).config(overrides)).predict(run_directory, overrides, output, split, table, checkpoint)


def evaluate(run_directory: Path, overrides: list[str], split: str | None, checkpoint: str | None) -> str:
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
    rule = prepared.config.early_stopping.rule
    return Start(prepared.fingerprint, prepared.length.total_steps, prepared.device, rule, task.record(prepared.data))
