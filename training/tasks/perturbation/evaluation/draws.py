"""Which cells are drawn, as a function of the seed and the condition's name, whatever else is asked; and means of many cells."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from training.cells import CellReader, Condition, IntArray, Representation

BLOCK = 1024
"""Cells that are in memory at a time where only their mean is wanted: 230 MB of 18,080 genes, in float32 and in float64."""


def drawn(population: IntArray, n: int, *, seed: int, purpose: str, condition: Condition) -> IntArray:
    """`n` of `population` at random; nobody is drawn a second time before everybody has been drawn.

    So no index repeats where `n` is at most the size of the population, and each repeats about equally often where it is more.

    Shape: population (K,), K > 0 -> (n,).
    """
    words = "\0".join((purpose, condition.dataset, condition.cell_type, condition.perturbation))
    generator = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(words.encode()).digest()[:16])])
    rounds = -(-n // len(population))
    return np.concatenate([generator.permutation(population) for _ in range(rounds)] or [population[:0]])[:n]


def halves(cells: IntArray, draw: int, *, seed: int, purpose: str, condition: Condition) -> tuple[IntArray, IntArray]:
    """Cells in two random halves, others in each draw.

    Shape: cells (K,), K > 1 -> (ceil(K / 2),), (floor(K / 2),).
    """
    shuffled = drawn(cells, len(cells), seed=seed, purpose=f"{purpose} {draw}", condition=condition)
    return shuffled[::2], shuffled[1::2]


def control_halves(controls: IntArray, draw: int, *, seed: int, condition: Condition) -> tuple[IntArray, IntArray]:
    """Controls that predictions start from, and controls that real shifts are measured from: the same for all of a cell type.

    With the same controls on both sides their noise would be in both shifts and pass for agreement.

    Shape: controls (K,), K > 1 -> (ceil(K / 2),), (floor(K / 2),).
    """
    return halves(controls, draw, seed=seed, purpose="control halves", condition=replace(condition, perturbation=""))


def mean_cell(reader: CellReader, representation: Representation, cells: IntArray) -> npt.NDArray[np.float64]:
    """Mean over cells, read block by block.

    Shape: cells (N,), N > 0 -> (J,).
    """
    return np.asarray(mean_cells(reader, representation, cells, [np.arange(len(cells))])[0])


def mean_cells(
    reader: CellReader, representation: Representation, cells: IntArray, subsets: Sequence[IntArray]
) -> npt.NDArray[np.float64]:
    """Means over several subsets of cells, of which each cell is read once.

    Shape: cells (N,); each subset: places in `cells` -> (subsets, J).
    """
    weights = np.zeros((len(subsets), len(cells)))
    for row, subset in enumerate(subsets):
        weights[row, subset] = 1 / len(subset)
    means = np.zeros(())
    for block in _blocks(len(cells)):
        means = means + weights[:, block] @ reader.read(representation, cells[block]).astype(np.float64)
    return np.asarray(means)


def _blocks(n: int) -> Iterator[slice]:
    for start in range(0, n, BLOCK):
        yield slice(start, min(start + BLOCK, n))
