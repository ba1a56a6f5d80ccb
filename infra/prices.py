"""What stands beside a machine costs: disks, snapshots, images, addresses, NAT, the bucket.

List prices of us-central1 from general knowledge: they were not looked up, other regions cost up to half as much again, and
taxes, discounts and traffic are left out. So everything that is computed from them is called an estimate, and says "about".
"""

from infra.machine_types import PRICES_OF, usd_per_hour

HOURS_PER_MONTH = 730
SOURCE = f"machines: list prices of {PRICES_OF}; disks, addresses and NAT: us-central1, from general knowledge, not looked up"

# US dollars per GiB and month, whether or not a VM uses the disk
DISK_USD_PER_GIB_MONTH = {"pd-standard": 0.04, "pd-balanced": 0.10, "pd-ssd": 0.17}
SNAPSHOT_USD_PER_GIB_MONTH, IMAGE_USD_PER_GIB_MONTH = 0.05, 0.05
BUCKET_USD_PER_GIB_MONTH = 0.020  # standard storage; an earlier version of an object costs the same as the object

# US dollars per hour
ADDRESS_IN_USE_USD_PER_HOUR = 0.005  # external IPv4; on a Spot VM it is half
ADDRESS_UNUSED_USD_PER_HOUR = 0.01  # a static one that nothing uses costs more
NAT_USD_PER_HOUR_AND_VM = 0.0014
NAT_LIMIT_USD_PER_HOUR = 0.044  # however many VMs go through it
NAT_USD_PER_GB = 0.045  # in either direction; what a machine downloads is not known here


def disk_usd_per_month(disk_type: str, gib: float) -> float | None:
    """What a disk costs a month, or None where its type is not in the table.

    Units: `gib` GiB; US dollars a month.
    """
    price = DISK_USD_PER_GIB_MONTH.get(disk_type)
    return None if price is None else price * gib


def versions_usd(gib: float, days: float) -> float:
    """What objects that were deleted or overwritten cost, together, while the bucket keeps them.

    Units: `gib` GiB of all of them; `days` that each is kept; US dollars.
    """
    return gib * days * 24 / HOURS_PER_MONTH * BUCKET_USD_PER_GIB_MONTH


def nat_usd_per_hour(vms: int) -> float:
    """What a NAT gateway costs, with the one address that it takes, without traffic.

    Units: US dollars an hour.
    """
    return min(max(vms, 1) * NAT_USD_PER_HOUR_AND_VM, NAT_LIMIT_USD_PER_HOUR) + ADDRESS_IN_USE_USD_PER_HOUR


def vm_usd_per_hour(machine_type: str, zone: str, spot: bool) -> float | None:
    """What a running VM costs without its disks, or None where the table does not know its type or zone.

    Units: US dollars an hour.
    """
    try:
        return usd_per_hour(machine_type, zone, spot)
    except KeyError:
        return None
