"""What a classifier has to beat, and what none can: predicted probabilities of class 1 that need no neural network."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from training.tasks.tabular.arrays import Float64Array, Rows

MAJORITY, LOGISTIC = "majority_class", "logistic_regression"
PENALTY = 1.0
"""Of the squared weights of the logistic regression; scikit-learn's default (`C=1`)."""

Baseline = Callable[[Rows, Rows], Float64Array]


def majority_class(train: Rows, judged: Rows) -> Float64Array:
    """The share of class 1 among the training rows, for every row. Shape: (rows of judged,)."""
    return np.full(len(judged), train.y.mean())


def logistic_regression(train: Rows, judged: Rows) -> Float64Array:
    """Logistic regression on the columns as they are, scaled over the training rows. Shape: (rows of judged,).

    Minimises the sum of log losses + PENALTY / 2 x the squared weights, without the intercept, as scikit-learn does by default;
    the optimum is unique, also where a line separates the classes.
    """
    mean, scale = train.x.mean(axis=0, dtype=np.float64), train.x.std(axis=0, dtype=np.float64)
    scale = np.where(scale > 0, scale, 1.0)
    weights = fit_logistic((train.x - mean) / scale, train.y)
    return np.asarray(expit((judged.x - mean) / scale @ weights[1:] + weights[0]))


def fit_logistic(x: npt.NDArray[np.float64], y: npt.NDArray[np.int64]) -> Float64Array:
    """Intercept and weights. Shape: x (n, d), y (n,) -> (1 + d,)."""
    signs = np.where(y == 1, 1.0, -1.0)

    def loss(weights: Float64Array) -> tuple[float, Float64Array]:
        margins = signs * (x @ weights[1:] + weights[0])
        slopes = -signs * expit(-margins)
        gradient = np.concatenate([[slopes.sum()], x.T @ slopes + PENALTY * weights[1:]])
        return float(np.logaddexp(0, -margins).sum() + PENALTY / 2 * weights[1:] @ weights[1:]), gradient

    found = minimize(
        loss, np.zeros(1 + x.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 10_000, "ftol": 0.0, "gtol": 1e-7}
    )
    return np.asarray(found.x)


BASELINES: dict[str, Baseline] = {MAJORITY: majority_class, LOGISTIC: logistic_regression}
