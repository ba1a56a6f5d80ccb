"""Baselines against closed forms and against an optimiser of its own kind."""

import numpy as np
import pytest
from scipy.optimize import minimize

from training.tasks.tabular.arrays import Rows
from training.tasks.tabular.baselines import PENALTY, fit_logistic, logistic_regression, majority_class


def rows(n: int, d: int = 4, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    return Rows(x, (x[:, 0] - 0.5 * x[:, 1] + rng.logistic(size=n) > 0.3).astype(np.int64))


def loss(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """Spelled out row by row."""
    total = PENALTY / 2 * float(np.sum(weights[1:] ** 2))
    for row, label in zip(x, y, strict=True):
        p = 1 / (1 + np.exp(-(weights[0] + row @ weights[1:])))
        total -= np.log(p if label else 1 - p)
    return total


def test_the_majority_class_is_the_share_of_class_1():
    train = rows(50)

    assert majority_class(train, rows(7)).tolist() == [train.y.mean()] * 7


def test_logistic_regression_is_the_minimum_of_the_stated_loss():
    own = rows(120)
    x = own.x.astype(np.float64)

    weights = fit_logistic(x, own.y)

    found = minimize(loss, np.zeros(5), (x, own.y), method="BFGS", options={"gtol": 1e-8})
    np.testing.assert_allclose(weights, found.x, atol=1e-5)


def test_it_learns_a_known_truth():
    train, judged = rows(20_000), rows(10, seed=1)

    truth = 1 / (1 + np.exp(-(judged.x[:, 0] - 0.5 * judged.x[:, 1] - 0.3)))

    np.testing.assert_allclose(logistic_regression(train, judged), truth, atol=0.03)


def test_the_scale_of_a_column_does_not_matter():
    train, judged = rows(200), rows(20, seed=1)
    stretched = [Rows(each.x * np.float32(1000) + np.float32(5), each.y) for each in (train, judged)]

    np.testing.assert_allclose(logistic_regression(train, judged), logistic_regression(*stretched), atol=1e-3)


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_classes_that_a_line_separates_and_constant_columns_have_an_answer(constant):
    x = np.stack([np.linspace(-1, 1, 20), np.full(20, constant)], axis=1).astype(np.float32)
    separated = Rows(x, (x[:, 0] > 0).astype(np.int64))

    predicted = logistic_regression(separated, separated)

    assert np.isfinite(predicted).all()
    assert ((predicted > 0.5) == separated.y).all()


def test_twice_the_same_bits():
    train, judged = rows(200), rows(20, seed=1)

    assert logistic_regression(train, judged).tobytes() == logistic_regression(train, judged).tobytes()
