"""Which machines can be rented, where, and at what price: two tables, and the form of names that are newer than they are."""

import re
from dataclasses import dataclass

PRICES_OF = "2026-09"
"""When the prices below were read (skypilot-catalog v8); Spot prices move, by the day at most."""


@dataclass(frozen=True)
class MachineType:
    """A size of VM.

    Units: `memory_gib` GiB; `host_usd` US dollars an hour in us-central1 on demand, without GPUs.
    """

    name: str
    vcpus: int
    memory_gib: int
    l4s: int
    host_usd: float


@dataclass(frozen=True)
class Region:
    """Where g2 machines stand: `zones` are letters, and they have gaps (us-east4 has no b).

    Units: US dollars an hour for one L4.
    """

    zones: str
    l4_usd: float
    l4_spot_usd: float


def _size(family: str, vcpus: int, l4s: int, core_usd: float, gib_usd: float) -> MachineType:
    return MachineType(f"{family}-{vcpus}", vcpus, 4 * vcpus, l4s, vcpus * core_usd + 4 * vcpus * gib_usd)


MACHINE_TYPES = {
    machine.name: machine
    for machine in (
        *(
            _size("g2-standard", vcpus, l4s, 0.024988, 0.002927)
            for vcpus, l4s in ((4, 1), (8, 1), (12, 1), (16, 1), (24, 2), (32, 1), (48, 4), (96, 8))
        ),
        *(_size("e2-standard", vcpus, 0, 0.021811, 0.002923) for vcpus in (2, 4, 8)),  # no GPU: a cheap rehearsal
    )
}

REGIONS = {
    "us-central1": Region("abc", 0.56004, 0.2231),
    "us-east1": Region("bcd", 0.56004, 0.2231),
    "us-east4": Region("ac", 0.55821, 0.2233),
    "us-west1": Region("abc", 0.56004, 0.2231),
    "us-west4": Region("ac", 0.63077, 0.2103),
    "northamerica-northeast1": Region("bc", 0.61666, 0.2521),
    "northamerica-northeast2": Region("ab", 0.61666, 0.2298),
    "europe-west1": Region("bc", 0.61666, 0.2406),
    "europe-west2": Region("ab", 0.63765, 0.2847),
    "europe-west3": Region("ab", 0.66085, 0.3201),
    "europe-west4": Region("abc", 0.58804, 0.2438),
    "europe-west6": Region("bc", 0.78344, 0.1982),
    "asia-east1": Region("abc", 0.64847, 0.2311),
    "asia-northeast1": Region("abc", 0.7192, 0.3564),
    "asia-northeast3": Region("ab", 0.7192, 0.1555),
    "asia-south1": Region("abc", 0.58298, 0.2321),
    "asia-southeast1": Region("abc", 0.69092, 0.2478),
    "me-central2": Region("ac", 0.89606, 0.3895),
}
# How Google forms names. A name of this form that no table here has may be newer: Google is asked for it (infra/offers.py).
REGION_FORM = (
    r"(us|europe|asia|me|africa|australia|northamerica|southamerica)-"
    r"(central|north|south|east|west|northeast|northwest|southeast|southwest)\d{1,2}"
)
ZONE_FORM = rf"{REGION_FORM}-(ai\d)?[a-z]"
MACHINE_TYPE_FORM = r"[a-z]\d{1,2}[a-z]?-[a-z]+(-[a-z0-9]+){0,3}"
ZONES = tuple(f"{name}-{letter}" for name, region in REGIONS.items() for letter in region.zones)

SPOT_HOST_FRACTION = 0.4  # g2-standard-8, us-central1: 0.11747 of 0.29358


def has_gpu(machine_type: str) -> bool:
    """Whether GPUs come with a machine type, also one that the table lacks: Google's families a2 to a9 and g2 to g9."""
    return re.match(r"[ag][2-9]", machine_type) is not None


def usd_per_hour(machine_type: str, zone: str, spot: bool) -> float:
    """What a machine costs while it runs, without its disks: an estimate.

    The host's part is that of us-central1, scaled as the region's L4 is.

    Units: US dollars an hour.
    """
    machine, region = MACHINE_TYPES[machine_type], REGIONS[region_of(zone)]
    host = machine.host_usd * region.l4_usd / REGIONS["us-central1"].l4_usd
    if spot:
        return round(host * SPOT_HOST_FRACTION + machine.l4s * region.l4_spot_usd, 4)
    return round(host + machine.l4s * region.l4_usd, 4)


def region_of(zone: str) -> str:
    """The region of a zone: us-central1 of us-central1-a, and of us-central1-ai1a."""
    return zone.rpartition("-")[0]


def zones_after(zone: str, other_regions: bool) -> list[str]:
    """Where to try next when `zone` is sold out: the rest of its region, then, if allowed, all other regions."""
    near = [other for other in ZONES if region_of(other) == region_of(zone) and other != zone]
    far = [other for other in ZONES if region_of(other) != region_of(zone)]
    return near + (far if other_regions else [])
