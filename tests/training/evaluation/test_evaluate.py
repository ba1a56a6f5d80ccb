"""Predictors whose quality is known get the figures that they deserve."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training.cells import Condition
from training.config import CellSetsConfig
from training.data.assemble import open_cells
from training.data.table import UNUSED
from training.evaluation import metrics
from training.evaluation.baselines import NoChange, fit_baselines
from training.evaluation.draws import control_halves, drawn
from training.evaluation.evaluate import CEILING, evaluate
from training.evaluation.metrics import METRICS
from training.refusal import Refused

J = 30
RNG = np.random.default_rng(5)
SHIFT = {name: RNG.normal(size=J) for name in "ABCDE"}


def noisy(shift, n):
    return shift + RNG.normal(size=(n, J))


@pytest.fixture
def screen(make_screen):
    conditions = {("x", "k562", "control", "train"): noisy(0, 80), ("x", "rpe1", "control", "train"): noisy(5, 30)}
    conditions |= {("x", "k562", name, "test"): noisy(SHIFT[name], 40) for name in "ABCD"}
    conditions |= {("x", "rpe1", "E", "test"): noisy(5 + SHIFT["E"], 50), ("x", "rpe1", "A", "val"): noisy(5, 3)}
    return make_screen(conditions, gem_groups=2)


class Shifts:
    """Adds a chosen shift to the controls; remembers what it was given."""

    def __init__(self, name, shift_of):
        self.name, self.shift_of, self.given = name, shift_of, {}

    def predict(self, condition, controls):
        self.given[condition] = controls
        shift = self.shift_of(condition.perturbation)
        return None if shift is None else (controls.judged + shift).astype(np.float32)


TRUTH = Shifts("truth", SHIFT.get)
WRONG = Shifts("wrong", lambda name: -SHIFT[name])


def table(scores):
    return {(s.predictor, s.metric, s.condition.perturbation): s.value for s in scores}


def mean(scores, predictor, metric):
    return np.nanmean([s.value for s in scores if (s.predictor, s.metric) == (predictor, metric)])


def test_one_row_for_each_condition_predictor_and_metric(screen):
    scores = evaluate(screen, "test", [TRUTH, NoChange()])

    assert len({(s.condition, s.predictor, s.metric) for s in scores}) == len(scores) == 5 * 3 * len(METRICS)
    assert {s.n_cells for s in scores if s.condition.cell_type == "k562"} == {40}


def test_truth_is_good_and_its_opposite_is_bad(screen):
    scores = evaluate(screen, "test", [TRUTH, WRONG])

    assert mean(scores, "truth", "cosine") > 0.9 > -0.9 > mean(scores, "wrong", "cosine")
    assert mean(scores, "truth", "pearson") > 0.9
    assert mean(scores, "truth", "discrimination_score") == 1
    assert mean(scores, "wrong", "discrimination_score") < 0.3
    assert abs(mean(scores, "truth", "energy_distance")) < 0.05 < 1 < mean(scores, "wrong", "energy_distance")
    assert mean(scores, "truth", "mae") < 0.25 < 1 < mean(scores, "wrong", "mae")
    assert mean(scores, "truth", "norm_ratio") == pytest.approx(1, abs=0.1)


def test_the_ceiling_lies_between_no_change_and_the_truth(screen):
    """Truth has no noise of its own, a half of the cells has: so truth may pass the ceiling, and nothing noisy does."""
    scores = evaluate(screen, "test", [TRUTH, NoChange()])

    for metric, sign in [("cosine", 1), ("pearson", 1), ("mae", -1)]:
        no_change, ceiling, truth = (sign * mean(scores, name, metric) for name in ("no_change", CEILING, "truth"))
        assert no_change < ceiling < truth, metric
    assert mean(scores, CEILING, "cosine") > 0.85
    assert abs(mean(scores, CEILING, "energy_distance")) < 0.05
    assert mean(scores, CEILING, "discrimination_score") == 1


def test_no_change_has_no_direction_and_no_length(screen):
    figures = table(evaluate(screen, "test", [NoChange()]))

    assert {figures["no_change", metric, name] for metric in ("cosine", "pearson", "norm_ratio") for name in "ABCDE"} == {0.0}
    assert {figures["no_change", "discrimination_score", name] for name in "ABCD"} == {0.5}


def test_all_predictors_start_from_the_same_real_controls(screen):
    one, other = Shifts("one", SHIFT.get), Shifts("other", SHIFT.get)
    evaluate(screen, "test", [one, other])

    for condition, controls in one.given.items():
        assert controls is other.given[condition]
        rows = [np.flatnonzero((screen.reader.values["input"] == row).all(axis=1))[0] for row in controls.input]
        assert set(rows) <= set(screen.controls_of(condition))
        assert len(set(rows)) == len(rows) == {"k562": 40, "rpe1": 15}[condition.cell_type]  # half of the controls
        assert np.array_equal(controls.gem_group, screen.table.gem_group.codes[rows])


def test_figures_do_not_depend_on_order_or_on_what_else_is_judged(screen):
    every = table(evaluate(screen, "test", [TRUTH, NoChange()], max_cells=10))
    alone = table(evaluate(screen, "test", [TRUTH], max_cells=10))
    left_out = screen.table.is_in("test") & np.isin(screen.table.perturbation.codes, [1, 3])
    fewer_cells = replace(screen, table=replace(screen.table, split=np.where(left_out, UNUSED, screen.table.split)))
    fewer = table(evaluate(fewer_cells, "test", [TRUTH], max_cells=10))

    assert {perturbation for _, _, perturbation in fewer} == {"A", "C", "E"}
    assert {key: every[key] for key in alone} == pytest.approx(alone, nan_ok=True)
    for key, value in fewer.items():
        if key[1] != "discrimination_score":  # which is about the others
            assert value == every[key]


def test_another_seed_draws_other_controls(screen):
    before = table(evaluate(screen, "test", [TRUTH]))

    assert table(evaluate(replace(screen, seed=43), "test", [TRUTH]))["truth", "mae", "A"] != before["truth", "mae", "A"]


def test_the_genes_are_judged_where_there_is_a_gene_decoder(make_screen):
    genes = RNG.normal(size=(J, 4))
    conditions = {("x", "k562", "control", "train"): noisy(0, 20), ("x", "k562", "A", "test"): noisy(SHIFT["A"], 20)}
    given = Shifts("model", lambda _: np.ones(4))

    scores = evaluate(make_screen(conditions, genes=genes), "test", [given])

    (controls,) = given.given.values()
    assert np.allclose(controls.judged, controls.input @ genes, atol=1e-4)
    assert len(scores) == 2 * len(METRICS)


def test_no_more_than_max_cells_are_compared(screen):
    given = Shifts("model", SHIFT.get)
    scores = evaluate(screen, "test", [given], max_cells=10)

    assert {s.n_cells for s in scores} == {10}
    assert {len(controls.input) for controls in given.given.values()} == {10}


def test_a_predictor_without_an_answer_has_no_value(screen):
    scores = evaluate(screen, "test", [Shifts("model", lambda name: SHIFT[name] if name in "AB" else None)])

    for name, expected in [("model", {"A", "B"}), (CEILING, set("ABCDE"))]:
        assert {s.condition.perturbation for s in scores if s.predictor == name} == set("ABCDE")
        assert {s.condition.perturbation for s in scores if s.predictor == name and np.isfinite(s.value)} == expected


def test_what_is_undefined_is_nan(make_screen):
    conditions = {("x", "k562", "control", "train"): noisy(0, 20), ("x", "k562", "A", "test"): noisy(SHIFT["A"], 1)}
    figures = table(evaluate(make_screen(conditions), "test", [TRUTH]))

    assert {m for (p, m, _), value in figures.items() if p == "truth" and np.isnan(value)} == {
        "energy_distance",
        "discrimination_score",
    }
    assert all(np.isnan(value) for (p, _, _), value in figures.items() if p == CEILING)  # one cell has no halves


def test_the_ceiling_equals_the_one_by_hand(make_screen):
    """Its real cells are a half, which stands in for the condition's own row; the others count whole. Effects are weak."""
    cells = {("x", "k562", "control", "train"): noisy(0, 40)}
    screen = make_screen(cells | {("x", "k562", name, "test"): noisy(0.15 * SHIFT[name], 8) for name in "ABCD"})
    figures = table(evaluate(screen, "test", []))
    values = screen.reader.values["input"]
    conditions = [Condition("x", "k562", name) for name in "ABCD"]
    start, reference = control_halves(screen.controls_of(conditions[0]), seed=screen.seed, condition=conditions[0])
    real = {}
    for c in conditions:
        cells = screen.cells_of(c, "test")
        real[c] = values[drawn(cells, len(cells), seed=screen.seed, purpose="real cells", condition=c)]
    assert len({figures[CEILING, "discrimination_score", name] for name in "ABCD"}) > 1
    for c in conditions:
        one, other = real[c][::2], real[c][1::2]
        predicted = one.mean(axis=0, dtype=np.float64) - values[start].mean(axis=0, dtype=np.float64)
        compared = {o: (other if o == c else real[o]).mean(axis=0) - values[reference].mean(axis=0) for o in conditions}
        similar = {o: metrics.cosine(predicted, shift) for o, shift in compared.items()}

        assert figures[CEILING, "cosine", c.perturbation] == pytest.approx(similar[c], abs=1e-5)
        share = np.mean([similar[o] < similar[c] for o in conditions if o != c])
        assert figures[CEILING, "discrimination_score", c.perturbation] == share


