"""The verdict says what the figures say, and no more."""

import csv
import json

import numpy as np
import pytest

from training.cells import Condition
from training.evaluation.evaluate import Score
from training.evaluation.verdict import summarise, write_evaluation

A, B, C = (Condition("x", "k562", name) for name in "ABC")
D = Condition("x", "rpe1", "A")
NAN = float("nan")


def scores(values):
    """{(predictor, metric): {condition: value}} -> scores."""
    return [Score(condition, p, m, value, 10) for (p, m), row in values.items() for condition, value in row.items()]


def both(predictor, cosine, energy):
    return {(predictor, "cosine"): cosine, (predictor, "energy_distance"): energy}


def summary(values, split="test", validation="split", trained=()):
    judged = scores(values)
    return summarise(
        judged, split, "genes", 500, validation, trained=trained, checkpoint="model.pt", step=400, split_file="screen.toml"
    )


def cosines(model, baseline, metric="cosine"):
    """The comparison of a model with a baseline that have these values for as many conditions."""
    conditions = [Condition("x", "k562", f"P{i}") for i in range(len(model))]
    values = {(name, metric): dict(zip(conditions, row, strict=True)) for name, row in (("model", model), ("no_change", baseline))}
    evaluation = summary(values)
    (comparison,) = evaluation.comparisons
    return comparison, evaluation.verdict


GOOD = (
    both("model", {A: 0.6, B: 0.4}, {A: 0.1, B: 0.1})
    | both("no_change", {A: 0.0, B: 0.0}, {A: 0.4, B: 0.2})
    | both("mean_shift_per_perturbation", {A: 0.2}, {A: 0.2})
    | both("ceiling", {A: 0.9, B: 0.7}, {A: 0.01, B: -0.01})
)


def test_a_model_that_wins():
    assert summary(GOOD).verdict == (
        "Verdict: for 2 conditions (split test), none of which the model was trained on, "
        "on cosine of the mean shift (higher is better) the model beats "
        "no change (0.5 against 0, on only 2 conditions), "
        "mean shift per perturbation (0.6 against 0.2, on only 1 condition) (ceiling 0.8); "
        "on energy distance (lower is better) the model beats "
        "no change (0.1 against 0.3, on only 2 conditions), "
        "mean shift per perturbation (0.1 against 0.2, on only 1 condition) (ceiling 0)."
    )


def test_a_model_that_loses_is_told_so():
    verdict = summary(GOOD | both("model", {A: 0.1, B: 0.1}, {A: 0.9, B: 0.9})).verdict

    assert (
        "beats no change (0.1 against 0, on only 2 conditions) and loses to mean shift per perturbation (0.1 against 0.2" in verdict
    )
    assert (
        "on energy distance (lower is better) the model loses to no change (0.9 against 0.3, on only 2 conditions), mean" in verdict
    )


def test_a_tie_is_no_win():
    tied = summary(GOOD | both("model", {A: 0.0, B: 0.0}, {A: 1.0, B: 1.0}))

    assert "is not told apart from no change (0 against 0, on only 2 conditions)" in tied.verdict


def test_a_difference_within_its_standard_error_is_no_win_and_no_loss():
    """Differences 0.6, -0.2, -0.1: mean 0.1, standard error 0.25."""
    comparison, verdict = cosines([0.8, 0.1, 0.3], [0.2, 0.3, 0.4])
    turned, _ = cosines([0.2, 0.3, 0.4], [0.8, 0.1, 0.3])

    assert comparison.outcome == turned.outcome == "undecided"
    assert comparison.standard_error == pytest.approx(np.std([0.6, -0.2, -0.1], ddof=1) / np.sqrt(3))
    assert "the model is not told apart from no change (0.4 against 0.3)" in verdict
    assert "beats" not in verdict


