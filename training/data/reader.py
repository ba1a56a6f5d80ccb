"""Where a run's representations lie in its files, and the reader that fetches them.

| data.embed_key | data.output_space | input           | genes of the decoder                                      |
|----------------|-------------------|-----------------|-----------------------------------------------------------|
| null           | gene, all         | X               | none                                                      |
| X_hvg          | gene, embedding   | obsm/X_hvg      | none                                                      |
| X_hvg          | all               | obsm/X_hvg      | X                                                         |
| another        | gene              | obsm/<that key> | obsm/X_hvg, or without it X at var/highly_variable        |
| another        | all               | obsm/<that key> | X                                                         |
| another        | embedding         | obsm/<that key> | none                                                      |
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np

from training.cells import FloatArray, IntArray, Representation
from training.config import CellSetsConfig
from training.data.gene_names import nothing_shared
from training.data.h5ad import H5adFile
from training.data.h5ad_errors import rewritten
from training.data.values import Source, check_values, read_values
from training.errors import UserError
from training.text import some

log = logging.getLogger(__name__)

FindSource = Callable[[H5adFile, CellSetsConfig], Source]


@dataclass(frozen=True)
class Genes:
    """What the columns of the representations are."""

    input_dim: int
    """D"""
    input_names: tuple[str, ...]
    """Gene names, or `X_state_0`, `X_state_1`, ... for an embedding."""
    decoder_names: tuple[str, ...] | None
    """Names of the G genes of the decoder, or None where the run has no gene decoder."""


@dataclass(frozen=True)
class H5adReader:
    """A `CellReader` of several files.

    Shape: file_of_cell (N,) positions in `files`, row_of_cell (N,) rows of that file, for the N cells of the table of cells.
    """

    files: tuple[H5adFile, ...]
    file_of_cell: IntArray
    row_of_cell: IntArray
    inputs: tuple[Source, ...]
    """Where the input lies in each file."""
    genes: tuple[Source, ...] | None
    """Where the genes of the decoder lie in each file, or None where the run has no gene decoder."""

    def read(self, representation: Representation, cells: IntArray) -> FloatArray:
        """Values in the order asked for, repeated where an index repeats.

        Shape: cells (N,) -> (N, D) for `input`, (N, G) for `genes`.
        Raises: UserError if a value is NaN, infinite or (for genes) negative, naming file, row and column.
        """
        sources = self.inputs if representation == "input" else self.genes
        assert sources is not None, "the run has no gene decoder"
        files, rows = self.file_of_cell[cells], self.row_of_cell[cells]
        used = np.unique(files)
        if len(used) == 1:
            return read_values(self.files[used[0]], sources[used[0]], rows)
        values = np.empty((len(cells), len(sources[0].names)), np.float32)
        for i in used:
            values[files == i] = read_values(self.files[i], sources[i], rows[files == i])
        return values


def open_reader(
    config: CellSetsConfig,
    files: Sequence[H5adFile],
    file_of_cell: IntArray,
    row_of_cell: IntArray,
    trained: Genes | None = None,
) -> tuple[H5adReader, Genes]:
    """Works out where the run's representations lie, checks their values, and opens a reader of them.

    Args:
        config: which representations, the names and alignment of genes, and what their values are.
        files: the files of the run; the first gives the order of the genes.
        file_of_cell: position in `files` of each cell in the table of cells.
        row_of_cell: row of each cell in its file.
        trained: the columns of a trained model: genes are then taken by name from every file, in this order, whatever else it has.

    Raises: UserError if a file lacks a representation or a gene of the trained model, if files do not agree on the columns, or if
        values are not what is expected.
    """
    places = _places(config)
    if trained is None:
        found = [_aligned(config, files, [place(file, config) for file in files]) for place in places]
    else:
        wanted = [trained.input_names, *([trained.decoder_names] if trained.decoder_names else [])]
        found = [
            tuple(_as_trained(config, file, place, names) for file in files) for place, names in zip(places, wanted, strict=True)
        ]
    for sources in found:
        for file, source in zip(files, sources, strict=True):
            check_values(file, source, config.values)
    inputs, decoder = found[0], found[1] if len(found) > 1 else None
    genes = Genes(len(inputs[0].names), inputs[0].names, decoder[0].names if decoder else None)
    return H5adReader(tuple(files), file_of_cell, row_of_cell, inputs, decoder), genes


def _places(config: CellSetsConfig) -> list[FindSource]:
    """What finds the input in a file, and the genes of the decoder where the run has one."""
    key = config.embed_key
    find_input = _all_genes if key is None else _hvg if key == "X_hvg" else _embedding
    if not config.has_gene_decoder:
        return [find_input]
    return [find_input, _all_genes if config.output_space == "all" else _hvg_or_marked]


def _all_genes(file: H5adFile, config: CellSetsConfig) -> Source:
    return Source(None, None, file.gene_names(config.gene_name_column), are_genes=True)


def _hvg(file: H5adFile, config: CellSetsConfig) -> Source:
    return Source("X_hvg", None, file.hvg_names(file.obsm_width("X_hvg"), config.gene_name_column), are_genes=True)


def _hvg_or_marked(file: H5adFile, config: CellSetsConfig) -> Source:
    if file.has_obsm("X_hvg"):
        return _hvg(file, config)
    if not file.has_var("highly_variable"):
        whole = f"set data.output_space: all to predict the {file.n_vars} genes of X, or " if file.has_x else ""
        mark = ("adata.var['highly_variable'] = adata.var_names.isin(GENES)",
                "adata.obsm['X_hvg'] = adata[:, adata.var['highly_variable']].X")  # fmt: skip
        raise UserError(
            f"{file.path}: data.output_space: {config.output_space} predicts highly variable genes beside data.embed_key: "
            f"{config.embed_key}, and the file has neither obsm/X_hvg nor var/highly_variable; {whole}add them, GENES being a list "
            f"of their names: {rewritten(file.path, *mark)}"
        )
    names, marked = file.gene_names(config.gene_name_column), file.highly_variable()
    return Source(None, marked, tuple(names[i] for i in marked), are_genes=True)


def _embedding(file: H5adFile, config: CellSetsConfig) -> Source:
    key = config.embed_key
    assert key is not None
    return Source(key, None, tuple(f"{key}_{i}" for i in range(file.obsm_width(key))), are_genes=False)


def _aligned(config: CellSetsConfig, files: Sequence[H5adFile], sources: Sequence[Source]) -> tuple[Source, ...]:
    """The sources with the same columns in every file."""
    first = sources[0]
    odd = next((i for i, source in enumerate(sources) if source.names != first.names), None)
    if odd is None:
        return tuple(sources)
    if not first.are_genes:
        raise UserError(
            f"{first.where} has {len(first.names)} columns in {files[0].path} and {len(sources[odd].names)} in {files[odd].path}; "
            "an embedding must have the same width in all files"
        )
    for file, source in zip(files, sources, strict=True):
        if set(first.names).isdisjoint(source.names):
            raise UserError(nothing_shared(config, files[0], first, file, source))
    if config.gene_alignment == "refuse":
        raise UserError(_difference(files[0], first, files[odd], sources[odd]))
    shared = set(first.names).intersection(*(source.names for source in sources))
    names = tuple(name for name in first.names if name in shared)
    if not names:
        raise UserError(
            f"no gene of {first.where} is in all of {some(file.path for file in files)}; "
            f"{some((f'{file.path} has {some(source.names, 3)}' for file, source in zip(files, sources, strict=True)), 3)}; "
            "name the genes alike in all files, or leave files out"
        )
    for file, source in zip(files, sources, strict=True):
        had, kept = len(source.names), len(names)
        log.info("%s: %d of %d genes of %s are in all files, %d left out", file.path, kept, had, source.where, had - kept)
    return tuple(_select(source, names) for source in sources)


def _select(source: Source, names: tuple[str, ...]) -> Source:
    if source.names == names:
        return source
    position = {name: i for i, name in enumerate(source.names)}
    chosen = np.array([position[name] for name in names])
    return replace(source, columns=chosen if source.columns is None else source.columns[chosen], names=names)


def _difference(file: H5adFile, first: Source, other_file: H5adFile, other: Source) -> str:
    n_first, n_other = len(set(first.names) - set(other.names)), len(set(other.names) - set(first.names))
    differing = [i for i, (a, b) in enumerate(zip_longest(first.names, other.names)) if a != b]
    a, b = (f"{s.names[differing[0]]!r}" if differing[0] < len(s.names) else "missing" for s in (first, other))
    kinds = f"{n_first} genes are only in the first, {n_other} only in the second" if n_first or n_other else "the order differs"
    by_name = "to keep the shared genes" if n_first or n_other else "to take them by name"
    return (
        f"{file.path} and {other_file.path} differ in the genes of {first.where}: column {differing[0]} is {a} in the first and "
        f"{b} in the second, {len(differing)} columns differ; {kinds}; set data.gene_alignment: by_name {by_name}"
    )


def _as_trained(config: CellSetsConfig, file: H5adFile, find: FindSource, names: tuple[str, ...]) -> Source:
    """The columns of a trained model, by name, in its order; an embedding has only a width."""
    if find in (_hvg, _hvg_or_marked) and file.has_x and not file.has_obsm("X_hvg"):
        find = _all_genes  # the model says which of them
    source = find(file, config)
    if not source.are_genes:
        if len(source.names) != len(names):
            raise UserError(
                f"{file.path}: {source.where} has {len(source.names)} columns (accepted: {len(names)}, as the model was trained on)"
            )
        return source
    missing = [name for name in names if name not in set(source.names)]
    if missing and source.obsm_key is not None and file.has_x:  # highly variable genes of its own: X has the model's
        in_x = _all_genes(file, config)
        if set(names) <= set(in_x.names):
            log.info("%s: %s lacks %d genes of the model; its columns are taken from X", file.path, source.where, len(missing))
            return _select(in_x, names)
    if missing:
        hint = "" if config.gene_name_column is None else f" in var column {config.gene_name_column!r}"
        raise UserError(
            f"{file.path}: {len(missing)} of the {len(names)} genes that the model was trained on are not in {source.where}: "
            f"{some(missing)}; accepted: all of them, in any order{hint} (the file has {some(source.names, 3)})"
        )
    if extra := len(source.names) - len(names):
        log.info("%s: %d genes of %s that the model was not trained on are left out", file.path, extra, source.where)
    return _select(source, names)
