"""What the model is told of a perturbation: a vector for each, one-hot or from a file.

How many perturbations of the data a file covers is logged. A control that the file lacks gets zeros: nothing is perturbed, which is
the origin of features that say what is. STATE does the same, silently and for every missing name; here others are refused.
"""

import errno
import io
import logging
import os
import pickle
import zipfile
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch

from training.cells import FloatArray
from training.config import CellSetsConfig
from training.data.combinations import has_idle_separator, parts
from training.data.h5ad_errors import why_no_file
from training.errors import RunError, UserError, did_you_mean
from training.text import some

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PerturbationFeatures:
    """One vector a perturbation.

    Shape: vectors (number of names, P), float32; `names` are sorted.
    """

    names: tuple[str, ...]
    vectors: FloatArray

    def index(self, name: str) -> int:
        """Row of the perturbation in `vectors`.

        Raises: UserError for a perturbation that has no vector.
        """
        at = bisect_left(self.names, name)
        if at == len(self.names) or self.names[at] != name:
            raise UserError(
                f"perturbation {name!r} has no vector{did_you_mean(name, self.names)}; "
                f"the {len(self.names)} known are {some(self.names)}"
            )
        return at


def one_hot(names: Iterable[str]) -> PerturbationFeatures:
    """A vector for each name (repeats count once) that is 1 in its own place and 0 elsewhere."""
    known = tuple(sorted(set(names)))
    return PerturbationFeatures(known, np.eye(len(known), dtype=np.float32))


def read_features(path: Path) -> PerturbationFeatures:
    """Features from a file of name -> vector: a dictionary of tensors (.pt), or arrays (.npz, .safetensors).

    A .pt file is loaded with `weights_only=True`: it may hold tensors, but run no code.

    Raises: UserError if the file is missing, unreadable or empty, or its vectors differ in length or are not finite.
    """
    vectors = {_name(path, name): _vector(path, name, values) for name, values in _load(path).items()}
    if not vectors:
        raise UserError(f"{path}: the file is empty; accepted: one vector of features a perturbation")
    names = tuple(sorted(vectors))
    first = names[0]
    other = next((name for name in names if len(vectors[name]) != len(vectors[first])), None)
    if other is not None:
        raise UserError(
            f"{path}: vectors differ in length: {first!r} has {len(vectors[first])} values, {other!r} has {len(vectors[other])}; "
            "accepted: one length"
        )
    return PerturbationFeatures(names, np.stack([vectors[name] for name in names]))


def features_for(config: CellSetsConfig, names: Iterable[str]) -> tuple[PerturbationFeatures, tuple[str, ...]]:
    """Features of the perturbations in the data, and those whose cells are to be left out for want of features.

    Without a features file: one-hot. With one, a control that it lacks gets zeros; for other perturbations that it lacks
    `data.missing_features` decides.

    Raises: UserError if perturbations lack features and the configuration says no more, or if all of them do.
    """
    wanted = tuple(sorted(set(names)))
    if config.perturbation_features_file is None:
        return one_hot(wanted), ()
    path = Path(config.perturbation_features_file)
    known = read_features(path)
    row = {name: i for i, name in enumerate(known.names)}
    perturbations = [name for name in wanted if name != config.control]
    missing = tuple(name for name in perturbations if name not in row)
    covered = f"{len(perturbations) - len(missing)} of {len(perturbations)} perturbations of the data have features"
    if missing and (config.missing_features == "refuse" or len(missing) == len(perturbations)):
        raise UserError(
            f"{path}: {covered}; missing: {some(missing, 50)}{did_you_mean(missing[0], known.names)}; "
            f"the file has {some(known.names, 5)}; name them alike, or set data.missing_features to zeros or drop"
            + (" (which needs at least one with features)" if len(missing) == len(perturbations) else "")
        )
    dropped = missing if config.missing_features == "drop" else ()
    kept = tuple(name for name in wanted if name not in set(dropped))
    vectors = np.zeros((len(kept), known.vectors.shape[1]), np.float32)
    for i, name in enumerate(kept):
        if name in row:
            vectors[i] = known.vectors[row[name]]
    log.info("%s: %s, %d wide", path, covered, vectors.shape[1])
    if config.control in kept and config.control not in row:
        log.info("%s: the control %r has no features and gets zeros", path, config.control)
    if missing:
        fate = "left out" if dropped else "given zeros, so the model cannot tell them apart (nor from a control with zeros)"
        log.warning("%s: perturbations without features are %s: %s", path, fate, some(missing))
    return PerturbationFeatures(kept, vectors), dropped


