"""Why a machine could not be had, and where to try next.

A provider's message has the words of an error and not its code, and quota errors have hidden stock-outs: the raw operation decides.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from infra.machine_types import ZONES, region_of, zones_after

SOLD_OUT = "ZONE_RESOURCE_POOL_EXHAUSTED"  # and ..._WITH_DETAILS
SOLD_OUT_WORDS = "does not have enough resources available to fulfill the request"
QUOTA = "QUOTA"


@dataclass(frozen=True)
class Shortage:
    """`sold_out`: this zone has none, another may; `quota`: the project may have none, nowhere."""

    kind: Literal["sold_out", "quota"]
    words: str
    zones_available: tuple[str, ...] = ()


def shortage(operations: Iterable[Mapping[str, Any]], printed: str) -> Shortage | None:
    """What kept a machine from coming, by the cloud's own operations, newest first, else by the errors that the engine reports."""
    for operation in operations:
        for error in (operation.get("error") or {}).get("errors") or []:
            code, words = str(error.get("code", "")), str(error.get("message", ""))
            if code.startswith(SOLD_OUT):
                return Shortage("sold_out", words, _zones_available(error))
            if QUOTA in code:
                return Shortage("quota", words)
    if SOLD_OUT_WORDS in printed or SOLD_OUT in printed:
        return Shortage("sold_out", SOLD_OUT_WORDS)
    if "Quota '" in printed and "exceeded" in printed:
        return Shortage("quota", printed[printed.index("Quota '") :].splitlines()[0])
    return None


def _zones_available(error: Mapping[str, Any]) -> tuple[str, ...]:
    """Zones that the error itself names; the text may be empty."""
    for detail in error.get("errorDetails") or []:
        told = ((detail.get("errorInfo") or {}).get("metadatas") or {}).get("zonesAvailable", "")
        if told:
            return tuple(zone.strip() for zone in told.split(",") if zone.strip())
    return ()


def next_zone(tried: list[str], found: Shortage, other_regions: bool) -> str | None:
    """Where to try next: what the error names, then the rest of the region, then, if allowed, other regions."""
    named = [zone for zone in found.zones_available if zone in ZONES]
    if not other_regions:
        named = [zone for zone in named if region_of(zone) == region_of(tried[0])]
    closed = {region_of(tried[-1])} if found.kind == "quota" else set()
    for zone in (*named, *zones_after(tried[0], other_regions)):
        if zone not in tried and region_of(zone) not in closed:
            return zone
    return None
