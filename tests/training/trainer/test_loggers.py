"""Where logged values go."""

import json

from training.trainer.loggers import JsonLines


def test_metrics_append_line_by_line(tmp_path):
    for step in (1, 2):
        JsonLines(tmp_path / "metrics.jsonl").log_metrics({"train/loss_total": 0.5}, step)

    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "train/loss_total": 0.5}, {"step": 2, "train/loss_total": 0.5}]
