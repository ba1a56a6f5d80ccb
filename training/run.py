"""The composition root: the only file that knows every room. One function per verb of the command line."""

import logging
import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from tqdm.contrib.logging import logging_redirect_tqdm

from training.cells import RunLength, Split
from training.checkpoints.callback import PAYLOAD, SaveCheckpoints
from training.checkpoints.interruption import EndOnInterrupt
from training.checkpoints.manifest import Checkpoint
from training.checkpoints.model_file import ModelCard, SavedModel, save_model
from training.checkpoints.progress import WriteProgress
from training.checkpoints.run_directory import JsonLines, RunDirectory, Start
from training.checkpoints.run_lock import refuse_if_held
from training.checkpoints.settings import config_sha256, settings_of
from training.checkpoints.trained_model import model_at
from training.checkpoints.training_log import TrainingLog
from training.config import RunConfig
from training.data.assemble import Cells, open_cells, perturbations_of
from training.data.datamodule import CellSetsDataModule
from training.data.perturbations import read_features, write_perturbed_genes
from training.data.reader import Genes
from training.data.set_aside import trained_on_measuring
from training.errors import UserError
from training.evaluation.baselines import fit_baselines
from training.evaluation.evaluate import evaluate as judge
from training.evaluation.model_predictor import ModelPredictor
from training.evaluation.predict import Provenance
from training.evaluation.predict import predict as write_predictions
from training.evaluation.report import write_report
from training.evaluation.requests import requests_of_split, requests_of_table
from training.evaluation.verdict import Judged, summarise, write_evaluation
from training.mkl import settle_vector_functions
from training.objectives.perturbation import Perturbation
from training.plan import build_objective, length_of, one_pass, plan_text
from training.text import some

log = logging.getLogger(__name__)


def fit(config: RunConfig) -> Path:
    """Train, from the start or from a checkpoint, and leave a complete run directory.

    Raises: UserError before anything is written; RunError where the run cannot go on.
    """
    settle_vector_functions()
    directory = RunDirectory(config.directory)
    _quieten_lightning()
    with TrainingLog() as record, directory.held():
        directory.refuse(config)
        accelerator = device_of(config)
        cells = open_cells(config.data, config.model.set_size, config.seed, config.evaluation)
        cells.check_trainable()
        log.info("%s", cells.summary())
        length = length_of(config, cells)
        checkpoint = directory.begin(config, _start(config, cells))
        record.open(directory.path / "training.log")
        try:
            log.info("%s", plan_text(config, cells))
            if checkpoint is None or checkpoint.step < length.total_steps or _is_owed_a_validation(config, checkpoint, length):
                with logging_redirect_tqdm():  # log lines pass above the progress bar of a terminal
                    _train(config, cells, directory, checkpoint, accelerator)
            model = model_at(directory, "best")
            save_model(model, directory.model_file)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(f"{interrupt}; {directory.way_on()}") from None
        log.info(
            "Done: %s holds the weights of step %d. Next: training evaluate %s", directory.model_file, model.step, directory.path
        )
    return directory.path


def _start(config: RunConfig, cells: Cells) -> Start:
    return Start(cells.fingerprint, length_of(config, cells).total_steps, device_of(config), asdict(cells.report))


def _train(config: RunConfig, cells: Cells, directory: RunDirectory, checkpoint: Checkpoint | None, accelerator: str) -> None:
    length = length_of(config, cells)
    module = build_objective(config, cells, length)
    start = checkpoint.step if checkpoint else 0
    data = CellSetsDataModule(cells, config.data, length, start_step=start, pin_memory=accelerator == "gpu")
    save = SaveCheckpoints(
        directory.checkpoints,
        config.checkpoints,
        total_steps=length.total_steps,
        config_sha256=config_sha256(config),
        data_fingerprint=cells.fingerprint,
        resumed_step=start,
    )
    end = EndOnInterrupt(save)
    progress = WriteProgress(directory.path, length.total_steps)
    callbacks: list[Callback] = [LastStepValidates(length.total_steps), ValidationHistory(directory), save, progress, end]
    if checkpoint is not None and _is_owed_a_validation(config, checkpoint, length):
        callbacks.insert(0, ValidateFirst(length.total_steps))
    if sys.stdout.isatty():
        callbacks.append(TQDMProgressBar(refresh_rate=10))
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=1,
        precision="bf16-mixed" if config.trainer.precision == "bf16" else "32-true",
        max_steps=max(length.total_steps, start + 1),  # Lightning would skip a fit that has a validation alone to do
        max_epochs=-1,
        accumulate_grad_batches=length.accumulate_micro_steps,
        val_check_interval=config.trainer.val_every_steps * length.accumulate_micro_steps,
        check_val_every_n_epoch=None,
        limit_val_batches=0 if config.data.validation == "none" else 1.0,
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
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    except SystemExit as error:
        if isinstance(error, SIGTERMException) or isinstance(error.__context__, KeyboardInterrupt):  # Lightning makes exits of both
            raise KeyboardInterrupt(end.outcome or f"at step {trainer.global_step}") from None
        raise


