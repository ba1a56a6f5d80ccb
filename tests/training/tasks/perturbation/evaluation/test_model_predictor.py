"""The model as a predictor: the windows, the heads, and nothing between the model and the caller."""

import numpy as np
import pytest
import torch

from training.cells import Condition, ControlCells
from training.errors import RunError

A = Condition("x", "k562", "A")


def controls(n, width=5, gem_group=None):
    values = np.random.default_rng(2).normal(size=(n, width)).astype(np.float32)
    return ControlCells(values, values, gem_group)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 17, 24, 1000])
def test_windows_cover_every_cell_once_and_are_even(make_predictor, n):
    windows = make_predictor("gene", 5).windows(n)

    sizes = [window.stop - window.start for window in windows]
    assert [i for window in windows for i in range(window.start, window.stop)] == list(range(n))
    assert max(sizes) <= 8
    assert max(sizes) - min(sizes) <= 1
    assert len(windows) == -(-n // 8)


def test_a_window_is_one_set_of_the_model(make_predictor):
    predictor = make_predictor("gene", 5)
    start = controls(10)

    predicted = predictor.predict(A, start)

    vector = predictor.spec.perturbation_vectors[:1]
    with torch.no_grad():
        expected = [
            predictor._model(torch.tensor(start.input[None, half]), vector).cells[0] for half in (slice(0, 5), slice(5, 10))
        ]
    assert np.array_equal(predicted, torch.cat(expected).numpy())
    assert np.array_equal(predicted, predictor.predict(A, start))


def test_no_dropout(make_predictor):
    predictor = make_predictor("all", 5, 3, dropout=0.5, decoder_dropout=0.5, encoder_layers=2)

    assert np.array_equal(predictor.predict(A, controls(8)), predictor.predict(A, controls(8)))


def test_nothing_is_clipped(make_predictor):
    """Genes in and out with an identity residual: negative values are the model's own."""
    assert make_predictor("gene", 5).predict(A, controls(50)).min() < 0
    assert make_predictor("all", 5, 3).predict_cells("A", controls(50).input, None).cells.min() < 0


def test_the_judged_values_are_the_genes_where_there_is_a_decoder(make_predictor):
    predictor = make_predictor("all", 5, 3)
    both = predictor.predict_cells("A", controls(10).input, None)

    assert both.cells.shape == (10, 5)
    assert both.genes.shape == (10, 3)
    assert np.array_equal(predictor.predict(A, controls(10)), both.genes)
    assert make_predictor("embedding", 5).predict(A, controls(10)).shape == (10, 5)


def test_each_perturbation_has_its_own_vector(make_predictor):
    predictor = make_predictor("gene", 5)
    one, other = (predictor.predict(Condition("x", "k562", name), controls(8)) for name in "AB")

    assert not np.allclose(one, other)
    assert predictor.predict(Condition("x", "k562", "unknown"), controls(8)) is None


def test_gem_groups_reach_the_model(make_predictor):
    predictor = make_predictor("gene", 5, gem_group_embedding=True)
    one, other = (predictor.predict(A, controls(8, gem_group=np.full(8, group))) for group in (0, 1))

    assert not np.allclose(one, other)


def test_broken_weights_do_not_pass_for_predictions(make_predictor):
    predictor = make_predictor("gene", 5)
    with torch.no_grad():
        predictor._model.project_out[-1].bias[0] = float("nan")

    with pytest.raises(RunError, match="NaN or infinite values for perturbation A"):
        predictor.predict(A, controls(8))
