"""The verdict says what the figures say, and no more."""

import csv
import json

import numpy as np
import pytest

from training.cells import Condition
from training.tasks.perturbation.evaluation.evaluate import Measured, Score
from training.tasks.perturbation.evaluation.verdict import Judged, summarise, write_evaluation

A, B, C = (Condition("x", "k562", name) for name in "ABC")
D = Condition("x", "rpe1", "A")
NAN = float("nan")
ANSWERS = {"additive": "combinations of trained parts"}


def scores(values, n_cells=10):
    """{(predictor, metric): {condition: value}} -> scores."""
    return [Score(condition, p, m, value, n_cells) for (p, m), row in values.items() for condition, value in row.items()]


def both(predictor, cosine, energy):
    return {(predictor, "cosine"): cosine, (predictor, "energy_distance"): energy}


def summary(values, split="test", validation="split", trained=(), aside=True, n_controls=None, n_cells=10):
    judged = scores(values, n_cells)
    counted = n_controls or {f"{s.condition.dataset}.{s.condition.cell_type}": 30 for s in judged}
    return summarise(
        Measured(tuple(judged), counted),
        Judged(
            checkpoint="model.pt",
            step=400,
            split_file="screen.toml",
            split=split,
            representation="genes",
            validation=validation,
            trained=trained,
            controls_set_aside=aside,
            answers=ANSWERS,
            seed=0,
        ),
    )


def line(evaluation, start):
    """The line of the verdict that begins so."""
    (found,) = [text for text in evaluation.verdict.splitlines() if text.startswith(f"- {start}")]
    return found


GOOD = (
    both("model", {A: 0.55, B: 0.45, C: 0.5}, {A: 0.1, B: 0.1, C: 0.1})
    | both("no_change", {A: 0.0, B: 0.0, C: 0.0}, {A: 0.4, B: 0.38, C: 0.42})
    | both("mean_shift_per_perturbation", {A: 0.2}, {A: 0.2})
    | both("ceiling", {A: 0.9, B: 0.7, C: 0.8}, {A: 0.01, B: -0.01, C: 0.0})
)


def test_a_model_that_wins():
    verdict = summary(GOOD).verdict.splitlines()

    assert verdict[0] == "Verdict: for 3 conditions (split test), none of which the model was trained on,"
    assert verdict[1] == (
        "- on cosine of the mean shift (higher is better) the model beats no change (0.5 against 0) and is not told apart from "
        "mean shift per perturbation (0.55 against 0.2, on only 1 condition); a repeat of the experiment has 0.8"
    )
    assert verdict[2] == (
        "- on energy distance (lower is better) the model beats no change (0.1 against 0.4) and is not told apart from mean shift "
        "per perturbation (0.1 against 0.2, on only 1 condition); a repeat of the experiment has 0"
    )
    assert verdict[-1] == (
        '- "beats": the 95% interval, corrected for 4 comparisons, lies on the better side; "loses": the plain interval lies on '
        "the worse side; on fewer than 3 conditions, and where no change is not beaten, nothing is won"
    )


def test_a_model_that_loses_is_told_so():
    evaluation = summary(GOOD | both("model", {A: 0.1, B: 0.12, C: 0.11}, {A: 0.9, B: 0.91, C: 0.93}))

    assert "loses to mean shift per perturbation (0.1 against 0.2, on only 1 condition)" in line(evaluation, "on cosine")
    assert "the model loses to no change (0.913 against 0.4), mean shift" in line(evaluation, "on energy")


def test_every_cell_type_and_metric_in_which_the_model_is_worse_is_named():
    """Pooled the model wins on cosine; in rpe1 it is worse than no change on energy distance."""
    k562 = [Condition("x", "k562", f"P{i}") for i in range(6)]
    rpe1 = [Condition("x", "rpe1", f"P{i}") for i in range(6)]
    rng = np.random.default_rng(0)

    def row(of_k562, of_rpe1):
        noise = rng.normal(size=12) * 0.02
        return dict(zip([*k562, *rpe1], [of_k562] * 6 + [of_rpe1] * 6 + noise, strict=True))

    evaluation = summary(both("model", row(0.6, 0.1), row(0.1, 0.8)) | both("no_change", row(0, 0), row(0.5, 0.5)))

    assert "beats no change (0.3" in line(evaluation, "on cosine")
    assert "in rpe1" not in evaluation.verdict
    assert line(evaluation, "in x.rpe1 alone").startswith("- in x.rpe1 alone the model loses to no change on energy distance (0.8")
    assert "in x.k562" not in evaluation.verdict
    assert {c.scope for c in evaluation.comparisons} == {"all", "x.k562", "x.rpe1"}


def test_a_cell_type_that_is_not_judged_is_named():
    missing = {(p, m): row | {D: NAN} for (p, m), row in GOOD.items()}
    evaluation = summary(missing, n_controls={"x.k562": 30, "x.rpe1": 1})

    assert line(evaluation, "x.rpe1") == "- x.rpe1 is not judged: 1 controls measure there, and 8 are needed (1 condition)"
    assert "no prediction" not in evaluation.verdict


def test_a_model_that_was_trained_on_the_measuring_controls_wins_nothing():
    evaluation = summary(GOOD, aside=False)

    assert "beats no change" not in evaluation.verdict
    assert "controls not set aside: the model may have trained on the controls that measure" in evaluation.verdict
    assert evaluation.controls_set_aside is False
    assert "controls not set aside" not in summary(GOOD).verdict


def test_one_cell_has_no_energy_distance_and_the_verdict_says_why():
    one = both("model", {A: 0.6}, {A: NAN}) | both("no_change", {A: 0.0}, {A: NAN})
    evaluation = summary(one, n_cells=1)

    assert line(evaluation, "on energy").endswith("has nothing to beat: it takes two cells, and there is one of A in x.k562")
    assert line(evaluation, "one cell") == "- one cell has no spread: the energy distance is undefined for A in x.k562"