def _is_owed_a_validation(config: RunConfig, checkpoint: Checkpoint, length: RunLength) -> bool:
    """Whether the run ended between the step of this checkpoint and the validation that follows it."""
    is_due = checkpoint.step % config.trainer.val_every_steps == 0 or checkpoint.step == length.total_steps
    return is_due and config.data.validation != "none" and checkpoint.manifest.val_loss_total is None


def check(config: RunConfig, write_features: Path | None = None) -> None:
    """Everything but training: data, splits, features, memory, one forward and backward pass.

    `write_features` first writes a file of which genes each perturbation of the data names.

    Raises: UserError for everything that `fit` refuses.
    """
    if write_features is not None:
        write_perturbed_genes(write_features, perturbations_of(config.data), config.data.control, config.data.separator)
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
    cells = open_cells(config.data, config.model.set_size, config.seed, config.evaluation)
    cells.check_trainable()
    directory.starting_point(config, _start(config, cells))
    log.info("%s", cells.summary())
    log.info("%s", plan_text(config, cells))
    log.info("%s", one_pass(config, cells))
    log.info("Check passed: training fit would start.")


def show_plan(config: RunConfig) -> str:
    """The plan as `training show-config` prints it: without data, why it is not known."""
    try:
        return plan_text(config, open_cells(config.data, config.model.set_size, config.seed, config.evaluation))
    except UserError as refusal:
        return f"Plan: not known without the data: {refusal}"


