"""A run that went on elsewhere while this machine was away: by its bucket, with real supervisors and a stand-in for the run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.runner.conftest import Site
from training.errors import UserError
from training.runner.job import JobPaths
from training.runner.mirror.lease import claim, release
from training.runner.state import write_state

pytestmark = pytest.mark.cloud  # a process or more for each: together minutes


@pytest.fixture
def elsewhere(root, tmp_path, site) -> Site:
    """The same job on another machine."""
    folder = tmp_path / "elsewhere"
    for name in ("code", "data", "runs", "jobs"):
        (folder / name).mkdir(parents=True)
    return Site(JobPaths(folder, "job"), site.steps)


def mirror(bucket: str) -> Path:
    return Path(bucket.removeprefix("file://")) / "runs" / "job"


def power_cut(site: Site, bucket: str) -> None:
    """At step 4 of 8: the state stays open, the lease goes stale."""
    site.write_job(bucket=bucket, max_restarts=0)
    site.supervise("crash@5")
    site.write_job(bucket=bucket)
    write_state(site.paths, replace(site.state, phase="running"))


def results(bucket: str) -> dict[str, bytes]:
    """What must not go backwards: the newest checkpoint, and all files but those of the machine."""
    root = mirror(bucket)
    names = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    newest = max(name.parts[1] for name in names if name.parts[0] == "checkpoints")
    kept = [name for name in names if name.parts[0] not in ("job", "lease.json", "checkpoints") or newest in name.parts]
    return {str(name): (root / name).read_bytes() for name in kept}


def test_a_machine_that_comes_back_takes_over_what_another_has_finished(site, elsewhere, bucket):
    power_cut(site, bucket)
    elsewhere.write_job(bucket=bucket)
    assert elsewhere.supervise().phase == "finished"
    assert elsewhere.state.starts[0].from_step == 4
    before, words = results(bucket), site.words

    state = site.supervise(by_boot=True)

    assert (state.phase, site.saved[-1], site.words) == ("finished", 8, words)  # nothing was trained again
    assert (site.paths.run / "model.pt").exists()
    assert results(bucket) == before


def test_it_goes_on_from_the_newest_step_of_the_bucket(site, elsewhere, bucket):
    power_cut(site, bucket)
    elsewhere.write_job(bucket=bucket, max_restarts=0)
    elsewhere.supervise("crash@7")
    assert elsewhere.saved[-1] == 6

    state = site.supervise(by_boot=True)

    assert (state.phase, state.starts[-1].from_step) == ("finished", 6)


def test_a_newer_checkpoint_that_is_damaged_here_is_brought(site, bucket):
    site.write_job(bucket=bucket, max_restarts=0)
    site.supervise("crash@7")
    payload = sorted(site.paths.checkpoints.glob("step=*/trainer.ckpt"))[-1]
    payload.write_text("w" * payload.stat().st_size)

    state = site.supervise("ok")

    assert (state.phase, state.starts[-1].from_step) == ("finished", 6)


def begun(site: Site, time: str) -> None:
    file = site.paths.run / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"starts": [{"total_steps": 8, "time": time}]}))


def test_what_was_begun_anew_elsewhere_is_not_displaced_by_what_is_older(site, elsewhere, bucket):
    power_cut(site, bucket)
    begun(site, "2026-11-19T00:00:00")
    shutil.rmtree(mirror(bucket))
    elsewhere.write_job(bucket=bucket)
    elsewhere.supervise()
    before = results(bucket)

    for by_boot in (True, False):
        with pytest.raises(UserError, match=r"was begun anew elsewhere at 2026-11-21 00:00 UTC and is at step 8"):
            site.supervise(by_boot=by_boot)
        assert site.state.phase == "failed"
        write_state(site.paths, replace(site.state, phase="running"))
    assert results(bucket) == before
    assert not (mirror(bucket) / "lease.json").exists()


def test_a_run_without_a_checkpoint_gives_way_to_what_was_begun_anew_elsewhere(site, elsewhere, bucket):
    site.write_job(bucket=bucket, max_restarts=0)
    site.supervise("crash@1")
    begun(site, "2026-11-19T00:00:00")
    write_state(site.paths, replace(site.state, phase="running"))
    shutil.rmtree(mirror(bucket))
    elsewhere.write_job(bucket=bucket)
    elsewhere.supervise()
    before = results(bucket)

    state = site.supervise(by_boot=True)

    assert (state.phase, site.saved[-1]) == ("finished", 8)
    assert results(bucket) == before


def test_the_lease_of_a_machine_that_is_gone_is_taken_over_by_a_word(site, bucket):
    claim(bucket, "job", "a machine that is gone")
    site.write_job(bucket=bucket)
    with pytest.raises(UserError, match=r"fab train --take-over"):
        site.supervise()

    site.stage("take-over").supervise_staged()

    assert site.state.phase == "finished"
    release(bucket, "job", "a machine that is gone")
    assert not (mirror(bucket) / "lease.json").exists()
