"""From a configuration to the cells of a run: files, table, split, values and perturbation vectors, put together and checked."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from training.cells import CellReader, CellSet, Condition, IntArray, Representation, Sizes, Split
from training.config import CellSetsConfig, EvaluationConfig
from training.data.h5ad import H5adFile
from training.data.labels import check_labels
from training.data.leaks import Sameness, warn_of_constant_features
from training.data.perturbations import PerturbationFeatures, features_for
from training.data.reader import Genes, open_reader
from training.data.set_aside import SetAside, set_controls_aside, with_content
from training.data.set_checks import check_training_sets, check_validation_sets, warn_of_sets
from training.data.sets import Groups, SetPlan, group_cells, validation_batches
from training.data.split_report import (
    LeftOut,
    SplitReport,
    cells_in_no_split,
    cells_without_features,
    conditions_in_sets,
    count_sets,
    summary_of,
)
from training.data.splits import assign_splits, find_files, read_split_file
from training.data.table import SPLITS, UNUSED, BoolArray, CellTable, key, read_table
from training.errors import UserError
from training.text import some

log = logging.getLogger(__name__)

AS_DEFAULT = EvaluationConfig()


@dataclass(frozen=True)
class Cells:
    """The cells of a run, and everything that is known of them without a model."""

    config: CellSetsConfig
    evaluation: EvaluationConfig
    set_size: int
    seed: int
    table: CellTable
    """Cells of the three splits alone, and the controls that are set aside to measure with."""
    reader: CellReader
    features: PerturbationFeatures
    sizes: Sizes
    input_names: tuple[str, ...]
    """Names of the columns of the input representation."""
    judged: Representation
    """What metrics compare: `genes` where there is a gene decoder, else `input`."""
    judged_names: tuple[str, ...]
    set_aside: SetAside | None
    """Which controls are set aside to measure with; None with `evaluation.control_fraction: null`."""
    fingerprint: str
    """Of the files' content, the split and the perturbation vectors; where the files lie does not count."""
    left_out: tuple[LeftOut, ...] = ()
    """Cells of the files that are not in the table."""

    @property
    def gem_group_names(self) -> tuple[str, ...]:
        """Names by code of `table.gem_group`; none where the run names no such column."""
        return () if self.table.gem_group is None else self.table.gem_group.names

    def conditions(self, split: Split) -> tuple[Condition, ...]:
        """Perturbed conditions of a split, sorted; the control is none."""
        return tuple(c for s, c in self._by_condition if s == split and c.perturbation != self.table.control)

    def cells_of(self, condition: Condition, split: Split) -> IntArray:
        """Cells of a condition in a split. Shape: (N,)."""
        return self._by_condition.get((split, condition), np.empty(0, np.int64))

    def controls_of(self, condition: Condition) -> IntArray:
        """Controls of the condition's cell type in its data set that may be trained on. Shape: (N,)."""
        return self.cells_of(replace(condition, perturbation=self.table.control), "train")

    def set_aside_of(self, condition: Condition) -> IntArray:
        """Controls of the condition's cell type in its data set that only measure. Shape: (N,)."""
        return self._set_aside.get(replace(condition, perturbation=self.table.control), np.empty(0, np.int64))

    def plan(self, batch_size: int) -> SetPlan:
        """The stream of training batches.

        Raises: UserError if there is no cell to train on, or no group fills a set.
        """
        return SetPlan(self._training, self.set_size, batch_size, self.seed)

    def validation(self, batch_size: int) -> list[list[CellSet]]:
        """Batches of the fixed validation sets; none with `validation: none`.

        Raises: UserError if the split that validates has no cells.
        """
        if self._validation is None:
            return []
        return validation_batches(self._validation, self.set_size, batch_size, self.seed, self.config.max_validation_sets)

    def check_trainable(self) -> None:
        """Refuse before anything is written what `plan` and `validation` would refuse, and warn of what is legal but poor.

        Raises: UserError naming the split file and what is missing in it.
        """
        used = [groups for groups in (self._training, self._validation) if groups is not None]
        warn_of_sets(self.table, used, self.config, self.set_size)

    @property
    def trained_on(self) -> tuple[Condition, ...]:
        """Perturbed conditions that training sees: those of `train` with a cell in a set; sorted."""
        return conditions_in_sets(self.table, self._groups["train"])

    @cached_property
    def sameness(self) -> Sameness:
        """Which perturbations are one to the model."""
        return Sameness(self.config, self.features)

    @cached_property
    def report(self) -> SplitReport:
        """What is in which split and in which sets, and what of the held-out conditions is seen in training."""
        seen = {(c.cell_type, c.perturbation): c for c in self.trained_on}
        held_out = [(split, condition) for split in SPLITS[1:] for condition in self.conditions(split)]
        trained_as = self.sameness.trained_as((condition for _, condition in held_out), seen)
        leaks = []
        for split, condition in held_out:
            if condition in trained_as:
                pair, same = trained_as[condition]
                other = seen[pair]
                where = f"in data set {other.dataset}" if other.dataset != condition.dataset else "there too"
                named = "" if same == "name" else f" as {other.perturbation!r} in {other.cell_type!r}, which has the same {same}"
                leaks.append(f"{split}: {condition}: trained on {where}{named} ({len(self.cells_of(other, 'train'))} cells)")
        rows, training_sets = count_sets(self.table, self._by_condition, self._groups, self.set_size)
        return SplitReport(
            rows,
            tuple(leaks),
            unseen=self.sameness.never_trained((c.perturbation for _, c in held_out), (name for _, name in seen)),
            training_sets=training_sets,
            in_no_set=tuple(f"{split}: {words}" for split in SPLITS for words in self._in_no_set(split)),
            not_judged=tuple(str(c) for c in self.conditions("test") if len(self.cells_of(c, "test")) < 2),
            left_out=self.left_out,
        )

    def summary(self) -> str:
        """The report as text."""
        return summary_of(self.report, self.config.validation)

    @cached_property
    def _by_condition(self) -> dict[tuple[Split, Condition], IntArray]:
        """Cells of each condition in each split; sorted, since names are."""
        by_split = ((split, _by_condition(self.table, self.table.is_in(split))) for split in SPLITS)
        return {(split, condition): cells for split, found in by_split for condition, cells in found}

    @cached_property
    def _set_aside(self) -> dict[Condition, IntArray]:
        """Controls that are set aside, by the condition that a control is."""
        return dict(_by_condition(self.table, self.table.is_set_aside))

    @cached_property
    def _groups(self) -> dict[Split, Groups]:
        """How each split is cut, or would be."""
        return {split: group_cells(self.table, self._sampled(split), self.config.control_matching) for split in SPLITS}

    @cached_property
    def _training(self) -> Groups:
        check_training_sets(self.table, self._groups["train"], self.config, self.set_size)
        return self._said("train")

    @cached_property
    def _validation(self) -> Groups | None:
        if self._validating is None:
            return None
        check_validation_sets(self.table, self._groups, self._validating, self.config)
        return self._said(self._validating)

    @property
    def _validating(self) -> Split | None:
        """The split that validates."""
        by_setting: dict[str, Split] = {"split": "val", "test": "test"}
        return by_setting.get(self.config.validation)

    def _sampled(self, split: Split) -> BoolArray:
        """Cells of a split that are in sets."""
        chosen = self.table.is_in(split)
        return chosen if self.config.include_controls else chosen & ~self.table.is_control

    def _in_no_set(self, split: Split) -> Iterator[str]:
        """Conditions of a split that is trained or validated on, none of whose cells is in a set."""
        if split in ("train", self._validating):
            in_sets = set(conditions_in_sets(self.table, self._groups[split]))
            for condition in self.conditions(split):
                if condition not in in_sets:
                    n = len(self.cells_of(condition, split))
                    yield f"{condition} ({n} cell{'s' * (n > 1)})"

    def _said(self, split: Split) -> Groups:
        """The groups of a split; says which have controls from another GEM group."""
        groups = self._groups[split]
        if groups.n_unmatched:
            log.info(
                "%s: %d of %d groups have no control in their GEM group; their controls share the cell type",
                split, groups.n_unmatched, len(groups.sizes),
            )  # fmt: skip
        return groups