def test_a_difference_beyond_its_standard_error_decides():
    """The values of both scatter widely, their paired differences (0.1, 0.2, 0.1) do not."""
    one, other = [0.1, 0.5, 0.9], [0.0, 0.3, 0.8]

    assert [cosines(*pair)[0].outcome for pair in ((one, other), (other, one))] == ["better", "worse"]
    assert [cosines(*pair, "mae")[0].outcome for pair in ((one, other), (other, one))] == ["worse", "better"]
    assert "the model beats no change (0.5 against 0.367)" in cosines(one, other)[1]
    assert "the model loses to no change (0.367 against 0.5)" in cosines(other, one)[1]


def test_two_conditions_have_no_standard_error_and_the_verdict_says_how_few_they_are():
    comparison, verdict = cosines([0.8, 0.1], [0.2, 0.3])

    assert (comparison.outcome, comparison.standard_error) == ("better", None)
    assert "beats no change (0.45 against 0.25, on only 2 conditions)" in verdict


def test_ratios_are_compared_by_their_logarithms():
    """0.1 and 1.9 have the arithmetic mean 1, and are worse than 0.8 throughout."""
    comparison, _ = cosines([0.1, 1.9, 0.1, 1.9], [0.8, 0.8, 0.8, 0.8], "norm_ratio")

    assert comparison.outcome == "worse"
    assert comparison.model == pytest.approx(0.19**0.5)
    assert cosines([0.5, 2.0, 0.5], [2.0, 0.5, 2.0], "norm_ratio")[0].outcome == "undecided"


def test_a_ratio_of_0_loses_without_a_standard_error():
    ratios, zeros = [0.1, 0.2, 0.3], [0.0, 0.0, 0.0]
    compared = [cosines(*pair, "norm_ratio")[0] for pair in ((ratios, zeros), (zeros, ratios), (zeros, zeros))]

    assert [(c.outcome, c.standard_error) for c in compared] == [("better", None), ("worse", None), ("undecided", None)]
    assert [c.other for c in compared[::2]] == [0, 0]


def test_a_model_between_baselines():
    conditions = [Condition("x", "k562", f"P{i}") for i in range(3)]
    rows = {"model": [0.5, 0.4, 0.6], "no_change": [0.0] * 3, "additive": [0.9] * 3, "other": [0.4, 0.5, 0.6]}
    values = {(name, "cosine"): dict(zip(conditions, row, strict=True)) for name, row in rows.items()}

    assert (
        "the model beats no change (0.5 against 0) and is not told apart from other (0.5 against 0.5) "
        "and loses to additive (0.5 against 0.9)"
    ) in summary(values).verdict


def test_a_baseline_is_compared_on_shared_conditions_only():
    """Over its own conditions the baseline looks better (0.5) than the model over all of its (0.35)."""
    values = both("model", {A: 0.6, B: 0.1}, {A: 0.1, B: 0.1}) | both("no_change", {A: 0.5}, {A: 0.2})
    comparison = next(c for c in summary(values).comparisons if c.metric == "cosine")

    assert (comparison.model, comparison.other, comparison.n_conditions, comparison.outcome) == (0.6, 0.5, 1, "better")


def test_conditions_without_a_prediction_are_counted():
    values = GOOD | both("model", {A: 0.6}, {A: 0.1})

    assert summary(values).verdict.startswith("Verdict: for 1 condition (split test), which the model was not trained on, ")
    assert summary(values).verdict.endswith("It has no prediction for 1 more.")
    without = both("additive", {A: NAN, B: NAN}, {A: NAN, B: NAN})
    assert summary(GOOD | without).verdict == summary(GOOD).verdict + " No answer from additive."
    assert summary(GOOD | without).baselines["additive"]["cosine"] is None
    assert summary(GOOD | without).n_conditions_answered["additive"] == 0
    silent = {key: row for key, row in GOOD.items() if key[0] != "model"}
    assert summary(silent).verdict == "Verdict: the model has no prediction for any of 2 conditions (split test)."


