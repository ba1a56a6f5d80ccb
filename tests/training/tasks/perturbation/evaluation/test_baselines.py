"""Baselines recover the shifts that the cells were made with, from training cells alone."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from training.cells import Condition, ControlCells
from training.tasks.perturbation.evaluation.baselines import (
    Additive,
    MeanShiftPerCellType,
    MeanShiftPerPerturbation,
    PartialAdditive,
    fit_baselines,
)
from training.tasks.perturbation.evaluation.shifts import TrainingShifts, training_shifts

RNG = np.random.default_rng(3)
SHIFT = {name: RNG.normal(size=4) for name in ("A", "B", "C", "D")}
BASE = {"k562": np.full(4, 2.0), "rpe1": np.full(4, -1.0), "t98g": np.zeros(4)}


def cells(cell_type, shift, n=6):
    """Cells whose mean is exactly base + shift."""
    noise = RNG.normal(size=(n, 4))
    return BASE[cell_type] + shift + noise - noise.mean(axis=0)


@pytest.fixture
def screen(make_screen):
    """A is twice as strong in rpe1; held out: A+B and D in k562, C in rpe1, everything in t98g. Controls that measure lie apart."""
    conditions = {("x", cell_type, "control", "train"): np.tile(BASE[cell_type], (6, 1)) for cell_type in BASE}
    conditions |= {("x", cell_type, "control", "aside"): np.full((6, 4), 1000.0) for cell_type in BASE}
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


def shifts_of(values):
    """Training shifts from {(cell type, perturbation): shift}."""
    conditions = sorted(Condition("x", *key) for key in values)
    rows = [values[condition.cell_type, condition.perturbation] for condition in conditions]
    return TrainingShifts(tuple(conditions), np.array(rows, np.float32))


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


def test_shifts_are_those_of_training_conditions_from_controls_that_do_not_measure(screen):
    shifts = training_shifts(screen)

    assert shifts.conditions == (
        Condition("x", "k562", "A"),
        Condition("x", "k562", "B"),
        Condition("x", "k562", "C"),
        Condition("x", "rpe1", "A"),
    )
    assert np.allclose(shifts.values, [SHIFT["A"], SHIFT["B"], SHIFT["C"], 2 * SHIFT["A"]], atol=1e-5)


def test_no_change_and_order(screen):
    predictors = fit_baselines(screen)

    assert [p.name for p in predictors] == [
        "no_change", "mean_shift_per_cell_type", "mean_shift_per_perturbation", "additive", "partial_additive", "ridge",
    ]  # fmt: skip
    assert np.array_equal(added(predictors[0], "k562", "A+B"), np.zeros(4))
    assert added(predictors[-1], "k562", "D") is None  # one-hot vectors are no features


def test_mean_shift_per_cell_type(screen):
    predictor = MeanShiftPerCellType(training_shifts(screen))
    k562 = (SHIFT["A"] + SHIFT["B"] + SHIFT["C"]) / 3

    assert np.allclose(added(predictor, "k562", "D"), k562, atol=1e-5)
    assert np.allclose(added(predictor, "rpe1", "C"), 2 * SHIFT["A"], atol=1e-5)
    # Untrained cell type: every training condition counts once, not every cell type.
    assert np.allclose(added(predictor, "t98g", "A"), (3 * SHIFT["A"] + SHIFT["B"] + SHIFT["C"]) / 4, atol=1e-5)
    assert added(MeanShiftPerCellType(shifts_of({})), "k562", "A") is None


def test_mean_shift_per_perturbation_takes_the_deviation_from_the_mean_elsewhere():
    """Shifts are mean of the type + strength of the type x deviation of the perturbation, which is what the baseline assumes."""
    deviation = {name: RNG.normal(size=4) for name in "ABCDE"}
    mean = {cell_type: RNG.normal(size=4) for cell_type in BASE}
    strength = {"k562": 1.0, "rpe1": 0.5, "t98g": 1.0}
    centre = sum(deviation[name] for name in "ABCD") / 4
    true = {(t, p): mean[t] + strength[t] * (deviation[p] - centre) for t in BASE for p in "ABCDE"}
    known = {key: shift for key, shift in true.items() if key[1] != "E" and key[0] != "t98g"}
    predictor = MeanShiftPerPerturbation(shifts_of(known | {("k562", "E"): true["k562", "E"]}))

    of_type = shifts_of(known | {("k562", "E"): true["k562", "E"]})
    k562_mean = of_type.mean_of(of_type.rows_of["x", "k562"])
    deviations = {p: true["k562", p] - k562_mean for p in "ABCD"}
    here = {p: true["rpe1", p] - mean["rpe1"] for p in "ABCD"}
    scale = sum(deviations[p] @ here[p] for p in "ABCD") / sum(deviations[p] @ deviations[p] for p in "ABCD")
    expected = mean["rpe1"] + scale * (true["k562", "E"] - k562_mean)
    assert np.allclose(added(predictor, "rpe1", "E"), expected, atol=1e-4)
    assert 0.3 < scale < 0.7  # half as strong in rpe1
    assert added(predictor, "k562", "E") is None  # trained on in k562 alone: its own context does not count
    assert added(predictor, "k562", "Z") is None


def test_mean_shift_per_perturbation_in_a_cell_type_that_was_not_trained_on(screen):
    predictor = MeanShiftPerPerturbation(training_shifts(screen))
    overall = (3 * SHIFT["A"] + SHIFT["B"] + SHIFT["C"]) / 4
    in_k562 = SHIFT["A"] - (SHIFT["A"] + SHIFT["B"] + SHIFT["C"]) / 3

    # A lies on the mean of rpe1, where it is alone; no perturbation tells a scale, so it is 1.
    assert np.allclose(added(predictor, "t98g", "A"), overall + (in_k562 + 0) / 2, atol=1e-5)


def test_the_fitted_shift_of_other_cell_types_is_better_than_the_plain_one():
    """Types that share a part of each perturbation's effect: the scale shrinks what is not shared."""
    gains = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        shared = rng.normal(size=(30, 50))
        true = {(t, f"P{i}"): shared[i] + 2 * rng.normal(size=50) for t in ("k562", "rpe1") for i in range(30)}
        known = {key: shift for key, shift in true.items() if key[0] == "k562" or int(key[1][1:]) < 20}
        predictor = MeanShiftPerPerturbation(shifts_of(known))
        for i in range(20, 30):
            fitted = predictor.shift(Condition("x", "rpe1", f"P{i}"))
            plain = true["k562", f"P{i}"]
            gains.append(np.sum((plain - true["rpe1", f"P{i}"]) ** 2) - np.sum((fitted - true["rpe1", f"P{i}"]) ** 2))

    assert np.mean(gains) > 50


