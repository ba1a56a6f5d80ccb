"""The files and lines of the lesson's script."""

import json
import logging
from typing import Any

import pytest
import torch
from torch import nn

from tests.tools.gcs_server import gcs_served
from tests.training.tasks.tabular.conftest import config_of, fit
from training.errors import UserError
from training.runner.bucket.bucket import open_bucket
from training.tasks.tabular.outputs import ARTIFACTS, copy_artifacts, save_state_dict, write_results

KEYS = [
    "final_val_loss", "final_val_accuracy", "best_val_loss", "best_epoch", "stopped_epoch", "patience", "min_delta", "restore_best",
    "max_epochs_requested", "learning_rate", "train_rows", "val_rows", "features", "model_uri", "device",
]  # fmt: skip
"""Of the script's metrics.json, in its order."""


@pytest.fixture
def trained(passengers, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    settings: dict[str, Any] = {
        "optim": {"lr": 1e-2},
        "trainer": {"device": "cpu", "max_epochs": 300},
        "early_stopping": {"patience": 8},
    }
    done = fit(config_of(passengers, tmp_path, **settings))
    done.stopping.restore(done.module)
    return done


def test_the_history_has_a_row_an_epoch(trained):
    lines = (trained.config.directory / "eval_history.csv").read_text().splitlines()

    assert lines[0] == "iter,val_loss"
    assert [line.split(",")[0] for line in lines[1:]] == [str(i) for i in range(1, trained.trainer.global_step + 1)]


def test_results_have_every_key_of_the_script_and_the_evaluation(trained, caplog):
    last = trained.trainer.global_step

    evaluation = write_results(trained.config, trained.data, trained.module, trained.stopping, last)

    metrics = json.loads((trained.config.directory / "metrics.json").read_text())
    assert list(metrics)[: len(KEYS)] == KEYS
    assert metrics["best_epoch"] == last - 8
    assert metrics["stopped_epoch"] == last
    assert metrics["final_val_loss"] == metrics["best_val_loss"] == trained.history[metrics["best_epoch"] - 1]
    assert metrics["final_val_accuracy"] == pytest.approx(metrics["model"]["accuracy"])
    assert metrics["final_val_loss"] == pytest.approx(metrics["model"]["log_loss"], rel=1e-6)
    assert (metrics["train_rows"], metrics["val_rows"], metrics["features"]) == (712, 179, [0, 1, 2, 3, 4, 5, 6])
    assert metrics["feature_names"][1] == "Sex"
    assert metrics["device"] == "cpu"
    assert metrics["verdict"] == evaluation.verdict
    assert evaluation.rows_chose_the_epoch
    assert [record.getMessage() for record in caplog.records[-3:]] == [
        f"validation_loss: {metrics['final_val_loss']:.6f}",
        f"validation_accuracy: {metrics['final_val_accuracy']:.6f}",
        evaluation.verdict,
    ]
    assert set(torch.load(trained.config.directory / "state_dict.pt")) == set(trained.module.model.state_dict())


@pytest.mark.parametrize(("stop", "chose"), [({"restore_best": False, "patience": 2}, True), ({"restore_best": False}, False)])
def test_the_last_weights_of_a_whole_run_were_chosen_by_nobody(passengers, tmp_path, stop, chose):
    settings: dict[str, Any] = {"optim": {"lr": 0.1}, "trainer": {"device": "cpu", "max_epochs": 12}, "early_stopping": stop}
    done = fit(config_of(passengers, tmp_path, **settings))
    kept = {name: weight.clone() for name, weight in done.module.state_dict().items()}

    evaluation = write_results(done.config, done.data, done.module, done.stopping, done.trainer.global_step)

    assert evaluation.rows_chose_the_epoch == chose
    assert all(torch.equal(weight, kept[name]) for name, weight in done.module.state_dict().items())


def test_both_lines_stand_alone_for_printed_epochs(trained, caplog):
    lines = [record.getMessage() for record in caplog.get_records("setup") if record.name == "training.tasks.tabular.outputs"]

    assert lines[0].startswith("epoch=1 loss=")
    assert [line.partition(":")[0] for line in lines[1:3]] == ["validation_loss", "validation_accuracy"]
    assert lines[1] == f"validation_loss: {trained.history[0]:.6f}"
    printed = {int(line.split()[0].removeprefix("epoch=")) for line in lines if line.startswith("epoch=")}
    assert {1, 10, trained.stopping.best_step} <= printed
    assert len(lines) == 3 * len(printed)
    assert len(printed) < trained.trainer.global_step


def test_the_bare_weights_load_as_the_lesson_loads_them(trained, tmp_path):
    class TitanicNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(7, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid())

    save_state_dict(trained.module.model, tmp_path / "state_dict.pt")

    theirs = TitanicNet()
    theirs.load_state_dict(torch.load(tmp_path / "state_dict.pt", weights_only=True))
    x = torch.from_numpy(trained.data.val.x)
    assert torch.equal(theirs.net(x), trained.module.model(x))
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_artifacts_are_copied_to_a_folder_over_those_of_before(tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    out.mkdir()
    (out / "metrics.json").write_text("old")
    (out / "mine.txt").write_text("mine")
    for name in ARTIFACTS:
        (run / name).write_text(name)

    assert copy_artifacts(run, str(out)) == [str(out / name) for name in ARTIFACTS]

    assert {path.name: path.read_text() for path in out.iterdir()} == {name: name for name in ARTIFACTS} | {"mine.txt": "mine"}


def test_artifacts_are_copied_to_a_bucket(tmp_path, monkeypatch):
    (tmp_path / "metrics.json").write_text("{}")
    with gcs_served(tmp_path / "gcs", monkeypatch) as server:
        server.make_bucket("bucket")

        assert copy_artifacts(tmp_path, "gs://bucket/job/model/") == ["gs://bucket/job/model/metrics.json"]

        assert open_bucket("gs://bucket").read("job/model/metrics.json") == b"{}"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "metrics.json").write_text("{}")

    with pytest.raises(UserError, match=r"file/out: the results cannot be written there: Not a directory; they stand in "):
        copy_artifacts(tmp_path, str(tmp_path / "file" / "out"))
