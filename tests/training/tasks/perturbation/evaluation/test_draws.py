"""What is drawn depends on the seed and the condition alone."""

from dataclasses import replace

import numpy as np

from training.cells import Condition
from training.tasks.perturbation.evaluation.draws import BLOCK, control_halves, drawn, mean_cell, mean_cells

KLF1 = Condition("screen", "k562", "KLF1")
POPULATION = np.arange(100, 140)


def draw(n, seed=1, purpose="controls", condition=KLF1, population=POPULATION):
    return drawn(population, n, seed=seed, purpose=purpose, condition=condition)


def test_nobody_is_drawn_twice_while_others_wait():
    assert len(set(draw(40))) == 40
    assert len(set(draw(7)) & set(POPULATION)) == 7
    counts = np.unique(draw(100), return_counts=True)[1]
    assert len(counts) == 40
    assert set(counts) == {2, 3}
    assert draw(0).shape == (0,)


def test_a_draw_is_a_function_of_seed_purpose_and_condition():
    other = Condition("screen", "k562", "KLF2")

    assert np.array_equal(draw(20), draw(20))
    assert np.array_equal(draw(20)[:5], draw(5))
    for changed in (draw(20, seed=2), draw(20, purpose="real cells"), draw(20, condition=other)):
        assert not np.array_equal(draw(20), changed)


def test_every_cell_is_as_likely_as_any_other():
    counts = np.zeros(140)
    for seed in range(2000):
        counts[draw(4, seed=seed)] += 1

    assert counts[100:].mean() == 200
    assert np.abs(counts[100:] - 200).max() < 5 * np.sqrt(200)


def test_the_mean_is_read_in_blocks(make_screen):
    values = np.random.default_rng(0).normal(size=(BLOCK + 7, 3)).astype(np.float32)
    screen = make_screen({("screen", "k562", "control", "train"): values})
    cells = np.arange(BLOCK + 7)[::-1].copy()

    mean = mean_cell(screen.reader, "input", cells)

    assert np.allclose(mean, values.mean(axis=0, dtype=np.float64), rtol=0, atol=1e-12)
    assert screen.reader.asked == [BLOCK, 7]


def test_means_of_several_subsets_take_one_reading(make_screen):
    values = np.random.default_rng(0).normal(size=(BLOCK + 7, 3)).astype(np.float32)
    screen = make_screen({("screen", "k562", "control", "train"): values})
    cells = np.arange(BLOCK + 7)
    subsets = [np.arange(0, BLOCK + 7, 2), np.array([1, BLOCK + 6]), np.array([5])]

    means = mean_cells(screen.reader, "input", cells, subsets)

    of_rows = screen.reader.values["input"].astype(np.float64)
    assert np.allclose(means, [of_rows[subset].mean(axis=0) for subset in subsets], rtol=0, atol=1e-12)
    assert screen.reader.asked == [BLOCK, 7]


def test_halves_of_the_controls_are_disjoint_and_one_for_all_conditions_of_a_cell_type():
    start, reference = control_halves(POPULATION[:39], 0, seed=1, condition=KLF1)

    assert (len(start), len(reference)) == (20, 19)
    assert sorted([*start, *reference]) == list(POPULATION[:39])
    other = replace(KLF1, perturbation="KLF2")
    assert np.array_equal(start, control_halves(POPULATION[:39], 0, seed=1, condition=other)[0])
    for changed in (
        control_halves(POPULATION[:39], 0, seed=2, condition=KLF1),
        control_halves(POPULATION[:39], 1, seed=1, condition=KLF1),
        control_halves(POPULATION[:39], 0, seed=1, condition=replace(KLF1, cell_type="rpe1")),
    ):
        assert not np.array_equal(start, changed[0])
