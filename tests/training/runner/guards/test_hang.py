"""A pusher that hangs: it lives, and does nothing."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.training.runner.conftest import HURRY, drive, until
from training.runner.guards.hang import HangWatch
from training.runner.processes import living, wait_until

RESTLESS = "import time\nwhile True: time.sleep(0.01)"


def test_a_process_that_sleeps_and_wakes_does_not_hang_and_a_frozen_one_does():
    watch = HangWatch(1.0)
    with subprocess.Popen([sys.executable, "-c", RESTLESS]) as process:
        assert not wait_until(lambda: watch.sees(process.pid), 2.0)
        process.send_signal(signal.SIGSTOP)
        assert wait_until(lambda: watch.sees(process.pid), 60.0)
        process.kill()


@pytest.mark.cloud
@pytest.mark.parametrize("when", ["beside the run", "after its end"])
def test_a_pusher_that_hangs_is_ended_and_started_again(site, bucket, monkeypatch, when):
    monkeypatch.setattr("tests.training.runner.conftest.HURRY", replace(HURRY, pusher=1.0))
    site.write_job(bucket=bucket)
    if (child := os.fork()) == 0:  # the supervisor, with the clock of above
        os._exit(drive(site.paths.root, "job", "deaf@7,ok", "8"))
    until(lambda: site.step == 7 and living(site.paths.pusher_pid_file))
    hung = living(site.paths.pusher_pid_file) or 0
    os.kill(hung, signal.SIGSTOP)
    if when == "beside the run":
        until(lambda: living(site.paths.pusher_pid_file) not in (None, hung))
    os.kill(living(site.paths.run_pid_file) or 0, signal.SIGKILL)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert site.state.phase == "finished"
    assert (site.paths.root.parent / "bucket/runs/job/model.pt").exists()
    assert living(site.paths.pusher_pid_file) is None