def open_cells(
    config: CellSetsConfig, set_size: int, seed: int, evaluation: EvaluationConfig = AS_DEFAULT, trained: Genes | None = None
) -> Cells:
    """Read the split file and the labels of all cells, open the values, and check that they fit together.

    With the columns of a `trained` model its genes are taken from the files by name, in its order.

    Raises: UserError naming file, key or column, value, and what is accepted.
    """
    split = read_split_file(Path(config.split))
    files = {name: [H5adFile(path) for path in paths] for name, paths in find_files(split).items()}
    table = read_table(files, config)
    table = replace(table, split=assign_splits(split, table))
    left_out = cells_in_no_split(table)
    table = table.keep(table.split != UNUSED)
    check_labels(table, config)
    features, dropped = features_for(config, table.perturbation.names)
    warn_of_constant_features(config, features)
    left_out += cells_without_features(table, dropped)
    table = table.keep(~np.isin(table.perturbation.codes, [table.perturbation.names.index(name) for name in dropped]))
    _check_controls(table, config)
    _report_mixed_files(table)
    by_path = {str(file.path): file for group in files.values() for file in group}
    used = [by_path[path] for path in table.file.names]
    names, fingerprints = _control_names(table, used), [file.fingerprint() for file in used]
    table, set_aside = set_controls_aside(table, names, evaluation)
    reader, genes = open_reader(config, used, table.file.codes.astype(np.int64), table.row, trained)
    if set_aside is not None:
        set_aside = with_content(set_aside, table, names, reader, fingerprints)
    return Cells(
        config=config,
        evaluation=evaluation,
        set_size=set_size,
        seed=seed,
        table=table,
        reader=reader,
        features=features,
        sizes=Sizes(
            input_dim=genes.input_dim,
            perturbation_dim=features.vectors.shape[1],
            num_decoder_genes=None if genes.decoder_names is None else len(genes.decoder_names),
            num_gem_groups=0 if table.gem_group is None else len(table.gem_group.names),
        ),
        input_names=genes.input_names,
        judged="input" if genes.decoder_names is None else "genes",
        judged_names=genes.input_names if genes.decoder_names is None else genes.decoder_names,
        set_aside=set_aside,
        fingerprint=_fingerprint(fingerprints, table, features),
        left_out=left_out,
    )


