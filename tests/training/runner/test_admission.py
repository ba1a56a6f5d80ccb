"""What a person's start must pass before it changes anything: above all its bucket."""

import os
import shutil
from pathlib import Path

import pytest

from tests.tools.gcs_server import gcs_served
from tests.training.runner.conftest import until
from training.errors import UserError
from training.runner.mirror.push_state import read_record
from training.runner.processes import living

pytestmark = pytest.mark.cloud  # a process or more for each: together minutes


@pytest.fixture
def server(tmp_path, monkeypatch):
    with gcs_served(tmp_path / "gcs", monkeypatch) as server:
        yield server


def test_a_bucket_that_cannot_be_written_changes_nothing(site, server):
    """No run, no new job.json, no minutes of silence."""
    server.make_bucket("right")
    server.make_bucket("forbidden")
    server.forbidden.add("forbidden")
    site.write_job(bucket="gs://right", max_restarts=0)
    site.supervise("crash@5")
    before = site.paths.job_file.read_bytes(), site.words

    for wrong, why in (("gs://wrong", "there is no such bucket"), ("gs://forbidden", "forbidden")):
        with pytest.raises(UserError, match=why):
            site.stage(bucket=wrong).supervise_staged()
        assert (site.paths.job_file.read_bytes(), site.words) == before
        assert why in (site.staged / "refused").read_text()
        shutil.rmtree(site.staged)

    site.stage(bucket="gs://right").supervise_staged()
    assert site.state.phase == "finished"


def test_a_bucket_that_may_be_written_but_not_overwritten_is_refused(site, server, monkeypatch):
    """As with the role Storage Object Creator: the first lease would be written, and never renewed."""
    server.make_bucket("once")
    server.method, server.failing, server.fails_with = "DELETE", 1000, 403
    site.write_job(bucket="gs://once")

    with pytest.raises(UserError, match="forbidden"):
        site.supervise()
    assert not site.paths.run.exists()


def test_a_new_bucket_that_does_not_answer_is_refused_and_a_known_one_is_not_waited_for(site, server, bucket, monkeypatch):
    from training.runner.bucket import google

    monkeypatch.setattr(google, "RETRY_SECONDS", 0.5)
    site.write_job(bucket=bucket, max_restarts=0)
    site.supervise("crash@5")
    server.dropping = 10**6

    with pytest.raises(UserError, match=r"cannot be reached.*; nothing was started"):
        site.stage(bucket="gs://another").supervise_staged()
    shutil.rmtree(site.staged)

    runs = Path(bucket.removeprefix("file://")) / "runs"
    runs.rename(runs.with_name("away"))
    runs.touch()  # what fails and may pass
    supervisor = site.stage(bucket=bucket).start("ok", "--staged")
    until(lambda: site.saved and site.saved[-1] == 8)  # it has taken something of this run before
    runs.unlink()
    runs.with_name("away").rename(runs)
    assert supervisor.wait(timeout=120) == 0


def test_a_job_that_only_pushes_may_be_given_another_bucket(site, tmp_path):
    """Its first bucket is gone for good; nobody is killed by hand."""
    gone, other = tmp_path / "gone", tmp_path / "other"
    gone.mkdir()
    other.mkdir()
    site.write_job(bucket=f"file://{gone}")
    first = site.start("deaf@7,ok")
    until(lambda: site.step == 7)
    gone.rename(tmp_path / "away")
    os.kill(living(site.paths.run_pid_file) or 0, 9)
    until(lambda: site.state.phase == "finished" and living(site.paths.pusher_pid_file))
    assert first.poll() is None

    site.stage(bucket=f"file://{other}").supervise_staged()

    assert first.wait(timeout=60) == 1
    assert site.state.phase == "finished"
    assert (other / "runs/job/model.pt").exists()
    record = read_record(site.paths.folder)
    assert record is not None
    assert record.bucket == f"file://{other}"


def test_a_job_that_trains_keeps_its_bucket(site, bucket, tmp_path):
    site.write_job(bucket=bucket)
    supervisor = site.start("deaf@3")
    until(lambda: site.step == 3)

    with pytest.raises(UserError, match="has a living supervisor already"):
        site.stage(bucket=f"file://{tmp_path}").supervise_staged()
    supervisor.terminate()
    supervisor.wait(timeout=60)
    assert not (tmp_path / "runs").exists()
    assert Path(bucket.removeprefix("file://")).exists()
