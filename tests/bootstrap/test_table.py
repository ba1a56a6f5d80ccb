"""`fab status` as people read it."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from bootstrap.machine import Machine, rented
from bootstrap.table import duration, table
from tests.tools.ssh_machine import OUTPUTS
from training.runner.report import GpuStatus, IdleStatus, JobStatus, MachineStatus, Status

JOB = JobStatus(
    name="screen", phase="running", reason="", step=1200, total_steps=40000, activity="train", loss=0.512345,
    cells_per_second=12345.6,
    data_wait_fraction=0.021, eta_seconds=11400.0, checkpoint_step=1000, checkpoint_age_seconds=250.0, bucket="gs://cells",
    push_lag_seconds=12.0, push_last_success="2026-11-21T12:00:00+00:00", push_error=None, safe_steps=(500, 1000), is_safe=False,
    restarts=1, started_at="2026-11-21T11:00:00+00:00", run_seconds=7200.0, error_tail="", supervisor_pid=10, run_pid=11,
)  # fmt: skip
GPU = GpuStatus("NVIDIA L4", 0.87, 12.1, 22.5)
GUARD = IdleStatus(30.0, alive=True, idle_since=None, used_by="run screen", can_power_off=True, error="")
MACHINE = MachineStatus((GPU,), 120.4, 196.0, GUARD, "2026-11-21T10:00:00+00:00")
STATUS = Status(1, "2026-11-21T12:00:00+00:00", (JOB,), MACHINE)
RENTED = Machine("incubator-l4", "incubator-l4", "/mnt/data/incubator", usd_per_hour=0.85)


def test_a_run_that_is_under_way():
    heads, row, machine = table(STATUS, RENTED).splitlines()

    assert heads.split()[:3] == ["run", "state", "step"]
    assert row == (
        "screen  running  1,200 of 40,000  0.5123  12,346   2 %             3 h 10 min  1,000, 4 min 10 s ago  "
        "1,000, 12 s behind  1         1.70 $"
    )
    assert machine == (
        "incubator-l4: NVIDIA L4 87 %, 12.1 of 22.5 GiB; 120 of 196 GiB of disk free; up for 2 h 0 min: 1.70 $ without its disks; "
        "off after 30 idle minutes (in use: run screen)"
    )


def test_columns_stand_under_their_heads():
    heads, row, _ = table(STATUS, RENTED).splitlines()

    for head, cell in (("state", "running"), ("loss", "0.5123"), ("in the bucket", "1,000, 12 s"), ("cost", "1.70 $")):
        assert heads.index(head) == row.index(cell)
    assert table(STATUS, replace(RENTED, usd_per_hour=0.0)).splitlines()[1].endswith("?")  # a price that is not known


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"bucket": None}, "no bucket"),
        ({"is_safe": True}, "1,000, all of it"),
        ({"safe_steps": (), "push_lag_seconds": None}, "none, not begun"),
        ({"push_error": "forbidden"}, "screen: the bucket: forbidden"),
        ({"phase": "failed", "reason": "crashed", "error_tail": "a\nb"}, "screen: crashed\nscreen | a\nscreen | b"),
        ({"supervisor_pid": None, "phase": "dead", "reason": "the next boot goes on"}, "screen: the next boot goes on"),
        ({"activity": "validate"}, "running (validate)"),
        ({"loss": None, "cells_per_second": None, "checkpoint_step": None}, "?  "),
    ],
)
def test_what_else_there_is_to_say_of_a_run(changes, shown):
    assert shown in table(replace(STATUS, jobs=(replace(JOB, **changes),)), RENTED)


@pytest.mark.parametrize(
    ("guard", "shown"),
    [
        (None, "nothing powers it off when it is idle"),
        (replace(GUARD, alive=False), "its idle guard is dead (./fab bootstrap starts it)"),
        (replace(GUARD, can_power_off=False), "its idle guard cannot power it off"),
        (replace(GUARD, idle_since="2026-11-21T11:50:00+00:00"), "off after 30 idle minutes (idle for 10 min 0 s)"),
    ],
)
def test_when_the_machine_goes_off(guard, shown):
    assert shown in table(replace(STATUS, machine=replace(MACHINE, idle_guard=guard)), RENTED)


def test_a_box_without_a_gpu_a_price_and_a_run():
    text = table(Status(1, STATUS.time, (), replace(MACHINE, gpus=None)), Machine("box", "box", "~/incubator"))

    assert text.splitlines()[0] == "box: no run yet; start one: ./fab train --run RUN.yaml"
    assert "box: no GPU; 120 of 196 GiB of disk free; off after" in text
    assert "$" not in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "?"), (0.4, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3725, "1 h 2 min"), (90000, "1 d 1 h")]
)
def test_durations_have_two_units(seconds, text):
    assert duration(seconds) == text


NOW = datetime.fromisoformat("2026-11-21T12:00:00+00:00")


def test_a_run_that_needs_longer_than_its_vm_may_run_is_told_with_both_ways_on():
    text = table(STATUS, replace(rented(OUTPUTS), ends=NOW + timedelta(hours=2)))

    assert text.splitlines()[2:4] == [
        "screen: needs about 3 h 10 min more, and the cloud ends the VM in 2 h 0 min, at 2026-11-21 14:00 UTC "
        "(maxRunSeconds: 86400). It goes on from its newest checkpoint when the VM is started again: "
        "gcloud compute instances start incubator-l4 "
        "--zone=us-central1-a --project=demo-project",
        "a longer limit is a new VM on the same data disk: ./fab stop; pulumi config set incubator:maxRunSeconds 14400 --stack l4; "
        "./fab up --stack l4 --replace; then ./fab train as before",
    ]


@pytest.mark.parametrize(
    ("ends", "changes"),
    [
        (NOW + timedelta(hours=4), {}),
        (None, {}),
        (NOW, {"eta_seconds": None}),
        (NOW, {"supervisor_pid": None}),
    ],
)
def test_a_run_that_fits_or_has_no_limit_needs_no_word(ends, changes):
    text = table(replace(STATUS, jobs=(replace(JOB, **changes),)), replace(rented(OUTPUTS), ends=ends))

    assert "maxRunSeconds" not in text
