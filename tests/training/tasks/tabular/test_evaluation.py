"""Figures, intervals and the verdict; a verdict that labels without signal cannot fool."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from tests.training.tasks.tabular.conftest import config_of, fit
from training.tasks.tabular.arrays import Rows, TabularData, read_arrays
from training.tasks.tabular.baselines import LOGISTIC, MAJORITY
from training.tasks.tabular.evaluation import TabularEvaluation, compare, evaluate, figures_of
from training.tasks.tabular.objective import probabilities


def outcomes(evaluation: TabularEvaluation) -> dict[tuple[str, str], str]:
    return {(each.baseline, each.metric): each.outcome for each in evaluation.comparisons}


def made_up(n_train=400, n_val=200, seed=0) -> TabularData:
    """One column decides, but not in a line: class 1 is where it is far from 0."""
    rng = np.random.default_rng(seed)
    splits = []
    for n in (n_train, n_val):
        x = rng.normal(size=(n, 2)).astype(np.float32)
        p = np.where(np.abs(x[:, 0]) > 0.8, 0.9, 0.1)
        splits.append(Rows(x, (rng.random(n) < p).astype(np.int64), p))
    return TabularData(splits[0], splits[1], None, "")


def test_figures_are_those_of_a_calculation_by_hand():
    figures = figures_of(np.array([0.9, 0.8, 0.5, 0.4]), np.array([1, 0, 0, 1]))

    assert figures.accuracy == 0.5
    np.testing.assert_allclose(figures.log_loss, -np.log([0.9, 0.2, 0.5, 0.4]).mean())
    low, high = figures.accuracy_interval
    np.testing.assert_allclose([binom.sf(1, 4, low), binom.cdf(2, 4, high)], 0.025, atol=1e-9)
    assert figures.log_loss_interval[0] < figures.log_loss < figures.log_loss_interval[1]


def test_a_certain_prediction_that_is_wrong_costs_what_the_training_loss_says():
    assert figures_of(np.array([0.0, 1.0]), np.array([1, 0])).log_loss == 100


def test_the_truth_beats_both_baselines_where_a_line_cannot_follow_it():
    data = made_up()
    assert data.val.probability is not None

    evaluation = evaluate(data.val.probability, data)

    assert set(outcomes(evaluation).values()) == {"better"}
    assert evaluation.bayes_accuracy == pytest.approx(0.9)
    assert evaluation.ceiling == evaluation.model
    assert "on accuracy (higher is better) the model beats majority class (" in evaluation.verdict
    found = (
        f"the true probabilities have {evaluation.model.accuracy:.3g} on these rows, and 0.9 on average over the chance in labels"
    )
    assert found in evaluation.verdict


def test_a_model_that_is_worse_loses():
    data = made_up()
    assert data.val.probability is not None

    evaluation = evaluate(1 - data.val.probability, data)

    assert set(outcomes(evaluation).values()) == {"worse"}
    assert "the model loses to majority class (" in evaluation.verdict


def test_the_baselines_themselves_are_not_told_apart_from_themselves():
    data = made_up()

    evaluation = evaluate(np.full(200, data.train.y.mean()), data)

    assert outcomes(evaluation)[MAJORITY, "accuracy"] == outcomes(evaluation)[MAJORITY, "log_loss"] == "undecided"
    assert "true probabilities" in evaluation.verdict


def test_a_win_on_few_rows_is_none():
    y = np.array([1, 1, 0, 0])

    compared = compare(np.where(y == 1, 0.9, 0.1), {MAJORITY: np.full(4, 0.4)}, y)

    assert compared[0].gain == 0.5  # all right, against half of them
    assert compared[0].outcome == "undecided"


@pytest.mark.parametrize(("won", "outcome"), [(7, "undecided"), (8, "better")])
def test_a_win_is_corrected_for_the_number_of_comparisons(won, outcome):
    y = np.ones(won + 91, int)
    other = np.r_[np.full(won, 0.4), np.full(91, 0.9)]  # wrong on these rows, on which the model is right

    compared = compare(np.full(len(y), 0.9), {MAJORITY: other, LOGISTIC: other}, y)

    assert 0.05 / 16 < compared[0].p_value < 0.05  # 2 / 2**7 is 0.0156, 2 / 2**8 is 0.0078, and 0.05 / 4 is 0.0125
    assert compared[0].outcome == outcome


def test_where_the_majority_class_is_not_beaten_nothing_is_won():
    y = np.array([0, 1] * 100)
    model, bad = np.full(200, 0.5), np.where(y == 1, 0.2, 0.8)

    compared = compare(model, {MAJORITY: np.full(200, 0.5), LOGISTIC: bad}, y)

    assert {each.outcome for each in compared} == {"undecided"}
    assert next(each for each in compared if each.baseline == LOGISTIC and each.metric == "log_loss").p_value < 1e-6


def test_the_verdict_says_when_the_rows_chose_the_epoch():
    data = made_up()

    assert "200 validation rows, which also chose the epoch of the weights," in evaluate(np.full(200, 0.5), data).verdict
    assert "chose" not in evaluate(np.full(200, 0.5), data, rows_chose_the_epoch=False).verdict


@pytest.mark.parametrize("seed", range(5))
def test_no_win_is_declared_on_labels_without_signal(passengers, tmp_path, seed):
    data = read_arrays(config_of(passengers, tmp_path).data)
    shuffle = np.random.default_rng(seed).permutation
    without = replace(data, train=Rows(data.train.x, shuffle(data.train.y)), val=Rows(data.val.x, shuffle(data.val.y)))
    config = config_of(passengers, tmp_path, optim={"lr": 1e-3}, trainer={"device": "cpu", "max_epochs": 200}, seed=seed)

    trained = fit(config, without)
    trained.stopping.restore(trained.module)

    assert "better" not in outcomes(evaluate(probabilities(trained.module.model, without.val), without)).values()


def test_a_win_is_declared_on_the_made_up_passengers(passengers, tmp_path):
    config = config_of(passengers, tmp_path, optim={"lr": 1e-3}, trainer={"device": "cpu", "max_epochs": 500})

    trained = fit(config)
    trained.stopping.restore(trained.module)
    evaluation = evaluate(probabilities(trained.module.model, trained.data.val), trained.data)

    assert outcomes(evaluation)[MAJORITY, "accuracy"] == outcomes(evaluation)[MAJORITY, "log_loss"] == "better"
    assert evaluation.bayes_accuracy is not None
    assert evaluation.model.accuracy > evaluation.bayes_accuracy - 0.05
