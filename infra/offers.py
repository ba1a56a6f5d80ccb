"""Whether Google has the zone and the machine type that a stack asks for, and what it has that is near: no table here decides."""

from collections.abc import Sequence
from difflib import get_close_matches

from infra.findings import Findings
from infra.gcloud import gcloud
from infra.machine_types import region_of
from infra.ours import Resource
from infra.stack_config import MachineSettings
from infra.sweep import last

MOST = 6  # zones or types that a message names


def judge_zone(findings: Findings, zone: str, zones: Sequence[Resource]) -> bool:
    """Whether Google has a zone, by its list of all; if not, an obstacle with the nearest."""
    names = [each["name"] for each in zones]
    if zone in names:
        findings.fine(f"zone: {zone} is one of Google's {len(names)}")
        return True
    here = [name for name in names if region_of(name) == region_of(zone)]
    near = here or get_close_matches(zone, names, n=MOST) or names[:MOST]
    findings.obstacle(
        f"incubator:zone: {zone}: Google has no such zone (nearest: {', '.join(near[:MOST])})", findings.configure("zone", near[0])
    )
    return False


def refuse_machine_type(findings: Findings, settings: MachineSettings) -> None:
    """An obstacle for a machine type that its zone lacks: the zones that have it, else the nearest types of this zone.

    Raises: RunError where Google cannot say.
    """
    wanted, zone, project = settings.machine_type, settings.zone, f"--project={settings.project}"
    what = f"incubator:machineType: {wanted}: not offered in {zone}"
    zones = [last(each["zone"]) for each in gcloud("compute", "machine-types", "list", f"--filter=name={wanted}", project)]
    zones.sort(key=lambda other: (region_of(other) != settings.region, other))
    if zones:
        findings.obstacle(f"{what} (Google has it in {_some(zones)})", findings.configure("zone", zones[0]))
        return
    names = sorted(each["name"] for each in gcloud("compute", "machine-types", "list", f"--zones={zone}", project))
    near = get_close_matches(wanted, names, n=MOST, cutoff=0.7)
    if near:
        findings.obstacle(f"{what}, nor elsewhere (nearest there: {', '.join(near)})", findings.configure("machineType", near[0]))
    else:
        findings.obstacle(f"{what}, nor elsewhere", f"choose one of: gcloud compute machine-types list --zones={zone} {project}")


def _some(names: Sequence[str]) -> str:
    more = len(names) - MOST
    return ", ".join(names[:MOST]) + (f" and {more} more" if more > 0 else "")