def write_perturbed_genes(path: Path, names: Iterable[str], control: str, separator: str | None) -> None:
    """Writes features that say which genes are perturbed: a vector of 0 and 1 with a place for each gene, sorted.

    `KLF1+TGFBR2` has two ones. The control and the parts of its label count for nothing: `KLF1+control` is `KLF1`, and the control
    is zeros. The genes found are logged; so are labels in which the separator joins nothing, each of which counts as one gene.

    Raises:
        UserError: for a label that the format cannot hold, labels without any gene, a file name that ends otherwise than .npz,
            .pt or .safetensors, or a file that exists or cannot be made.
        RunError: if the disk is full. Nothing is left behind.
    """
    _check_target(path)
    genes_of = {name: parts(name, control, separator) for name in sorted(set(names))}
    place = {gene: i for i, gene in enumerate(sorted({gene for genes in genes_of.values() for gene in genes}))}
    if not place:
        raise UserError(
            f"{path}: no gene is perturbed in the labels {some(genes_of) or '(none)'} (control {control!r}); nothing to write"
        )
    if idle := [name for name in genes_of if has_idle_separator(name, separator)]:
        log.warning(
            "%s: data.separator %r stands inside brackets or beside nothing, and joins nothing there, in the labels %s",
            path, separator, some(map(repr, idle)),
        )  # fmt: skip
    log.info("%s: %d perturbed genes found in the labels: %s", path, len(place), some(place, 50))
    vectors = {name: np.zeros(len(place), np.float32) for name in genes_of}
    for name, genes in genes_of.items():
        vectors[name][[place[gene] for gene in genes]] = 1
    _write_new(path, _encoded(path, vectors))


def _check_target(path: Path) -> None:
    _check_suffix(path)
    if os.path.lexists(path):
        kind = "folder" if os.path.isdir(path) else "file"
        raise UserError(
            f"{path}: there is a {kind} of this name already, which is not overwritten; remove it or choose another name"
        )
    if not os.path.isdir(path.parent):
        raise UserError(f"{path}: there is no folder {path.parent}; make it first")


def _encoded(path: Path, vectors: Mapping[str, FloatArray]) -> bytes:
    unfit = [
        name
        for name in vectors
        if (path.suffix == ".safetensors" and name == "__metadata__")
        or (path.suffix == ".npz" and (name.endswith(".npy") or "\0" in name))  # numpy and zipfile would change it
    ]
    if unfit:
        raise UserError(f"{path}: a {path.suffix} file cannot hold perturbations named {some(map(repr, unfit))}; write a .pt file")
    if path.suffix == ".safetensors":
        return safetensors.numpy.save(dict(vectors))
    stream = io.BytesIO()
    if path.suffix == ".pt":
        torch.save({name: torch.from_numpy(vector) for name, vector in vectors.items()}, stream)
    else:  # np.savez takes names as keywords, and has some of its own
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, vector in vectors.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, vector)
    return stream.getvalue()


def _write_new(path: Path, content: bytes) -> None:
    try:
        with path.open("xb") as stream:
            try:
                stream.write(content)
                stream.flush()
            except BaseException:
                path.unlink()
                raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise RunError(f"{path}: the file cannot be written ({error.strerror}); nothing is left of it") from error
        raise UserError(f"{path}: the file cannot be made ({error.strerror})") from error


def _check_suffix(path: Path) -> None:
    if path.suffix not in (".npz", ".pt", ".safetensors"):
        raise UserError(f"{path}: features end in {path.suffix or 'nothing'!r}; accepted: .npz, .pt, .safetensors")


def _load(path: Path) -> Mapping[Any, Any]:
    _check_suffix(path)
    if not os.path.isfile(path):
        raise UserError(f"{path}: {why_no_file(path)} (data.perturbation_features_file)")
    try:
        if path.suffix == ".npz":
            with path.open("rb") as stream:
                arrays = np.load(stream)
                loaded = dict(arrays) if isinstance(arrays, np.lib.npyio.NpzFile) else arrays
        elif path.suffix == ".pt":
            loaded = torch.load(path, "cpu", weights_only=True)
        else:
            loaded = safetensors.torch.load_file(path)
    except Exception as error:  # an unpickler that reads other bytes raises anything: KeyError, IndexError, zlib.error
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch's message is a page about trust
            reason = "it holds Python objects other than tensors" if zipfile.is_zipfile(path) else "torch.save did not write it"
            reason += "; save a dict of name -> tensor"
        raise UserError(f"{path}: cannot be read as a {path.suffix} file of name -> vector: {reason}") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: the file holds a {type(loaded).__name__}; accepted: a dictionary of name -> vector")
    return loaded


def _name(path: Path, name: object) -> str:
    if not isinstance(name, str):
        raise UserError(f"{path}: the key {name!r} is a {type(name).__name__}; accepted: names of perturbations")
    return name


def _vector(path: Path, name: str, values: object) -> FloatArray:
    if isinstance(values, torch.Tensor):
        kind = "sparse" if values.layout != torch.strided else "quantized" if values.is_quantized else ""
        kind = kind or ("complex" if values.is_complex() else "without values" if values.is_meta else "")
        if kind:
            raise UserError(f"{path}: {name!r} is a tensor that is {kind}; accepted: a dense vector of real numbers")
        values = values.to(torch.float32).numpy(force=True)  # numpy knows no bfloat16
    if isinstance(values, np.ndarray) and values.ndim == 2 and len(values) == 1:
        values = values[0]  # a batch of one, as language models give it
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub" or values.ndim != 1 or len(values) == 0:
        shape = f" of shape {values.shape} and type {values.dtype}" if isinstance(values, np.ndarray) else ""
        flat = isinstance(values, np.ndarray) and values.ndim > 1 and values.size == max(values.shape)
        remedy = " (flatten() makes it one)" if flat else ""
        raise UserError(f"{path}: {name!r} is a {type(values).__name__}{shape}; accepted: a vector of numbers{remedy}")
    vector = values.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(vector))
    if len(bad):
        raise UserError(f"{path}: {name!r} has {len(bad)} values that are not finite, the first {vector[bad[0]]} at {bad[0]}")
    return vector
