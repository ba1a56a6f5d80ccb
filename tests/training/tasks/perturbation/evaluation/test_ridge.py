"""Ridge on features: what it recovers, and that its choices are those of leaving each condition out."""

import numpy as np
import pytest

from training.cells import Condition
from training.tasks.perturbation.evaluation import ridge
from training.tasks.perturbation.evaluation.ridge import Ridge
from training.tasks.perturbation.evaluation.shifts import TrainingShifts


def shifts_of(cell_types, n, values):
    conditions = tuple(Condition("x", cell_type, f"P{i:03d}") for cell_type in cell_types for i in range(n))
    return TrainingShifts(conditions, np.asarray(values, np.float32))


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.fixture
def linear():
    """Shifts of two cell types that are a mean of the type and the same linear function of the features, with noise."""
    rng = np.random.default_rng(0)
    features, weights = rng.normal(size=(40, 6)), rng.normal(size=(6, 30))
    means = {"k562": rng.normal(size=30), "rpe1": rng.normal(size=30)}
    values = [means[t] + features[i] @ weights + 0.3 * rng.normal(size=30) for t in means for i in range(30)]
    known = np.concatenate([features[:30], features[:30]]).astype(np.float32)
    return shifts_of(means, 30, values), known, features.astype(np.float32), weights, means


def test_a_linear_response_is_found_for_perturbations_never_seen(linear):
    shifts, known, features, weights, means = linear
    fitted = Ridge(shifts, known, np.zeros(6, np.float32))

    for i in range(30, 40):
        found = fitted.shift(Condition("x", "k562", "new"), features[i])
        assert cosine(found, means["k562"] + features[i] @ weights) > 0.98
        untrained = fitted.shift(Condition("x", "t98g", "new"), features[i])
        assert cosine(untrained, sum(means.values()) / 2 + features[i] @ weights) > 0.95


def test_features_that_tell_nothing_leave_the_mean_shift(linear):
    shifts, *_ = linear
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(60, 6)).astype(np.float32)
    shuffled = TrainingShifts(shifts.conditions, shifts.values[rng.permutation(60)])
    fitted = Ridge(shuffled, noise, np.zeros(6, np.float32))

    mean = shuffled.mean_of(shuffled.rows_of["x", "k562"])
    spread = np.linalg.norm(shuffled.values - mean, axis=1).mean()
    for row in rng.normal(size=(10, 6)).astype(np.float32):
        assert np.linalg.norm(fitted.shift(Condition("x", "k562", "new"), row) - mean) < 0.5 * spread


def test_a_cell_type_with_a_response_of_its_own_takes_its_own_regression():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(60, 4))
    weights = {"k562": rng.normal(size=(4, 20)), "rpe1": rng.normal(size=(4, 20))}
    values = [features[i] @ weights[t] + 0.1 * rng.normal(size=20) for t in weights for i in range(50)]
    fitted = Ridge(shifts_of(weights, 50, values), np.tile(features[:50], (2, 1)).astype(np.float32), np.zeros(4, np.float32))

    for i in range(50, 60):
        for cell_type in weights:
            found = fitted.shift(Condition("x", cell_type, "new"), features[i].astype(np.float32))
            assert cosine(found, features[i] @ weights[cell_type]) > 0.95


def test_a_combination_of_known_genes_is_about_the_sum_of_its_singles():
    """Each gene is perturbed once, so leaving a single out asks for no regression at all; a known pair asks for the sum."""
    rng = np.random.default_rng(3)
    singles = rng.normal(size=(12, 40))
    features = np.eye(12, dtype=np.float32)
    fitted = Ridge(shifts_of(["k562"], 12, singles), features, np.zeros(12, np.float32))

    for a, b in [(0, 1), (3, 7), (10, 11)]:
        found = fitted.shift(Condition("x", "k562", "pair"), features[a] + features[b])
        assert cosine(found, singles[a] + singles[b]) > 0.95


@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
def test_errors_of_leaving_out_equal_a_loop(penalty):
    """Of one cell type, with the mean taken off again each time."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(15, 5)), rng.normal(size=(15, 7))
    codes, everything = np.zeros(15, np.int64), np.arange(15)
    centred = [values - values.mean(axis=0) for values in (x, y)]
    a, b = centred
    fit = ridge._Fit(a, b, everything, codes, np.ones(15, bool))
    strength = penalty * (a**2).sum(axis=1).mean()

    errors = []
    for i in range(15):
        others = everything != i
        mean_x, mean_y = x[others].mean(axis=0), y[others].mean(axis=0)
        a, b = x[others] - mean_x, y[others] - mean_y
        weights = np.linalg.solve(a.T @ a + strength * np.eye(5), a.T @ b)
        errors.append(np.sum((y[i] - mean_y - (x[i] - mean_x) @ weights) ** 2))

    assert fit.errors(penalty) == pytest.approx(errors, rel=1e-9)


def test_projecting_many_columns_keeps_squared_lengths():
    values = np.random.default_rng(5).normal(size=(50, 5000)).astype(np.float32)
    sketched = ridge._sketched(values)

    assert sketched.shape == (50, ridge.SKETCH)
    assert (sketched**2).sum() == pytest.approx((values.astype(np.float64) ** 2).sum(), rel=0.05)
    assert np.array_equal(ridge._sketched(values[:, :10]), values[:, :10])
