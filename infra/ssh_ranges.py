"""How much of the internet may reach port 22: one measure, for the setting and for the rule of the policy."""

from collections.abc import Iterable
from ipaddress import IPv4Network, collapse_addresses

IAP_RANGE = "35.235.240.0/20"  # the identity-aware proxy connects from these addresses
# One /16 is the largest range that a campus or a company commonly owns; /8s belong to cloud providers and to carriers.
MOST_ADDRESSES = 2**16
ACCEPTED = (
    f"IPv4 ranges of your own, together at most {MOST_ADDRESSES} addresses (one /16), such as 203.0.113.7/32; "
    "`curl -4 https://ifconfig.me` prints your address; or incubator:ssh: iap and no ranges, for an address that changes"
)


def address_count(ranges: Iterable[IPv4Network]) -> int:
    """Number of addresses in the ranges; an address in several of them counts once."""
    return sum(network.num_addresses for network in collapse_addresses(ranges))
