"""report.html: what it shows, what it says is missing, and that it needs nothing from outside."""

import json
import re
from html.parser import HTMLParser

import pytest

from training.cells import Condition
from training.reporting.report import write_report
from training.tasks.perturbation.evaluation.evaluate import Measured, Score
from training.tasks.perturbation.evaluation.metrics import METRICS
from training.tasks.perturbation.evaluation.verdict import Judged, summarise, write_evaluation
from training.tasks.perturbation.task import TASK


def report(run):
    return write_report(run, TASK.panels, TASK.sections(run))


class Page(HTMLParser):
    """Text of a page, and whether every element is closed where it has to be."""

    def __init__(self, html):
        super().__init__()
        self.text, self.open, self.references = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.references += [value for name, value in attrs if name in ("src", "href", "data", "action")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.references += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def run(tmp_path):
    """A run directory as `fit` and `evaluate` leave it."""
    folder = tmp_path / "my<run>"
    folder.mkdir()
    lines = [
        {"step": 1, "train/loss_genes": 2.0, "train/loss_genes_floor": 3.0, "lr/decay": 1e-3},
        {"step": 1, "val/loss_genes": 2.5},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.yaml").write_text("name: my<run>  # <script>alert(1)</script>\n")
    starts = [
        {"time": "2026-11-21T10:00:00+00:00", "step": step, "reason": reason} for step, reason in ((0, "start"), (4, "resume=true"))
    ]
    (folder / "run.json").write_text(json.dumps({"git_commit": "abc123", "versions": {"torch": "2.15"}, "starts": starts}))
    conditions = [Condition("x", "k562", "KLF1&2"), Condition("x", "k562", "<b>TGFBR2</b>")]
    values = {"model": 0.61, "no_change": 0.0, "ceiling": 0.83}
    scores = [Score(c, name, m.name, value, 25) for c in conditions for name, value in values.items() for m in METRICS]
    judged = Judged(
        checkpoint="best",
        step=1234,
        split_file="my<split>.toml",
        split="test",
        representation="genes",
        validation="split",
        trained=[("k562", "KLF1&2")],
        controls_set_aside=True,
        answers={},
        seed=7,
    )
    write_evaluation(folder, summarise(Measured(tuple(scores), {"x.k562": 33}), judged), scores)
    return folder


def test_the_report_holds_everything_of_the_run(run):
    path = report(run)

    html = path.read_text()
    page = Page(html)
    text = " ".join(page.text)
    assert path == run / "report.html"
    assert page.open == []
    assert json.loads((run / "metrics.json").read_text())["verdict"] in text
    assert "figures average 10 draws of them (evaluation.seed 7)" in text
    assert "set aside from training (x.k562 33)" in text
    for word in ("model", "no change", "ceiling", "0.61", "0.83", "KLF1&2", "<b>TGFBR2</b>", "abc123", "torch 2.15", "resume=true"):
        assert word in text, word
    assert "Judged: best (step 1234), on split test of my<split>.toml: 2 conditions, of which the model was trained on 1." in text
    assert all(metric.title in text for metric in METRICS)
    assert "train/loss_genes_floor (no change)" in text
    assert html.count("<svg") == 2
    assert "Loss, embedding head: nothing logged." in text


def test_print_shows_every_table(run):
    """A folded table does not come out on paper."""
    html = report(run).read_text()

    assert html.count("<details open>") == html.count("<details") == 2


def test_a_mean_stands_with_its_interval_and_comparisons_with_their_conditions(run):
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["margins"]["model"]["cosine"] = 0.05
    metrics["n_conditions_answered"]["no_change"] = 1
    (run / "metrics.json").write_text(json.dumps(metrics))

    text = " ".join(Page(report(run).read_text()).text)

    assert "0.61 ± 0.05" in text
    assert "over the conditions that both answer" in text
    cosine = next(c for c in metrics["comparisons"] if c["metric"] == "cosine")
    assert cosine["n_conditions"] == 2
    assert "no change cosine of the mean shift all 2 0.61 0 0.61 ± 0 - is not told apart from" in text


def test_a_model_that_has_seen_the_controls_is_said_to_be_flattered(run):
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | {"controls_set_aside": False}))

    assert "Controls were not set aside" in report(run).read_text()


def test_the_report_needs_no_network_and_runs_no_script(run):
    html = report(run).read_text()

    assert "http" not in html
    assert all(reference.startswith("#") for reference in Page(html).references)
    assert not re.search(r"url\((?!#)|@import", html)
    assert "<script" not in html
    assert "<b>" not in html


def test_the_report_is_the_same_for_the_same_run(run):
    assert report(run).read_bytes() == report(run).read_bytes()


def test_what_is_missing_is_said(tmp_path):
    text = " ".join(Page(report(tmp_path).read_text()).text)

    for word in (
        "No verdict",
        "No metrics.json",
        "No evaluation.csv",
        "No run.json",
        "No config.yaml",
        "Loss, gene head: nothing logged",
    ):
        assert word in text, word


def test_a_damaged_file_spoils_only_its_own_part(run):
    (run / "metrics.json").write_text('{"verdict": "cut o')
    (run / "run.json").write_text("[]")

    text = " ".join(Page(report(run).read_text()).text)

    assert "No verdict" in text
    assert "No run.json, or not readable" in text
    assert "KLF1&2" in text
