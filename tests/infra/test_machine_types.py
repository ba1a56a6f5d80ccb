import pytest

from infra.machine_types import MACHINE_TYPES, REGIONS, ZONES, has_gpu, region_of, usd_per_hour, zones_after


def test_l4s_go_by_size():
    l4s = {name: machine.l4s for name, machine in MACHINE_TYPES.items() if name.startswith("g2-")}

    assert l4s == {
        "g2-standard-4": 1, "g2-standard-8": 1, "g2-standard-12": 1, "g2-standard-16": 1,
        "g2-standard-24": 2, "g2-standard-32": 1, "g2-standard-48": 4, "g2-standard-96": 8,
    }  # fmt: skip
    assert all(machine.memory_gib == 4 * machine.vcpus for machine in MACHINE_TYPES.values())


def test_gpus_go_by_the_family_also_where_the_table_ends():
    assert {name for name in MACHINE_TYPES if has_gpu(name)} == {name for name, machine in MACHINE_TYPES.items() if machine.l4s}
    assert all(map(has_gpu, ("a2-highgpu-1g", "a3-highgpu-8g", "g4-standard-48")))
    assert not any(map(has_gpu, ("g1-small", "n2-standard-8", "c4a-standard-4", "t2a-standard-1")))


def test_letters_of_zones_have_gaps():
    assert "us-east4-a" in ZONES
    assert "us-east4-b" not in ZONES
    assert len(ZONES) == len(set(ZONES)) == 44
    assert {region_of(zone) for zone in ZONES} == set(REGIONS)


@pytest.mark.parametrize(
    ("machine_type", "usd"),
    [("g2-standard-4", 0.7068), ("g2-standard-8", 0.8536), ("g2-standard-24", 2.0008), ("e2-standard-4", 0.1340)],
)
def test_prices_of_us_central1_are_the_published_ones(machine_type, usd):
    assert usd_per_hour(machine_type, "us-central1-a", spot=False) == usd


def test_spot_is_cheaper_everywhere():
    assert usd_per_hour("g2-standard-8", "us-central1-a", spot=True) == 0.3405
    for zone in ZONES:
        assert usd_per_hour("g2-standard-8", zone, spot=True) < 0.7 * usd_per_hour("g2-standard-8", zone, spot=False)


def test_the_next_zones_are_those_of_the_region_then_if_allowed_all_others():
    assert zones_after("us-central1-b", other_regions=False) == ["us-central1-a", "us-central1-c"]
    everywhere = zones_after("us-central1-b", other_regions=True)
    assert everywhere[:3] == ["us-central1-a", "us-central1-c", "us-east1-b"]
    assert sorted([*everywhere, "us-central1-b"]) == sorted(ZONES)
