import pytest

from infra.machine_types import usd_per_hour
from infra.prices import disk_usd_per_month, nat_usd_per_hour, vm_usd_per_hour


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
