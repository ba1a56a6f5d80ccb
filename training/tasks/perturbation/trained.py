"""What is done with a trained transition model: predictions, and a judgement beside baselines."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from training.cells import Split
from training.checkpoints.model_file import SavedModel
from training.checkpoints.run_directory import RunDirectory
from training.checkpoints.settings import settings_of
from training.checkpoints.trained_model import model_at
from training.config import RunConfig
from training.data.perturbations import read_features
from training.data.reader import Genes
from training.data.set_aside import trained_on_measuring
from training.errors import UserError
from training.mkl import settle_vector_functions
from training.models.state_transition import StateTransition
from training.plan import device_of
from training.tasks.perturbation.cells import Cells, open_cells
from training.tasks.perturbation.evaluation.baselines import fit_baselines
from training.tasks.perturbation.evaluation.evaluate import evaluate as judge
from training.tasks.perturbation.evaluation.model_predictor import ModelPredictor
from training.tasks.perturbation.evaluation.predict import Provenance
from training.tasks.perturbation.evaluation.predict import predict as write_predictions
from training.tasks.perturbation.evaluation.requests import requests_of_split, requests_of_table
from training.tasks.perturbation.evaluation.verdict import Judged, summarise, write_evaluation
from training.tasks.perturbation.spec import PerturbationSpec
from training.text import some


def predict(
    run_directory: Path, overrides: list[str], output: Path, split: str | None, table: Path | None, checkpoint: str | None
) -> None:
    """Write predicted cells of a split's conditions, or of the rows of a table.

    Raises: UserError for a run, a table or an output that cannot be used.
    """
    cells, predictor, saved, config = _trained(run_directory, overrides, checkpoint)
    requests = (
        requests_of_split(cells, _split(split))
        if table is None
        else requests_of_table(table, cells, predictor.spec.perturbation_names)
    )
    unknown = sorted({r.condition.perturbation for r in requests if not predictor.knows(r.condition.perturbation)})
    if unknown:
        raise UserError(
            f"{config.data.split}: split {_split(split)}: the model has no vector for {some(unknown)} (name others in --table)"
        )
    asked = f"split {_split(split)}" if table is None else table.name
    write_predictions(
        cells, predictor, requests, output, Provenance(config.name, _source(run_directory, checkpoint), saved.step, asked)
    )


def evaluate(run_directory: Path, overrides: list[str], split: str | None, checkpoint: str | None) -> str:
    """Judge the model beside the baselines on the cells of a split; write metrics.json and evaluation.csv.

    Returns: the verdict.
    Raises: UserError for a run that cannot be used, or a split without cells.
    """
    cells, predictor, saved, config = _trained(run_directory, overrides, checkpoint)
    spec = predictor.spec
    baselines = fit_baselines(cells)
    measured = judge(cells, _split(split), [predictor, *baselines], all_controls_measure=cells.set_aside is None)
    trained = spec.trained_conditions
    renamed = {(c.cell_type, c.perturbation) for c in cells.sameness.trained_as(cells.conditions(_split(split)), trained)}
    evaluation = summarise(
        measured,
        Judged(
            checkpoint=_source(run_directory, checkpoint),
            step=saved.step,
            split_file=config.data.split,
            split=_split(split),
            representation=cells.judged,
            validation=_begun(run_directory).data.validation,  # as the run had it, whatever is laid over it
            trained=tuple(sorted(renamed.union(trained))),
            controls_set_aside=not trained_on_measuring(spec.set_aside, cells.set_aside, measured.n_controls),
            answers={baseline.name: baseline.answers for baseline in baselines},
            seed=cells.evaluation.seed,
        ),
    )
    write_evaluation(run_directory, evaluation, measured.scores)
    return evaluation.verdict


def _begun(run_directory: Path) -> RunConfig:
    config = RunDirectory(run_directory).config()
    assert isinstance(config, RunConfig)
    return config


def _split(name: str | None) -> Split:
    name = name or "test"
    assert name in ("train", "val", "test")
    return cast(Split, name)


def _source(run_directory: Path, checkpoint: str | None) -> str:
    """Where the weights come from, as people call it: an unfinished run has no model.pt, and its best checkpoint is taken."""
    return checkpoint or ("model.pt" if RunDirectory(run_directory).model_file.exists() else "best")


def _trained(
    run_directory: Path, overrides: list[str], checkpoint: str | None
) -> tuple[Cells, ModelPredictor, SavedModel, RunConfig]:
    settle_vector_functions()
    directory = RunDirectory(run_directory)
    config, begun = directory.config(overrides), _begun(run_directory)
    assert isinstance(config, RunConfig)
    _refuse_idle_overrides(begun, config)
    saved = model_at(directory, checkpoint)
    spec = saved.spec
    assert isinstance(spec, PerturbationSpec)
    cells = open_cells(config.data, config.data.set_size, config.seed, config.evaluation, _columns_of(spec))
    _refuse_other_gem_groups(spec, cells, config)
    device = torch.device("cuda" if device_of(config) == "gpu" else "cpu")
    model = saved.build()
    assert isinstance(model, StateTransition)
    return cells, ModelPredictor(model, _with_file_features(spec, config), device), saved, config


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


def _with_file_features(spec: PerturbationSpec, config: RunConfig) -> PerturbationSpec:
    """The spec with the vectors of the features file added, so that perturbations nobody has seen can be asked for."""
    if config.data.perturbation_features_file is None:
        return spec
    features = read_features(Path(config.data.perturbation_features_file))
    row_of = {name: row for row, name in enumerate(spec.perturbation_names)}
    new = [row for row, name in enumerate(features.names) if name not in row_of]
    if features.vectors.shape[1] != spec.sizes.perturbation_dim:
        raise UserError(
            f"{config.data.perturbation_features_file}: its vectors have {features.vectors.shape[1]} values "
            f"(accepted: {spec.sizes.perturbation_dim}, as the model was trained)"
        )
    for vector, name in zip(features.vectors, features.names, strict=True):
        if name in row_of and not torch.equal(spec.perturbation_vectors[row_of[name]], torch.from_numpy(vector)):
            raise UserError(f"{config.data.perturbation_features_file}: {name} has another vector than the model was trained with")
    names = (*spec.perturbation_names, *(features.names[row] for row in new))
    return replace(spec, perturbation_names=names, perturbation_vectors=torch.cat([
        spec.perturbation_vectors, torch.from_numpy(features.vectors[new])
    ]))  # fmt: skip


def _columns_of(spec: PerturbationSpec) -> Genes:
    """What the model's columns are called."""
    decoder = None if spec.sizes.num_decoder_genes is None else spec.judged_names
    return Genes(spec.sizes.input_dim, spec.input_names, decoder)


def _refuse_other_gem_groups(spec: PerturbationSpec, cells: Cells, config: RunConfig) -> None:
    """A model that is told GEM groups knows them by their place among those it was trained on."""
    trained, found = spec.gem_group_names, cells.gem_group_names
    if spec.config.gem_group_embedding and trained != found:
        new, missing = [name for name in found if name not in trained], [name for name in trained if name not in found]
        raise UserError(
            f"{config.data.split}: its data have other GEM groups than the model was trained on ({len(found)} here, {len(trained)} "
            f"there; unknown to the model: {some(new) or 'none'}; missing here: {some(missing) or 'none'})"
        )
