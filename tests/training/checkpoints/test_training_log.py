import logging

import pytest

from training.checkpoints.training_log import TrainingLog
from training.errors import RunError

log = logging.getLogger("training.somewhere")


@pytest.fixture(autouse=True)
def _info(caplog):
    caplog.set_level(logging.INFO)


def test_lines_from_before_the_folder_existed_are_in_the_file_too(tmp_path):
    with TrainingLog() as record:
        log.info("data: %d cells", 12)
        record.open(tmp_path / "training.log")
        log.info("step 1")

    lines = (tmp_path / "training.log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["data: 12 cells", "step 1"]


def test_a_second_start_appends(tmp_path):
    for start in ("first", "second"):
        with TrainingLog() as record:
            record.open(tmp_path / "training.log")
            log.info(start)

    assert [line.split()[-1] for line in (tmp_path / "training.log").read_text().splitlines()] == ["first", "second"]


def _record(path, error):
    with TrainingLog() as record:
        record.open(path)
        raise error


def test_a_failure_is_recorded_as_one_line_and_a_bug_with_its_traceback(tmp_path):
    with pytest.raises(RunError, match="disk full"):
        _record(tmp_path / "failed", RunError("disk full"))
    with pytest.raises(KeyError, match="x"):
        _record(tmp_path / "bug", KeyError("x"))

    assert (tmp_path / "failed").read_text().endswith("RunError: disk full\n")
    assert "Traceback" in (tmp_path / "bug").read_text()


def test_nothing_is_written_where_no_file_was_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with TrainingLog():
        log.info("refused soon after")

    assert list(tmp_path.iterdir()) == []
    assert not any(isinstance(handler, TrainingLog) for handler in logging.getLogger().handlers)
