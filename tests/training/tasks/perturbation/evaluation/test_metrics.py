"""Metrics against double loops and scipy."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist
from scipy.stats import pearsonr

from training.tasks.perturbation.evaluation import metrics
from training.tasks.perturbation.evaluation.metrics import BY_NAME, METRICS


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_energy_distance_equals_the_formula_over_pairs(rng):
    x, y = rng.normal(size=(9, 5)), rng.normal(1.0, 2.0, size=(13, 5))

    distance = metrics.energy_distance_unbiased(x, y)

    assert distance == pytest.approx(cdist(x, y).mean() - pdist(x).mean() / 2 - pdist(y).mean() / 2, rel=1e-12)
    assert distance == pytest.approx(metrics.energy_distance_unbiased(y, x), rel=1e-12)
    assert metrics.energy_distance_unbiased(x, y, metrics.mean_distance_within(y)) == distance


def test_energy_distance_has_the_convention_of_the_training_loss(rng):
    torch = pytest.importorskip("torch")
    losses = pytest.importorskip("training.losses.energy")
    x, y = rng.normal(size=(8, 4)), rng.normal(0.5, size=(6, 4))

    theirs = losses.energy_distance_unbiased(torch.tensor(x)[None], torch.tensor(y)[None])

    assert metrics.energy_distance_unbiased(x, y) == pytest.approx(float(theirs[0]), rel=1e-9)


def test_energy_distance_is_unbiased(rng):
    """Small samples of one distribution: 0 on average, on both sides of it."""
    values = [metrics.energy_distance_unbiased(rng.normal(size=(4, 3)), rng.normal(size=(5, 3))) for _ in range(4000)]

    assert np.mean(values) == pytest.approx(0, abs=4 * np.std(values) / np.sqrt(len(values)))
    assert min(values) < 0 < max(values)


def test_energy_distance_survives_a_large_offset_in_float32(rng):
    x, y = rng.normal(size=(6, 3)).astype(np.float32), rng.normal(1, size=(6, 3)).astype(np.float32)

    moved = metrics.energy_distance_unbiased(x + np.float32(4096), y + np.float32(4096))

    assert moved == pytest.approx(metrics.energy_distance_unbiased(x, y), abs=2e-3)  # float32 keeps 5e-4 at 4096


def test_energy_distance_of_a_single_cell_is_undefined(rng):
    assert np.isnan(metrics.energy_distance_unbiased(rng.normal(size=(1, 3)), rng.normal(size=(5, 3))))


def test_pearson_and_cosine_equal_scipy(rng):
    a, b = rng.normal(1, size=50), rng.normal(1, size=50)

    assert metrics.pearson(a, b) == pytest.approx(pearsonr(a, b).statistic, rel=1e-12)
    assert metrics.cosine(a, b) == pytest.approx(1 - cdist(a[None], b[None], "cosine")[0, 0], rel=1e-12)
    assert metrics.cosine(a, -3 * a) == pytest.approx(-1)


@pytest.mark.parametrize("shift", [np.zeros(5), np.full(5, 0.1)])
def test_a_shift_without_direction_correlates_with_nothing(shift, rng):
    assert metrics.pearson(shift, rng.normal(size=5)) == 0
    assert metrics.cosine(np.zeros(5), rng.normal(size=5)) == 0


def test_mae_delta_and_norm_ratio_by_hand():
    assert metrics.mae_delta(np.array([1.0, -2.0]), np.array([0.0, 2.0])) == 2.5
    assert metrics.norm_ratio(np.array([3.0, 4.0]), np.array([0.0, 10.0])) == 0.5
    assert np.isnan(metrics.norm_ratio(np.ones(2), np.zeros(2)))


def score(predicted, real, true):
    similar = np.array([metrics.cosine(predicted, shift) for shift in real])
    return metrics.discrimination_score(similar[true], np.delete(similar, true))


def test_discrimination_is_1_for_the_most_and_0_for_the_least_similar():
    real = np.eye(5) + 0.1

    assert score(100 * real[2], real, 2) == 1  # whatever the length
    assert score(-real[2], real, 2) == 0
    assert score(np.array([0.0, 1, 2, 3, 4]), real, 3) == 0.75


def test_discrimination_equals_a_loop(rng):
    real, predicted = rng.normal(size=(7, 4)), rng.normal(size=4)
    similar = [metrics.cosine(predicted, shift) for shift in real]

    for true in range(7):
        beaten = sum(similar[other] < similar[true] for other in range(7) if other != true)
        assert score(predicted, real, true) == pytest.approx(beaten / 6)


def test_discrimination_by_chance_is_a_half(rng):
    real = rng.normal(size=(20, 6))

    random = [score(rng.normal(size=6), real, i % 20) for i in range(2000)]
    constant = [score(real.mean(axis=0), real, true) for true in range(20)]

    assert np.mean(random) == pytest.approx(0.5, abs=0.03)
    assert np.mean(constant) == pytest.approx(0.5, rel=1e-12)  # one answer for all: exactly
    assert score(np.zeros(6), real, 3) == 0.5  # all similarities tie
    assert np.isnan(score(real[0], real[:1], 0))


def test_every_metric_is_explained_once_and_says_what_is_better():
    assert len(BY_NAME) == len(METRICS) == 6
    better = {metric.name: metric.better for metric in METRICS}
    assert better["cosine"] == better["pearson"] == better["discrimination_score"] == "higher"
    assert (better["energy_distance"], better["mae_delta"], better["norm_ratio"]) == ("lower", "lower", "near 1")


def test_the_mean_of_ratios_is_geometric():
    """Ten times too short and nearly two times too long are not right on average."""
    ratio = BY_NAME["norm_ratio"]

    assert ratio.mean([0.1, 1.9]) == pytest.approx(np.exp(np.mean(np.log([0.1, 1.9]))))
    assert ratio.mean([0.5, 2.0]) == pytest.approx(1)
    assert ratio.mean([0.0, 0.0]) == ratio.mean([0.0, 2.0]) == 0
    assert BY_NAME["mae_delta"].mean([0.1, 1.9]) == pytest.approx(1)
    assert ratio.mean([]) is BY_NAME["mae_delta"].mean([]) is None


def test_what_is_so_by_definition_is_said():
    assert all("by definition" in BY_NAME[name].sentence for name in ("cosine", "pearson", "norm_ratio"))