def test_an_empty_split_is_refused(make_screen):
    conditions = {("x", "k562", "control", "train"): noisy(0, 20), ("x", "k562", "A", "val"): noisy(SHIFT["A"], 5)}

    with pytest.raises(Refused, match=r"screen.toml: no perturbed cells are in split test \(splits with some: val\)"):
        evaluate(make_screen(conditions), "test", [TRUTH])


def test_cells_of_one_context_do_not_mix_with_another(screen):
    """rpe1's controls lie elsewhere: with k562's controls its shift would be 5 in every column."""
    assert table(evaluate(screen, "test", [TRUTH]))["truth", "cosine", "E"] > 0.9
    assert Condition("x", "rpe1", "E") in screen.conditions("test")


def test_noise_of_the_controls_does_not_pass_for_agreement(make_screen):
    """Perturbations without any effect: what two shifts shared would be the noise of shared controls (cosine 0.6 if they were)."""
    conditions = {("x", "t98g", "control", "train"): noisy(0, 40)}
    conditions |= {("x", "t98g", f"P{i}", "train" if i < 20 else "test"): noisy(0, 40) for i in range(40)}
    screen = make_screen(conditions)

    cosines: dict[str, list[float]] = {name: [] for name in ("mean_shift_per_cell_type", CEILING)}
    for seed in range(20):
        seeded = replace(screen, seed=seed)
        scores = evaluate(seeded, "test", fit_baselines(seeded))
        for name, found in cosines.items():
            found.append(mean(scores, name, "cosine"))

    assert {name: abs(np.mean(found)) < 0.15 for name, found in cosines.items()} == dict.fromkeys(cosines, True), cosines


def test_the_ceiling_of_real_cell_lines_is_what_is_known_of_them(tmp_path):
    """Correlation of two halves, averaged over perturbations: k562 0.67, A172 0.12, T98G 0.01 (README of the data)."""
    path = Path("../shared/data/perturbseq_small.h5ad")
    if not path.exists():
        pytest.skip("the small real data set is not here")
    split = tmp_path / "split.toml"
    lines = [f'"small.{name}" = "test"' for name in ("k562", "A172", "T98G")]
    split.write_text(f'[datasets]\nsmall = "{path}"\n[zeroshot]\n' + "\n".join(lines))
    cells = open_cells(CellSetsConfig(split=str(split), control="control"), 16, 0)
    scores = [score for seed in range(5) for score in evaluate(replace(cells, seed=seed), "test", [])]

    pearson = {
        name: np.mean([s.value for s in scores if s.metric == "pearson" and s.condition.cell_type == name])
        for name in ("k562", "A172", "T98G")
    }
    assert pearson == pytest.approx({"k562": 0.67, "A172": 0.12, "T98G": 0.01}, abs=0.1)