def _quieten_lightning() -> None:
    """Keep Lightning's advertisements and hints out of the log; its warnings stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # Lightning 2.6.6 with torch 2.15; nothing that a user could do about it.
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated", category=FutureWarning)


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
        assert isinstance(module, Perturbation)
        self.directory.append_validation(trainer.global_step, module.validated)


def device_of(config: RunConfig) -> str:
    """`gpu` or `cpu`.

    Raises: UserError if the run asks for a GPU that is not there.
    """
    if config.trainer.device == "gpu" and not torch.cuda.is_available():
        raise UserError("trainer.device: gpu: torch sees no CUDA device here (accepted here: cpu, auto)")
    return "gpu" if torch.cuda.is_available() and config.trainer.device != "cpu" else "cpu"


def predict(
    run_directory: Path, overrides: list[str], output: Path, split: Split, table: Path | None, checkpoint: str | None
) -> None:
    """Write predicted cells of a split's conditions, or of the rows of a table.

    Raises: UserError for a run, a table or an output that cannot be used.
    """
    cells, predictor, saved, config = _trained(run_directory, overrides, checkpoint)
    requests = (
        requests_of_split(cells, split) if table is None else requests_of_table(table, cells, predictor.card.perturbation_names)
    )
    unknown = sorted({r.condition.perturbation for r in requests if not predictor.knows(r.condition.perturbation)})
    if unknown:
        raise UserError(f"{config.data.split}: split {split}: the model has no vector for {some(unknown)} (name others in --table)")
    asked = f"split {split}" if table is None else table.name
    write_predictions(
        cells, predictor, requests, output, Provenance(config.name, _source(run_directory, checkpoint), saved.step, asked)
    )


def evaluate(run_directory: Path, overrides: list[str], split: Split, checkpoint: str | None) -> str:
    """Judge the model beside the baselines on the cells of a split; write metrics.json, evaluation.csv and report.html.

    Returns: the verdict.
    Raises: UserError for a run that cannot be used, or a split without cells.
    """
    cells, predictor, saved, config = _trained(run_directory, overrides, checkpoint)
    baselines = fit_baselines(cells)
    measured = judge(cells, split, [predictor, *baselines], all_controls_measure=cells.set_aside is None)
    trained = saved.card.trained_conditions
    renamed = {(c.cell_type, c.perturbation) for c in cells.sameness.trained_as(cells.conditions(split), trained)}
    evaluation = summarise(
        measured,
        Judged(
            checkpoint=_source(run_directory, checkpoint),
            step=saved.step,
            split_file=config.data.split,
            split=split,
            representation=cells.judged,
            validation=RunDirectory(run_directory).config().data.validation,  # as the run had it, whatever is laid over it
            trained=tuple(sorted(renamed.union(trained))),
            controls_set_aside=not trained_on_measuring(saved.card.set_aside, cells.set_aside, measured.n_controls),
            answers={baseline.name: baseline.answers for baseline in baselines},
            seed=cells.evaluation.seed,
        ),
    )
    write_evaluation(run_directory, evaluation, measured.scores)
    log.info("%s", write_report(run_directory))
    return evaluation.verdict


def report(run_directory: Path) -> Path:
    """Write report.html from what the run directory holds.

    Raises: UserError if it is no run directory.
    """
    RunDirectory(run_directory).config()
    return write_report(run_directory)


def _source(run_directory: Path, checkpoint: str | None) -> str:
    """Where the weights come from, as people call it: an unfinished run has no model.pt, and its best checkpoint is taken."""
    return checkpoint or ("model.pt" if RunDirectory(run_directory).model_file.exists() else "best")


def _trained(
    run_directory: Path, overrides: list[str], checkpoint: str | None
) -> tuple[Cells, ModelPredictor, SavedModel, RunConfig]:
    settle_vector_functions()
    directory = RunDirectory(run_directory)
    config = directory.config(overrides)
    _refuse_idle_overrides(directory.config(), config)
    saved = model_at(directory, checkpoint)
    cells = open_cells(config.data, config.model.set_size, config.seed, config.evaluation, _columns_of(saved.card))
    _refuse_other_gem_groups(saved.card, cells, config)
    device = torch.device("cuda" if device_of(config) == "gpu" else "cpu")
    return cells, ModelPredictor(saved.build(), _with_file_features(saved.card, config), device), saved, config


# What may differ when a trained model is used: which cells, where they stand, and what computes. Genes are then taken by the
# model's names, as with `data.gene_alignment: by_name`, whatever that says.
USED_WITH = frozenset({
    "data.split", "data.perturbation_features_file", "data.perturbation_column", "data.cell_type_column", "data.gem_group_column",
    "data.control", "data.gene_name_column", "data.gene_alignment", "trainer.device",
})  # fmt: skip


def _refuse_idle_overrides(begun: RunConfig, config: RunConfig) -> None:
    """A setting of training has no effect on a model that is trained."""
    before = settings_of(begun)
    idle = {key: value for key, value in settings_of(config).items() if value != before[key] and key not in USED_WITH}
    if idle:
        why = f"would have no effect: the model is trained; leave it out (accepted here: {', '.join(sorted(USED_WITH))})"
        raise UserError("\n".join(f"command line: {key}: {value} {why}" for key, value in idle.items()))


def _with_file_features(card: ModelCard, config: RunConfig) -> ModelCard:
    """The card with the vectors of the features file added, so that perturbations nobody has seen can be asked for."""
    if config.data.perturbation_features_file is None:
        return card
    features = read_features(Path(config.data.perturbation_features_file))
    row_of = {name: row for row, name in enumerate(card.perturbation_names)}
    new = [row for row, name in enumerate(features.names) if name not in row_of]
    if features.vectors.shape[1] != card.sizes.perturbation_dim:
        raise UserError(
            f"{config.data.perturbation_features_file}: its vectors have {features.vectors.shape[1]} values "
            f"(accepted: {card.sizes.perturbation_dim}, as the model was trained)"
        )
    for vector, name in zip(features.vectors, features.names, strict=True):
        if name in row_of and not torch.equal(card.perturbation_vectors[row_of[name]], torch.from_numpy(vector)):
            raise UserError(f"{config.data.perturbation_features_file}: {name} has another vector than the model was trained with")
    names = (*card.perturbation_names, *(features.names[row] for row in new))
    return replace(card, perturbation_names=names, perturbation_vectors=torch.cat([
        card.perturbation_vectors, torch.from_numpy(features.vectors[new])
    ]))  # fmt: skip


def _columns_of(card: ModelCard) -> Genes:
    """What the model's columns are called."""
    decoder = None if card.sizes.num_decoder_genes is None else card.judged_names
    return Genes(card.sizes.input_dim, card.input_names, decoder)


def _refuse_other_gem_groups(card: ModelCard, cells: Cells, config: RunConfig) -> None:
    """A model that is told GEM groups knows them by their place among those it was trained on."""
    trained, found = card.gem_group_names, cells.gem_group_names
    if card.config.gem_group_embedding and trained != found:
        new, missing = [name for name in found if name not in trained], [name for name in trained if name not in found]
        raise UserError(
            f"{config.data.split}: its data have other GEM groups than the model was trained on ({len(found)} here, {len(trained)} "
            f"there; unknown to the model: {some(new) or 'none'}; missing here: {some(missing) or 'none'})"
        )
