"""A bucket that cannot be written, or is lost during a run, as typed on a laptop over a real SSH server."""

import time

import pytest

from tests.bootstrap.test_runs import BUCKET, ENDLESS, laptop, laptop_of

pytestmark = pytest.mark.cloud  # some minutes

__all__ = ["laptop", "laptop_of"]


def test_a_wrong_bucket_is_no_trap(laptop):
    """Refused at once where it cannot be written; and where it is lost later, a stop ends, and another bucket helps."""
    file = laptop.run_file("moved")
    job, lost = laptop.root / "jobs" / "moved" / "job.json", laptop.machine.home / "lost"
    lost.mkdir()
    begun = laptop.fab("train", "--run", file, *ENDLESS, "--bucket", BUCKET.replace("bucket", "lost"))
    assert begun.returncode == 0, begun.stdout + begun.stderr
    lost.rename(lost.with_name("elsewhere"))

    start = time.monotonic()
    stopped = laptop.fab("stop", "--seconds", "15")
    assert stopped.returncode == 1
    assert time.monotonic() - start < 120
    assert "moved: waiting for file:///" in stopped.stdout + stopped.stderr
    assert "NOT safe to destroy" in stopped.stdout + stopped.stderr

    before = job.read_bytes()
    wrong = laptop.fab("train", "--run", file, *ENDLESS, "--bucket", "gs://no-login-on-this-machine")
    assert wrong.returncode == 2, wrong.stdout + wrong.stderr
    assert "gs://no-login-on-this-machine: " in wrong.stdout + wrong.stderr
    assert job.read_bytes() == before

    right = laptop.fab("train", "--run", file, *ENDLESS, "--bucket", BUCKET)
    assert right.returncode == 0, right.stdout + right.stderr
    stopped = laptop.fab("stop")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert "/bucket/runs/moved: safe to destroy" in stopped.stdout
