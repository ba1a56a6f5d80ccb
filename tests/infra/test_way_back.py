"""From a machine that has powered itself off back to no cost: verbs as typed, over the real engine, gcloud and Google's storage."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from infra.policy import INSTANCE
from tests.tools.gcs_server import GcsServer, needs_gcs
from tests.tools.pushed_run import push_finished_run
from tests.tools.stand_in_cloud.place import BUCKET, Place
from training.runner.job import JobPaths
from training.runner.shutdown_report import write_shutdown_report

ROOT = Path(__file__).parents[2]
FAB = Path(sys.executable).parent / "fab"
START = "gcloud compute instances start incubator-l4 --zone=us-central1-a --project=demo-project"


def fab(*words: str, code: int = 0) -> str:
    """`fab WORDS` in the working directory, which must end with `code`; what it prints."""
    done = subprocess.run([FAB, "-r", ROOT, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)
    assert done.returncode == code, f"fab {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
    assert "waiting for" not in done.stdout  # nobody waits for a machine that is off
    return done.stdout + done.stderr


def vms(place: Place) -> list[dict[str, str]]:
    return [one for one in place.world.read()["resources"].values() if one["type"] == INSTANCE]


def set_vm(place: Place, **values: str) -> None:
    with place.world.edit() as state:
        (vm,) = [one for one in state["resources"].values() if one["type"] == INSTANCE]
        vm |= values


def stop_vm(place: Place) -> None:
    """As its guard has powered it off just now; Google tells the time of its own west coast."""
    now = datetime.now(timezone(timedelta(hours=-8))).isoformat(timespec="milliseconds")
    set_vm(place, status="TERMINATED", lastStopTimestamp=now)


@pytest.fixture
def off(
    rented: Place, cloud_of: Callable[[Place], Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Place, JobPaths]]:
    """A machine that has brought its only run to the bucket, has written its shutdown report, and has powered itself off."""
    needs_gcs()
    place = cloud_of(rented)
    with GcsServer(tmp_path / "buckets") as gcs:
        for name, value in gcs.env.items():
            if name != "CLOUDSDK_CONFIG":
                monkeypatch.setenv(name, value)
        monkeypatch.setenv("PULUMI_STACK", "l4")
        gcs.make_bucket(BUCKET)
        paths = push_finished_run(tmp_path / "disk", "screen", f"gs://{BUCKET}")
        write_shutdown_report(paths.root)
        stop_vm(place)
        yield place, paths


def test_from_a_machine_that_has_powered_itself_off_back_to_no_cost(off, tmp_path):
    place, _ = off
    since = next(datetime.fromisoformat(one["lastStopTimestamp"]) for one in vms(place)).astimezone(UTC)

    seen = fab("status")
    logged = fab("logs", "--number", "2")
    fab("pull", "--into", str(tmp_path / "pulled"))
    refused = [fab(*words, code=2) for words in (("stop",), ("train", "--run", str(ROOT / "configs/runs/demo.yaml")))]
    ended = fab("down")
    after = fab("status")

    assert "screen  finished  8 of 8" in seen
    assert f"incubator-l4: the VM is TERMINATED since {since:%Y-%m-%d %H:%M} UTC; its disks cost all the same\n" in seen
    assert f"to start it: {START} (its runs go on)\nto end the cost: ./fab down --stack l4\n" in seen
    assert logged.startswith("two\nthree\n")
    assert (tmp_path / "pulled" / "screen" / "model.pt").read_text() == "weights"
    assert all(f"to start it: {START}" in said for said in refused)
    assert "compared its disk with the bucket before it powered itself off" in ended
    assert f"screen: finished at step 8; gs://{BUCKET}/runs/screen has job/state.json, run.json, model.pt, and the check" in ended
    assert "Nothing of stack l4 costs money here" in ended
    assert place.ids() == []
    assert "screen  finished  8 of 8" in after
    assert "stack l4 rents no machine now; to rent one: ./fab up --stack l4" in after


def test_what_the_bucket_does_not_prove_is_not_destroyed_and_the_way_back_works(off, tmp_path):
    place, paths = off
    (paths.run / "evaluation.csv").write_text("on this disk alone")
    write_shutdown_report(paths.root)
    stop_vm(place)

    unsafe = fab("down", code=2)
    command = unsafe.partition("so that it brings the rest: ")[2].partition(";")[0]
    started = subprocess.run(shlex.split(command), env=dict(os.environ), capture_output=True, text=True)
    (running,) = [one["status"] for one in vms(place)]
    set_vm(place, status="TERMINATED")
    late = fab("down", code=2)

    assert "screen (finished, step 8): not everything was in" in unsafe
    assert command == START
    assert started.returncode == 0, started.stderr
    assert running == "RUNNING"
    assert "its VM was started after that" in late
    assert "what it did since is not known" in late
    assert place.ids(INSTANCE) != []


def test_a_vm_that_is_gone_leaves_its_runs_in_the_bucket(off):
    place, _ = off
    with place.world.edit() as state:
        for key in [key for key, one in state["resources"].items() if one["type"] == INSTANCE or one.get("boot_of")]:
            del state["resources"][key]

    seen = fab("status")

    assert "screen  finished  8 of 8" in seen
    assert "incubator-l4: the VM is gone; its data disk may not be, and costs\nfor a VM to the disk: ./fab up --stack l4\n" in seen
