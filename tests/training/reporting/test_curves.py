"""Reading metrics.jsonl, whatever a kill did to it, and drawing it the same way every time."""

import json

import pytest

from training.reporting.curves import History, draw, read_history
from training.tasks.perturbation.task import TASK


@pytest.fixture
def write(tmp_path):
    def write(*lines):
        path = tmp_path / "metrics.jsonl"
        path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
        return path

    return write


def test_training_and_validation_of_one_step_are_two_lines(write):
    history = read_history(write({"step": 2, "train/loss_total": 1.0}, {"step": 2, "val/loss_total": 2.0}))

    assert history.series == {"train/loss_total": [(2, 1.0)], "val/loss_total": [(2, 2.0)]}


def test_of_a_step_that_was_logged_again_the_last_line_counts(write):
    before = [{"step": step, "train/loss_total": 1.0} for step in (2, 4, 6, 8)]
    after = [{"step": step, "train/loss_total": 0.5} for step in (6, 8, 10)]

    history = read_history(write(*before, *after))

    assert history.series["train/loss_total"] == [(2, 1.0), (4, 1.0), (6, 0.5), (8, 0.5), (10, 0.5)]


def test_lines_that_a_kill_cut_off_are_counted_and_left_out(write):
    history = read_history(
        write({"step": 2, "lr/decay": 1.0}, '{"step": 4, "lr/de\n', "[3]\n", '{"lr/decay": 1}\n', '{"step": 6, "lr')
    )

    assert history.series == {"lr/decay": [(2, 1.0)]}
    assert history.n_unreadable == 4


def test_no_file_is_no_history(tmp_path):
    assert read_history(tmp_path / "metrics.jsonl") == History({}, 0)


def test_a_panel_shows_its_own_names_with_floor_and_validation():
    names = [
        f"{stage}/loss_{head}{floor}" for stage in ("train", "val") for head in ("genes", "embedding") for floor in ("", "_floor")
    ]
    history = History({name: [(1, 1.0), (2, 0.5)] for name in names}, 0)

    svg = draw(TASK.panels[1], history)

    assert svg is not None
    for stage in ("train", "val"):
        assert f">{stage}/loss_genes</text>" in svg
        assert f">{stage}/loss_genes_floor (no change)</text>" in svg
    assert "loss_embedding" not in svg
    assert draw(TASK.panels[4], history) is None


def test_a_drawing_is_the_same_bytes_and_names_no_address():
    history = History({"lr/decay": [(1, 1.0), (2, 0.5)], "train/gradient_norm": [(1, 1.0)]}, 0)

    assert draw(TASK.panels[4], history) == draw(TASK.panels[4], history) is not None
    for panel in (TASK.panels[4], TASK.panels[5]):
        assert "http" not in str(draw(panel, history))