def perturbations_of(config: CellSetsConfig) -> tuple[str, ...]:
    """Names of all perturbations in the files of a split file, the control among them, sorted; reads no values.

    Raises: UserError as `open_cells` does for split file, files and columns.
    """
    split = read_split_file(Path(config.split))
    files = {name: [H5adFile(path) for path in paths] for name, paths in find_files(split).items()}
    return read_table(files, config).perturbation.names


def _by_condition(table: CellTable, chosen: BoolArray) -> Iterator[tuple[Condition, IntArray]]:
    """The chosen cells of each condition, in the order of conditions."""
    cells = np.flatnonzero(chosen)
    condition = key(table.dataset, table.cell_type, table.perturbation)[cells]
    order = np.argsort(condition, kind="stable")
    for own in np.split(cells[order], np.flatnonzero(np.diff(condition[order])) + 1) if len(cells) else ():
        yield table.condition(own[0]), own


def _control_names(table: CellTable, files: list[H5adFile]) -> list[str]:
    """Names of the controls, in the order of the table."""
    controls = np.flatnonzero(table.is_control)
    names = np.empty(len(controls), object)
    for code, file in enumerate(files):
        here = np.equal(table.file.codes[controls], code)
        names[here] = file.cell_names(table.row[controls[here]])
    return names.tolist()


def _check_controls(table: CellTable, config: CellSetsConfig) -> None:
    """Refuse a cell type whose perturbed cells have no control to start from."""
    cell_type = key(table.dataset, table.cell_type)
    for missing in np.setdiff1d(cell_type, cell_type[table.is_control]):
        cells = np.flatnonzero(cell_type == missing)
        condition = table.condition(cells[0])
        paths = sorted({table.file.names[code] for code in np.unique(table.file.codes[cells])})
        raise UserError(
            f"{some(paths)}: the {len(cells)} cells of cell type {condition.cell_type!r} have no control: none of them is "
            f"{config.control!r} in obs/{config.perturbation_column}; add controls, or leave the cell type out of {config.split}"
        )


def _report_mixed_files(table: CellTable) -> None:
    """Say which cell types have cells of several files in their sets: cell-load would keep the files apart."""
    pairs = np.unique(np.stack([table.dataset.codes, table.cell_type.codes, table.file.codes]), axis=1)
    contexts = Counter((table.dataset.names[dataset], table.cell_type.names[cell_type]) for dataset, cell_type, _ in pairs.T)
    mixed = [f"{dataset}.{cell_type} ({n})" for (dataset, cell_type), n in contexts.items() if n > 1]
    if mixed:
        log.info(
            "cells of several files share sets and controls in %s; name the files as data sets to keep them apart", some(mixed)
        )


def _fingerprint(files: list[str], table: CellTable, features: PerturbationFeatures) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.encode())
    for labels in (table.dataset, table.cell_type, table.perturbation, table.gem_group):
        if labels is not None:
            digest.update("\0".join(labels.names).encode() + labels.codes.tobytes())
    for array in (table.file.codes, table.row, table.split, features.vectors):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update("\0".join(features.names).encode())
    return digest.hexdigest()[:32]