def test_means_of_many_conditions_are_not_stacked():
    """100 shifts of 80 kB: stacked they would be in memory once more."""
    values = RNG.normal(size=(100, 20_000)).astype(np.float32)
    shifts = TrainingShifts(tuple(Condition("x", "k562", f"P{i:03d}") for i in range(100)), values)

    tracemalloc.start()
    predictor = MeanShiftPerCellType(shifts)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 1_000_000
    predicted = predictor.shift(Condition("x", "k562", "new"))
    assert predicted is not None
    assert np.allclose(predicted, values.mean(axis=0, dtype=np.float64), atol=1e-5)


def test_additive(screen):
    predictor = Additive(training_shifts(screen), "control", "+")

    assert np.allclose(added(predictor, "k562", "A+B"), SHIFT["A"] + SHIFT["B"], atol=1e-5)
    assert np.allclose(added(predictor, "k562", "C+control+A"), SHIFT["C"] + SHIFT["A"], atol=1e-5)
    for unanswered in ("A", "A+control", "A+D", "A+", "control"):
        assert added(predictor, "k562", unanswered) is None
    assert added(predictor, "t98g", "A+B") is None


def test_partial_additive_adds_the_mean_of_singles_for_what_is_not_known(screen):
    predictor = PartialAdditive(training_shifts(screen), "control", "+")
    mean = (SHIFT["A"] + SHIFT["B"] + SHIFT["C"]) / 3

    assert np.allclose(added(predictor, "k562", "A+D"), SHIFT["A"] + mean, atol=1e-5)
    assert np.allclose(added(predictor, "k562", "D+A+E"), SHIFT["A"] + 2 * mean, atol=1e-5)
    for unanswered in ("A", "A+B", "D", "D+E", "control"):
        assert added(predictor, "k562", unanswered) is None
    assert added(predictor, "t98g", "A+D") is None


@pytest.mark.parametrize("separator", ["|", "_", None])
def test_the_separator_is_the_settings(make_screen, separator):
    joined = f"A{separator}B" if separator else "A+B"
    screen = make_screen({
        ("x", "k562", "control", "train"): np.tile(BASE["k562"], (3, 1)),
        ("x", "k562", "A", "train"): cells("k562", SHIFT["A"]),
        ("x", "k562", "B", "train"): cells("k562", SHIFT["B"]),
        ("x", "k562", joined, "test"): cells("k562", 100.0),
    })  # fmt: skip
    screen = replace(screen, config=screen.config.model_copy(update={"separator": separator}))
    additive = next(p for p in fit_baselines(screen) if p.name == "additive")

    found = added(additive, "k562", joined)
    assert found is None if separator is None else np.allclose(found, SHIFT["A"] + SHIFT["B"], atol=1e-5)


def test_a_single_joined_with_the_control_is_a_single(make_screen):
    screen = make_screen({
        ("x", "k562", "control", "train"): np.tile(BASE["k562"], (3, 1)),
        ("x", "k562", "A+control", "train"): cells("k562", SHIFT["A"]),
        ("x", "k562", "control+B", "train"): cells("k562", SHIFT["B"]),
    })  # fmt: skip

    predictor = Additive(training_shifts(screen), "control", "+")
    assert np.allclose(added(predictor, "k562", "B+A"), SHIFT["A"] + SHIFT["B"], atol=1e-5)