def test_conditions_without_a_prediction_are_counted():
    evaluation = summary(GOOD | both("model", {A: 0.6}, {A: 0.1}))

    assert evaluation.verdict.startswith("Verdict: for 1 condition (split test), which the model was not trained on,")
    assert line(evaluation, "the model has no") == "- the model has no prediction for 2 more"
    without = both("additive", {A: NAN, B: NAN, C: NAN}, {A: NAN, B: NAN, C: NAN})
    assert line(summary(GOOD | without), "no answer") == "- no answer from additive: it answers combinations of trained parts"
    assert summary(GOOD | without).baselines["additive"]["cosine"] is None
    assert summary(GOOD | without).n_conditions_answered["additive"] == 0
    silent = {key: row for key, row in GOOD.items() if key[0] != "model"}
    assert summary(silent).verdict == "Verdict: the model has no prediction for any of 3 conditions (split test)."


def test_the_verdict_names_conditions_that_chose_the_weights():
    said = {
        (split, validation): summary(GOOD, split, validation).verdict.partition(",")[0]
        for split in ("val", "test")
        for validation in ("split", "test", "none")
    }

    assert said["test", "split"] == said["test", "none"] == "Verdict: for 3 conditions (split test)"
    assert said["val", "test"] == said["val", "none"] == "Verdict: for 3 conditions (split val)"
    assert said["val", "split"] == "Verdict: for 3 conditions that the weights were chosen by (split val)"
    assert said["test", "test"] == "Verdict: for 3 conditions that the weights were chosen by (split test)"


def test_the_verdict_counts_conditions_that_the_model_was_trained_on():
    a, b, c, elsewhere = ("k562", "A"), ("k562", "B"), ("k562", "C"), ("rpe1", "B")
    one = both("model", {A: 0.6}, {A: 0.1})
    told = [
        (GOOD, (), 0, "for 3 conditions (split test), none of which the model was trained on,"),
        (GOOD, [a, elsewhere], 1, "for 3 conditions (split test), 1 of which the model was trained on,"),
        (GOOD, [a, b, c, elsewhere], 3, "for 3 conditions (split test), all of which the model was trained on,"),
        (one, [b], 0, "for 1 condition (split test), which the model was not trained on,"),
        (one, [a], 1, "for 1 condition (split test), which the model was trained on,"),
    ]

    for values, trained, n, words in told:
        evaluation = summary(values, trained=trained)
        assert evaluation.n_conditions_trained_on == n
        assert words in evaluation.verdict
        assert "held-out" not in evaluation.verdict


def test_only_predicted_conditions_count_as_trained_on_in_the_verdict():
    values = GOOD | both("model", {A: 0.6, B: NAN, C: NAN}, {A: 0.1, B: NAN, C: NAN})
    evaluation = summary(values, trained=[("k562", "B")])

    assert evaluation.n_conditions_trained_on == 1
    assert "for 1 condition (split test), which the model was not trained on," in evaluation.verdict


def test_undefined_values_count_nowhere():
    values = GOOD | both("model", {A: 0.6, B: NAN, C: NAN}, {A: NAN, B: NAN, C: NAN})
    evaluation = summary(values)

    assert evaluation.model["cosine"] == 0.6
    assert evaluation.model["energy_distance"] is None
    assert {c.metric for c in evaluation.comparisons} == {"cosine"}
    assert "no baseline has an answer" in evaluation.verdict


def test_figures_overall_and_per_cell_type():
    evaluation = summary(both("model", {A: 0.6, B: 0.4, D: -0.4}, {A: 1.0, B: 2.0, D: 6.0}))

    assert evaluation.model["cosine"] == pytest.approx(0.2)
    assert evaluation.margins["model"]["cosine"] == pytest.approx(
        4.302653 * np.std([0.6, 0.4, -0.4], ddof=1) / np.sqrt(3), rel=1e-5
    )
    assert evaluation.margins["model"]["mae_delta"] is None
    assert evaluation.cell_types["x.k562"]["model"]["cosine"] == pytest.approx(0.5)
    assert evaluation.cell_types["x.rpe1"]["model"]["energy_distance"] == 6
    assert evaluation.n_conditions_answered == {"model": 3}
    assert list(summary(GOOD).cell_types["x.k562"]) == ["model", "no_change", "mean_shift_per_perturbation", "ceiling"]  # as judged


def test_files(tmp_path):
    values = GOOD | both("model", {A: 0.6, B: NAN, C: 0.5}, {A: 0.1, B: 0.1, C: 0.1})
    write_evaluation(tmp_path, summary(values), scores(values))

    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["verdict"].startswith("Verdict: ")
    assert set(written["baselines"]) == {"no_change", "mean_shift_per_perturbation"}
    assert (written["checkpoint"], written["step"], written["split_file"]) == ("model.pt", 400, "screen.toml")
    assert (written["n_conditions_trained_on"], written["seed"], written["draws"]) == (0, 0, 10)
    assert written["n_controls"] == {"x.k562": 30}
    assert {c["outcome"] for c in written["comparisons"]} == {"better", "undecided"}
    assert written["model"]["cosine"] == pytest.approx(0.55)
    assert written["model"]["mae_delta"] is None
    assert written["ceiling"]["cosine"] == pytest.approx(0.8)
    rows = list(csv.DictReader((tmp_path / written["table"]).read_text().splitlines()))
    assert len(rows) == len(scores(values))
    assert list(rows[0].values()) == ["x", "k562", "A", "model", "cosine", "0.6", "10"]
    assert rows[1]["value"] == ""
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "evaluation.csv"}
