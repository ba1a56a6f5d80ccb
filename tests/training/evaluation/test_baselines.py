"""Baselines recover the shifts that the cells were made with, from training cells alone."""

import tracemalloc

import numpy as np
import pytest

from training.cells import Condition, ControlCells
from training.evaluation.baselines import Additive, MeanShiftPerCellType, MeanShiftPerPerturbation, fit_baselines, training_shifts

RNG = np.random.default_rng(3)
SHIFT = {name: RNG.normal(size=4) for name in ("A", "B", "C", "D")}
BASE = {"k562": np.full(4, 2.0), "rpe1": np.full(4, -1.0), "t98g": np.zeros(4)}


def cells(cell_type, shift, n=6):
    """Cells whose mean is exactly base + shift."""
    noise = RNG.normal(size=(n, 4))
    return BASE[cell_type] + shift + noise - noise.mean(axis=0)


@pytest.fixture
def screen(make_screen):
    """A is twice as strong in rpe1; held out: A+B and D in k562, C in rpe1, everything in t98g."""
    conditions = {("x", cell_type, "control", "train"): np.tile(BASE[cell_type], (6, 1)) for cell_type in BASE}
    conditions |= {("x", "k562", name, "train"): cells("k562", SHIFT[name]) for name in "ABC"}
    conditions |= {("x", "rpe1", "A", "train"): cells("rpe1", 2 * SHIFT["A"])}
    conditions |= {
        ("x", "k562", "A+B", "test"): cells("k562", 100.0),
        ("x", "k562", "D", "val"): cells("k562", 100.0),
        ("x", "k562", "A", "val"): cells("k562", 100.0),
        ("x", "rpe1", "C", "test"): cells("rpe1", 100.0),
        ("x", "t98g", "A", "test"): cells("t98g", 100.0),
    }
    return make_screen(conditions)


def controls(n=3):
    values = RNG.normal(size=(n, 4)).astype(np.float32)
    return ControlCells(values, values, None)


def added(predictor, cell_type, perturbation):
    """What a predictor adds to each control, or None."""
    start = controls()
    predicted = predictor.predict(Condition("x", cell_type, perturbation), start)
    if predicted is None:
        return None
    assert predicted.dtype == np.float32
    shifts = predicted - start.judged
    assert np.allclose(shifts, shifts[0], atol=1e-5)
    return shifts.mean(axis=0)


def test_shifts_are_those_of_training_conditions_alone(screen):
    shifts = training_shifts(screen)

    assert set(shifts) == {
        Condition("x", "k562", "A"),
        Condition("x", "k562", "B"),
        Condition("x", "k562", "C"),
        Condition("x", "rpe1", "A"),
    }
    assert np.allclose(shifts[Condition("x", "rpe1", "A")], 2 * SHIFT["A"], atol=1e-5)


def test_no_change_and_order(screen):
    predictors = fit_baselines(screen)

    assert [p.name for p in predictors] == ["no_change", "mean_shift_per_cell_type", "mean_shift_per_perturbation", "additive"]
    assert np.array_equal(added(predictors[0], "k562", "A+B"), np.zeros(4))


def test_mean_shift_per_cell_type(screen):
    predictor = MeanShiftPerCellType(training_shifts(screen))
    k562 = (SHIFT["A"] + SHIFT["B"] + SHIFT["C"]) / 3

    assert np.allclose(added(predictor, "k562", "D"), k562, atol=1e-5)
    assert np.allclose(added(predictor, "rpe1", "C"), 2 * SHIFT["A"], atol=1e-5)
    # Untrained cell type: every training condition counts once, not every cell type.
    assert np.allclose(added(predictor, "t98g", "A"), (3 * SHIFT["A"] + SHIFT["B"] + SHIFT["C"]) / 4, atol=1e-5)
    assert added(MeanShiftPerCellType({}), "k562", "A") is None


def test_mean_shift_per_perturbation_looks_elsewhere(screen):
    predictor = MeanShiftPerPerturbation(training_shifts(screen))

    assert np.allclose(added(predictor, "t98g", "A"), 1.5 * SHIFT["A"], atol=1e-5)
    assert np.allclose(added(predictor, "rpe1", "C"), SHIFT["C"], atol=1e-5)
    assert np.allclose(added(predictor, "k562", "A"), 2 * SHIFT["A"], atol=1e-5)  # its own context does not count
    assert added(predictor, "k562", "B") is None
    assert added(predictor, "k562", "D") is None


def test_means_of_many_conditions_are_not_stacked():
    """100 shifts of 80 kB: stacked they would be in memory once more."""
    shifts = {Condition("x", "k562", f"P{i}"): RNG.normal(size=20_000).astype(np.float32) for i in range(100)}

    tracemalloc.start()
    predictor = MeanShiftPerCellType(shifts)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 1_000_000
    mean = np.mean(np.stack(list(shifts.values())), axis=0, dtype=np.float64)
    start = ControlCells(np.zeros((1, 20_000), np.float32), np.zeros((1, 20_000), np.float32), None)
    predicted = predictor.predict(Condition("x", "k562", "new"), start)
    assert predicted is not None
    assert np.allclose(predicted[0], mean, atol=1e-6)


def test_additive(screen):
    predictor = Additive(training_shifts(screen), "control")

    assert np.allclose(added(predictor, "k562", "A+B"), SHIFT["A"] + SHIFT["B"], atol=1e-5)
    assert np.allclose(added(predictor, "k562", "C+control+A"), SHIFT["C"] + SHIFT["A"], atol=1e-5)
    for unanswered in ("A", "A+control", "A+D", "A+", "control"):
        assert added(predictor, "k562", unanswered) is None
    assert added(predictor, "t98g", "A+B") is None


def test_a_single_joined_with_the_control_is_a_single(make_screen):
    screen = make_screen({
        ("x", "k562", "control", "train"): np.tile(BASE["k562"], (3, 1)),
        ("x", "k562", "A+control", "train"): cells("k562", SHIFT["A"]),
        ("x", "k562", "control+B", "train"): cells("k562", SHIFT["B"]),
    })  # fmt: skip

    assert np.allclose(added(Additive(training_shifts(screen), "control"), "k562", "B+A"), SHIFT["A"] + SHIFT["B"], atol=1e-5)
