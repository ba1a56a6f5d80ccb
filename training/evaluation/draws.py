"""Which cells are drawn, as a function of the seed and the condition's name, whatever else is asked; and the mean of many cells."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from training.cells import CellReader, Condition, IntArray, Representation

BLOCK = 2048
"""Cells that are in memory at a time where only their mean is wanted: 150 MB of 18,080 genes."""


def drawn(population: IntArray, n: int, *, seed: int, purpose: str, condition: Condition) -> IntArray:
    """`n` of `population` at random; nobody is drawn a second time before everybody has been drawn.

    So no index repeats where `n` is at most the size of the population, and each repeats about equally often where it is more.

    Shape: population (K,), K > 0 -> (n,).
    """
    words = "\0".join((purpose, condition.dataset, condition.cell_type, condition.perturbation))
    generator = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(words.encode()).digest()[:16])])
    rounds = -(-n // len(population))
    return np.concatenate([generator.permutation(population) for _ in range(rounds)] or [population[:0]])[:n]


def control_halves(controls: IntArray, *, seed: int, condition: Condition) -> tuple[IntArray, IntArray]:
    """The controls of a cell type in two halves, the same for all its conditions.

    Predictions start from the first half, and training shifts are measured from it; real shifts are measured from the second. With
    the same controls on both sides their noise would be in both shifts and pass for agreement. A single control is both halves.

    Shape: controls (K,), K > 0 -> (ceil(K / 2),), (floor(K / 2),).
    """
    shuffled = drawn(controls, len(controls), seed=seed, purpose="halves", condition=replace(condition, perturbation=""))
    return (shuffled[::2], shuffled[1::2]) if len(controls) > 1 else (controls, controls)


def mean_cell(reader: CellReader, representation: Representation, cells: IntArray) -> npt.NDArray[np.float64]:
    """Mean over cells, read block by block.

    Shape: cells (N,), N > 0 -> (J,).
    """
    sums = [reader.read(representation, block).sum(axis=0, dtype=np.float64) for block in _blocks(cells)]
    return np.asarray(np.sum(sums, axis=0) / len(cells))


def _blocks(cells: IntArray) -> Iterator[IntArray]:
    for start in range(0, len(cells), BLOCK):
        yield cells[start : start + BLOCK]