def test_the_verdict_names_conditions_that_chose_the_weights():
    said = {
        (split, validation): summary(GOOD, split, validation).verdict.partition(",")[0]
        for split in ("val", "test")
        for validation in ("split", "test", "none")
    }

    assert said["test", "split"] == said["test", "none"] == "Verdict: for 2 conditions (split test)"
    assert said["val", "test"] == said["val", "none"] == "Verdict: for 2 conditions (split val)"
    assert said["val", "split"] == "Verdict: for 2 conditions that the weights were chosen by (split val)"
    assert said["test", "test"] == "Verdict: for 2 conditions that the weights were chosen by (split test)"


def test_the_verdict_counts_conditions_that_the_model_was_trained_on():
    a, b, elsewhere = ("k562", "A"), ("k562", "B"), ("rpe1", "B")
    one = both("model", {A: 0.6}, {A: 0.1})
    told = [
        (GOOD, (), 0, "for 2 conditions (split test), none of which the model was trained on, on cosine"),
        (GOOD, [a, elsewhere], 1, "for 2 conditions (split test), 1 of which the model was trained on, on cosine"),
        (GOOD, [a, b, elsewhere], 2, "for 2 conditions (split test), all of which the model was trained on, on cosine"),
        (one, [b], 0, "for 1 condition (split test), which the model was not trained on, on cosine"),
        (one, [a], 1, "for 1 condition (split test), which the model was trained on, on cosine"),
    ]

    for values, trained, n, words in told:
        evaluation = summary(values, trained=trained)
        assert evaluation.n_conditions_trained_on == n
        assert words in evaluation.verdict
        assert "held-out" not in evaluation.verdict


def test_only_predicted_conditions_count_as_trained_on_in_the_verdict():
    evaluation = summary(GOOD | both("model", {A: 0.6, B: NAN}, {A: 0.1, B: NAN}), trained=[("k562", "B")])

    assert evaluation.n_conditions_trained_on == 1
    assert "for 1 condition (split test), which the model was not trained on, " in evaluation.verdict


def test_undefined_values_count_nowhere():
    values = GOOD | both("model", {A: 0.6, B: NAN}, {A: NAN, B: NAN})
    evaluation = summary(values)

    assert evaluation.model["cosine"] == 0.6
    assert evaluation.model["energy_distance"] is None
    assert {c.metric for c in evaluation.comparisons} == {"cosine"}
    assert "no baseline has an answer" in evaluation.verdict


def test_figures_overall_and_per_cell_type():
    evaluation = summary(both("model", {A: 0.6, B: 0.4, D: -0.4}, {A: 1.0, B: 2.0, D: 6.0}))

    assert evaluation.model["cosine"] == pytest.approx(0.2)
    assert evaluation.cell_types["x.k562"]["model"]["cosine"] == pytest.approx(0.5)
    assert evaluation.cell_types["x.rpe1"]["model"]["energy_distance"] == 6
    assert evaluation.n_conditions_answered == {"model": 3}
    assert list(summary(GOOD).cell_types["x.k562"]) == ["model", "no_change", "mean_shift_per_perturbation", "ceiling"]  # as judged


def test_files(tmp_path):
    values = GOOD | both("model", {A: 0.6, B: NAN}, {A: 0.1, B: 0.1})
    write_evaluation(tmp_path, summary(values), scores(values))

    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["verdict"].startswith("Verdict: ")
    assert set(written["baselines"]) == {"no_change", "mean_shift_per_perturbation"}
    assert (written["checkpoint"], written["step"], written["split_file"]) == ("model.pt", 400, "screen.toml")
    assert written["n_conditions_trained_on"] == 0
    assert {c["outcome"] for c in written["comparisons"]} == {"better"}
    assert written["model"]["cosine"] == 0.6
    assert written["model"]["mae"] is None
    assert written["ceiling"]["cosine"] == pytest.approx(0.8)
    rows = list(csv.DictReader((tmp_path / written["table"]).read_text().splitlines()))
    assert len(rows) == len(scores(values))
    assert list(rows[0].values()) == ["x", "k562", "A", "model", "cosine", "0.6", "10"]
    assert rows[1]["value"] == ""
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "evaluation.csv"}
