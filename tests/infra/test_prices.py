import pytest

from infra.machine_types import usd_per_hour
from infra.prices import BUCKET_USD_PER_GIB_MONTH, disk_usd_per_month, nat_usd_per_hour, versions_usd, vm_usd_per_hour
from infra.stack_config import CHECKPOINT_UNDO_DAYS, UNDO_DAYS
from training.config import CheckpointsConfig


def test_a_disk_costs_by_its_size():
    assert disk_usd_per_month("pd-ssd", 250) == pytest.approx(42.5)
    assert disk_usd_per_month("pd-balanced", 250) == pytest.approx(25.0)


def test_what_the_tables_do_not_know_has_no_price():
    assert disk_usd_per_month("hyperdisk-extreme", 100) is None
    assert vm_usd_per_hour("a3-highgpu-8g", "us-central1-a", spot=False) is None
    assert vm_usd_per_hour("g2-standard-8", "africa-south1-a", spot=False) is None


def test_a_vm_costs_what_the_table_of_machines_says():
    assert vm_usd_per_hour("g2-standard-8", "us-central1-a", spot=True) == usd_per_hour("g2-standard-8", "us-central1-a", spot=True)


def test_a_nat_costs_per_vm_up_to_a_limit_and_its_address():
    assert nat_usd_per_hour(1) == pytest.approx(0.0014 + 0.005)
    assert nat_usd_per_hour(0) == nat_usd_per_hour(1)
    assert nat_usd_per_hour(1000) == pytest.approx(0.044 + 0.005)


def test_an_earlier_version_costs_what_the_object_costs():
    assert versions_usd(gib=1, days=730 / 24) == pytest.approx(BUCKET_USD_PER_GIB_MONTH)


def test_what_a_typical_run_leaves_of_earlier_versions_costs_cents():
    """40,000 steps of state_sm: 55M parameters (28.9M in the transformer, the rest beside it at 18,080 genes)."""
    settings, steps, late = CheckpointsConfig(), 40_000, 1  # lifecycle rules act up to a day later
    checkpoint_gib = 55e6 * 3 * 4 / 2**30  # weights and two moments of Adam, float32
    pruned = steps // settings.every_steps - settings.keep_last - 1  # the best one is kept too
    of_checkpoints = versions_usd(pruned * checkpoint_gib, CHECKPOINT_UNDO_DAYS + late)
    # A day of rounds of 60 s; each writes log, metrics and events again: 5 MB at the end, half of it on average.
    of_small_files = versions_usd(24 * 60 * 2.5e6 / 2**30, UNDO_DAYS + late)

    assert pruned == 17
    assert checkpoint_gib == pytest.approx(0.61, abs=0.01)
    assert of_checkpoints == pytest.approx(0.014, abs=0.001)
    assert of_small_files == pytest.approx(0.018, abs=0.001)
    assert of_checkpoints + of_small_files == pytest.approx(0.03, abs=0.005)  # as infra/README.md has it
