from dataclasses import replace

import pytest

from training.checkpoints.progress_file import Progress
from training.runner.guards.watchdog import FIRST_STEP_SECONDS, Watchdog, hang_seconds
from training.runner.job import Job

JOB = Job(name="job")
STEP = Progress(1, 5, 10, "train", 1000.0, 2.0, None)


@pytest.mark.parametrize(
    ("changes", "median", "seconds"),
    [
        ({}, None, 600),
        ({}, 2.0, 600),
        ({}, 60.0, 1200),
        ({"hang_factor": 400.0}, 2.0, 800),
        ({"hang_minutes": 1.0}, 2.0, 60),
    ],
)
def test_a_hang_is_many_median_steps_and_some_minutes(changes, median, seconds):
    assert hang_seconds(JOB.model_copy(update=changes), replace(STEP, median_step_seconds=median)) == seconds


def test_the_first_step_of_a_start_has_a_budget_of_its_own():
    assert hang_seconds(JOB, None) == FIRST_STEP_SECONDS
    assert hang_seconds(JOB.model_copy(update={"hang_minutes": 45.0}), None) == 45 * 60


def test_progress_starts_the_clock_again_and_a_validation_batch_is_progress():
    watchdog = Watchdog(JOB, since=0.0)

    assert not watchdog.sees_hang(None, 1799.0)
    assert watchdog.sees_hang(None, 1801.0)
    assert not watchdog.sees_hang(STEP, 1802.0)
    assert not watchdog.sees_hang(STEP, 2402.0)
    assert watchdog.sees_hang(STEP, 2403.0)
    assert not watchdog.sees_hang(replace(STEP, phase="validate", time=1001.0), 2404.0)
