import multiprocessing
import subprocess
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch

from training.cells import CellSetBatch, RunLength
from training.config import CellSetsConfig
from training.errors import UserError
from training.tasks.perturbation.batches import CellSetsDataModule, StreamSampler
from training.tasks.perturbation.cells import open_cells

TENSORS = ("control", "target", "perturbation", "gem_group", "target_genes", "control_genes")
TOTAL = 12


@pytest.fixture
def here(tmp_path, monkeypatch, write_h5ad) -> Path:
    monkeypatch.chdir(tmp_path)
    write_h5ad(Path("one.h5ad"), n_cells=240, gem_groups=("g1", "g2"), obsm={"X_state": 4})
    write_h5ad(Path("two.h5ad"), n_cells=240, gem_groups=("g2", "g3"), obsm={"X_state": 4}, cell_types=("B", "C"), seed=1)
    Path("split.toml").write_text(
        '[datasets]\nd = "{one,two}.h5ad"\n[training]\nd = "train"\n[fewshot."d.B"]\nval = ["P1"]\ntest = ["P3"]'
    )
    return tmp_path


def make(start=0, set_size=16, **changes):
    settings = {"split": "split.toml", "control": "control", "embed_key": "X_state", "gem_group_column": "gem_group"}
    config = CellSetsConfig(**(settings | {"batch_size": 2, "num_workers": 0} | changes))
    cells = open_cells(config, set_size, seed=7)
    length = RunLength(total_steps=TOTAL // 2 + 1, accumulate_micro_steps=2, log_every_steps=2)
    data = CellSetsDataModule(cells, config, length, start_step=start // 2)
    return cells, data


def equal(a: CellSetBatch, b: CellSetBatch) -> bool:
    """To the bit."""
    pairs = [(getattr(a, name), getattr(b, name)) for name in TENSORS]
    return all(one is other is None or (one is not None and other is not None and torch.equal(one, other)) for one, other in pairs)


def test_a_batch_holds_the_values_vectors_and_gem_groups_of_its_sets(here):
    cells, data = make()
    sets = cells.plan(2).batch(3)
    batch = list(data.train_dataloader())[3]  # the fourth micro-step ends the second step, which is logged
    files = {name: anndata.read_h5ad(name) for name in cells.table.file.names}
    for i, each in enumerate(sets):
        for j in range(len(each.cells)):
            for genes, embedding, cell in (
                (batch.target_genes, batch.target, each.cells[j]),
                (batch.control_genes, batch.control, each.controls[j]),
            ):
                file, row = files[cells.table.file.names[cells.table.file.codes[cell]]], cells.table.row[cell]
                assert genes[i, j].numpy().tolist() == file.X[row].toarray().ravel().tolist()
                assert embedding[i, j].numpy().tolist() == file.obsm["X_state"][row].tolist()
            assert cells.gem_group_names[batch.gem_group[i, j]] == files_label(cells, files, each.cells[j])
        name = cells.table.condition(each.cells[0]).perturbation
        assert batch.perturbation[i].numpy().tolist() == cells.features.vectors[cells.features.index(name)].tolist()
    length = len(sets[0].cells)
    assert batch.target.shape == batch.control.shape == (len(sets), length, 4)
    assert batch.target_genes.shape == (len(sets), length, 12)
    assert batch.perturbation.shape == (len(sets), 4)
    assert batch.gem_group.dtype == torch.int64
    assert {getattr(batch, name).dtype for name in TENSORS if name != "gem_group"} == {torch.float32}


def files_label(cells, files, cell):
    return files[cells.table.file.names[cells.table.file.codes[cell]]].obs.gem_group.iloc[cells.table.row[cell]]


def test_genes_and_gem_groups_are_absent_where_the_run_has_none(here):
    _, data = make(embed_key=None, gem_group_column=None)
    for batch in (*data.train_dataloader(), *data.val_dataloader()):
        assert (batch.gem_group, batch.target_genes, batch.control_genes) == (None, None, None)


def test_controls_have_genes_on_all_micro_steps_of_logged_steps_and_of_the_last(here):
    _, data = make()
    with_genes = [i for i, batch in enumerate(data.train_dataloader()) if batch.control_genes is not None]
    assert with_genes == [2, 3, 6, 7, 10, 11, 12, 13]  # 2 micro-steps a step, every second step is logged
    _, resumed = make(start=6)
    assert [i for i, batch in enumerate(resumed.train_dataloader()) if batch.control_genes is not None] == [0, 1, 4, 5, 6, 7]


def test_batches_are_the_same_to_the_bit_whatever_the_number_of_workers(here):
    batches = [[*data.train_dataloader(), *data.val_dataloader()] for data in (make()[1], make(num_workers=2)[1])]
    assert len(batches[0]) == len(batches[1]) > TOTAL + 2
    assert all(equal(a, b) for a, b in zip(*batches, strict=True))
    assert not equal(batches[0][0], batches[0][1])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_run_goes_on_where_the_first_one_stopped(here, num_workers):
    whole = list(make()[1].train_dataloader())
    data = make(start=6, num_workers=num_workers)[1]
    rest = list(data.train_dataloader())
    assert len(data.train_dataloader()) == len(whole) == TOTAL + 2
    assert len(rest) == len(whole) - 6
    assert all(equal(a, b) for a, b in zip(whole[6:], rest, strict=True))
    assert equal(data.first_batch(), make()[1]._maker.make(make()[0].plan(2).batch(6), with_control_genes=True))


def test_validation_batches_are_the_same_at_every_validation(here):
    _, data = make()
    first, second = list(data.val_dataloader()), list(data.val_dataloader())
    assert len(first) == len(data.val_dataloader()) > 0
    assert all(equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(batch.control_genes is not None for batch in first)
    assert [len(batch.target[0]) for batch in first] == [16, 16, 8, 4]  # 60 cells: 3 x 16, of which 2 fill a batch, + 8 + 4


def test_without_validation_there_are_no_validation_batches(here):
    assert list(make(validation="none")[1].val_dataloader()) == []


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 4])
def test_ranks_take_turns_in_the_stream(world_size, start):
    samplers = [StreamSampler(start, 10, rank, world_size) for rank in range(world_size)]
    assert [place for turn in zip(*samplers, strict=True) for place in turn] == list(range(start * world_size, 10 * world_size))
    assert {len(sampler) for sampler in samplers} == {10}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_refusal_in_a_worker_is_one_message_without_a_traceback(here, num_workers):
    _, data = make(num_workers=num_workers)
    adata = anndata.read_h5ad("one.h5ad")
    adata.obsm["X_state"][:] = np.nan
    adata.write_h5ad("changed.h5ad")
    Path("changed.h5ad").replace("one.h5ad")
    for file in data._maker._reader.files:
        file._forget()  # as if it had been damaged before it was opened
    with pytest.raises(UserError, match=r"^one\.h5ad: .*row \d+.*$") as refusal:
        list(data.train_dataloader())
    assert "Traceback" not in str(refusal.value)


def test_workers_outlive_the_shutdown_of_the_machine_and_end_when_the_run_says_so(here):
    """Shutdown sends SIGTERM to every process, Ctrl-C goes to all of a terminal: the run must still get its batches."""
    whole = list(make()[1].train_dataloader())
    batches = iter(make(num_workers=2, prefetch_batches=1)[1].train_dataloader())
    first = [next(batches) for _ in range(3)]  # both workers have begun
    workers = multiprocessing.active_children()
    for name in ("TERM", "INT"):
        subprocess.run(["sh", "-c", f"kill -{name} {' '.join(str(worker.pid) for worker in workers)}"], check=True)

    rest = list(batches)

    assert len(workers) == 2
    assert all(equal(a, b) for a, b in zip(whole, [*first, *rest], strict=True))
    batches = iter(make(num_workers=2)[1].train_dataloader())
    next(batches)
    next(batches)
    for worker in multiprocessing.active_children():
        worker.terminate()  # as multiprocessing ends what is left when the run exits
        worker.join(10)
        assert worker.exitcode == 0
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        list(batches)


def test_a_run_that_cannot_be_trained_is_refused_when_it_is_put_together(here):
    with pytest.raises(UserError, match="set_size 121 is larger than every group"):
        make(set_size=121)
