"""Sets of cells as batches of tensors, for Lightning."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from training.cells import CellReader, CellSet, CellSetBatch, IntArray, Representation, RunLength
from training.config import CellSetsConfig
from training.data.sets import SetPlan
from training.errors import UserError
from training.tasks.perturbation.cells import Cells

WORKER_START = "fork" if sys.platform == "linux" else None
"""How workers come to be; None leaves it to the platform. Measured on two busy cores: 0.2 s to the first batch by fork, 27 s by
forkserver (it imports torch again), 47 s by spawn. A fork shares the table and the vectors, and is safe here: workers touch no
CUDA, and open the files anew."""

log = logging.getLogger(__name__)

Item = CellSetBatch | UserError
"""What a worker hands over: a refusal raised in a worker would reach the user inside a traceback."""


class BatchMaker:
    """Values, perturbation vectors and GEM groups of sets. Reads the rows of a whole batch at once."""

    def __init__(self, cells: Cells) -> None:
        table = cells.table
        self._reader: CellReader = cells.reader
        self._has_genes = cells.judged == "genes"
        self._perturbation = table.perturbation.codes
        self._gem_group = None if table.gem_group is None else table.gem_group.codes
        self._vectors = torch.from_numpy(cells.features.vectors)
        self._vector_of = np.array([cells.features.index(name) for name in table.perturbation.names], np.int64)

    def make(self, sets: list[CellSet], *, with_control_genes: bool) -> CellSetBatch:
        """A batch of sets of one length."""
        cells, controls = np.stack([each.cells for each in sets]), np.stack([each.controls for each in sets])
        vectors = self._vector_of[self._perturbation[cells[:, 0]]]
        return CellSetBatch(
            control=self._read("input", controls),
            target=self._read("input", cells),
            perturbation=self._vectors[torch.from_numpy(vectors)],
            gem_group=None if self._gem_group is None else torch.from_numpy(self._gem_group[cells].astype(np.int64)),
            target_genes=self._read("genes", cells) if self._has_genes else None,
            control_genes=self._read("genes", controls) if self._has_genes and with_control_genes else None,
        )

    def _read(self, representation: Representation, cells: IntArray) -> Tensor:
        values = self._reader.read(representation, cells.reshape(-1))
        return torch.from_numpy(values).view(*cells.shape, -1)


class TrainingBatches(Dataset[Item]):
    """Place g of the stream of training batches; with controls' genes where micro-step g // `world_size` is logged."""

    def __init__(self, plan: SetPlan, maker: BatchMaker, length: RunLength, world_size: int) -> None:
        self._plan, self._maker, self._length, self._world_size = plan, maker, length, world_size

    def __getitem__(self, index: int) -> Item:
        return _or_refusal(self._maker, self._plan.batch(index), self._length.is_logged(index // self._world_size))


class ValidationBatches(Dataset[Item]):
    """The fixed validation batches, with controls' genes."""

    def __init__(self, batches: list[list[CellSet]], maker: BatchMaker) -> None:
        self._batches, self._maker = batches, maker

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Item:
        return _or_refusal(self._maker, self._batches[index], True)


class StreamSampler(Sampler[int]):
    """Places of the stream that a rank takes, from micro-step `start` to the end of the run, in order.

    Its length is that of the whole run, whatever `start` is: Lightning restores its count of batches when it resumes, and
    compares it with this.
    """

    def __init__(self, start: int, total: int, rank: int, world_size: int) -> None:
        self._start, self._total, self._rank, self._world_size = start, total, rank, world_size

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._start * self._world_size + self._rank, self._total * self._world_size, self._world_size))

    def __len__(self) -> int:
        return self._total


class RefusingLoader(DataLoader[Item]):
    """A DataLoader that raises the refusals its workers hand over, and that Lightning may resume in the middle."""

    def check_worker_number_rationality(self) -> None:
        """Torch warns here, in three lines and at every pass, of more workers than cores; the data module says it once in one."""

    def __iter__(self) -> Any:
        for item in super().__iter__():
            if isinstance(item, UserError):
                raise item
            yield item

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the place in the data is the step. Lightning warns where a loader has no such method."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do: `StreamSampler` starts at the step."""


class CellSetsDataModule(L.LightningDataModule):
    """Training batches from a micro-step of the run to its end, and the fixed validation batches.

    A batch is a function of (seed, micro-step, rank): the same whatever the number of workers, and after a restart.

    Args:
        cells: The cells of the run.
        config: Sizes of batches, workers and validation.
        length: Of the run; the batches of logged steps carry `control_genes`.
        start_step: Steps that were done before a restart.
        pin_memory: Whether batches go on to a GPU.

    Raises: UserError if there is nothing to train on or to validate with.
    """

    def __init__(
        self, cells: Cells, config: CellSetsConfig, length: RunLength, *, start_step: int = 0, pin_memory: bool = False
    ) -> None:
        super().__init__()
        self._config, self._maker = config, BatchMaker(cells)
        self._plan, self._validation = cells.plan(config.batch_size), cells.validation(config.batch_size)
        if config.num_workers > (cores := os.cpu_count() or 1):
            log.warning("data.num_workers: %d processes share %d cores", config.num_workers, cores)
        self._length, self._start, self._pin_memory = length, start_step * length.accumulate_micro_steps, pin_memory

    def train_dataloader(self) -> RefusingLoader:
        """Batches of this rank, in order."""
        rank, world_size = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        batches = TrainingBatches(self._plan, self._maker, self._length, world_size)
        sampler = StreamSampler(self._start, self._length.total_micro_steps, rank, world_size)
        return self._loader(batches, sampler)

    def val_dataloader(self) -> RefusingLoader:
        """All validation batches, on every rank alike."""
        return self._loader(ValidationBatches(self._validation, self._maker), None)

    def first_batch(self) -> CellSetBatch:
        """The batch of the first micro-step, read in this process."""
        return self._maker.make(self._plan.batch(self._start), with_control_genes=True)

    def _loader(self, batches: Dataset[Item], sampler: StreamSampler | None) -> RefusingLoader:
        workers = self._config.num_workers
        return RefusingLoader(
            batches,
            sampler=sampler,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=self._config.prefetch_batches if workers else None,
            pin_memory=self._pin_memory,
            multiprocessing_context=WORKER_START if workers else None,
            worker_init_fn=_end_with_the_run,
        )


def _end_with_the_run(worker: int) -> None:
    """Let a worker heed no Ctrl-C, and no SIGTERM but the run's own.

    A machine that shuts down sends SIGTERM to every process, and a run whose workers die saves no checkpoint. Ignored altogether it
    would hang a run that exits with workers left: multiprocessing tells them to end, and waits.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_hear_the_run, daemon=True).start()


def _hear_the_run() -> None:
    if sys.platform == "linux":
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)


def _or_refusal(maker: BatchMaker, sets: list[CellSet], with_control_genes: bool) -> Item:
    try:
        return maker.make(sets, with_control_genes=with_control_genes)
    except UserError as refusal:
        return refusal
