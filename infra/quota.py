"""Whether a machine fits into the project's quota, and what to ask Google for where it does not."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra.findings import Findings
from infra.machine_types import MACHINE_TYPES, region_of
from infra.stack_config import PROJECT, MachineSettings
from infra.sweep import RUNNING, has_external_address, is_spot, last

QUOTAS_PAGE = "https://console.cloud.google.com/iam-admin/quotas?project="
SPOT_L4 = "PREEMPTIBLE_NVIDIA_L4_GPUS"
MAY_BE_PREEMPTIBLE_SECONDS = 7 * 24 * 3600
"""A standard VM that Google deletes after at most so long may count against the quota of Spot VMs."""

Resource = Mapping[str, Any]


@dataclass(frozen=True)
class Quotas:
    """What Google says: quotas of the project and of the machine's region, and what the stack itself takes of them.

    `own` counts the stack's VM and disks that are there already; `exists` says whether there is a VM.
    """

    project: dict[str, Resource]
    region: dict[str, Resource]
    own: dict[str, float]
    exists: bool


def read_quotas(
    settings: MachineSettings, stack: str, project: Resource, region: Resource, instances: list[Resource], disks: list[Resource]
) -> Quotas:
    """From the answers of `describe` and `list`."""
    of_project, of_region = ({quota["metric"]: quota for quota in answer.get("quotas", [])} for answer in (project, region))
    name, here, own = f"{PROJECT}-{stack}", settings.region, dict[str, float]()
    for disk in disks:
        if disk["name"] in (name, f"{name}-data") and region_of(last(disk.get("zone", ""))) == here:
            own["SSD_TOTAL_GB"] = own.get("SSD_TOTAL_GB", 0) + int(disk["sizeGb"])
    vms = [vm for vm in instances if vm["name"] == name]
    for vm in vms:
        machine = MACHINE_TYPES.get(last(vm["machineType"]))
        if machine is None or vm["status"] not in RUNNING:
            continue
        own |= {"GPUS_ALL_REGIONS": machine.l4s, "CPUS_ALL_REGIONS": machine.vcpus}
        if region_of(last(vm["zone"])) == here:
            own |= {_l4_metric(is_spot(vm), of_region): machine.l4s, "CPUS": machine.vcpus}
            own["IN_USE_ADDRESSES"] = int(has_external_address(vm))
    return Quotas(of_project, of_region, own, exists=bool(vms))


def judge_quota(findings: Findings, settings: MachineSettings, quotas: Quotas) -> None:
    """Takes down what is free of each quota that the machine needs."""
    machine = MACHINE_TYPES[settings.machine_type]
    vcpus, l4s = f"{machine.vcpus} vCPUs of {machine.name}", f"{machine.l4s} L4 of {machine.name}"
    disks = settings.boot_disk_gib + settings.data_disk_gib
    everywhere = [("CPUS_ALL_REGIONS", machine.vcpus, vcpus)]
    here = [("SSD_TOTAL_GB", disks, f"{disks} GiB of disks (pd-balanced counts as SSD)")]
    if machine.l4s and settings.reservation is None:  # what is reserved has been counted
        everywhere.append(("GPUS_ALL_REGIONS", machine.l4s, l4s))
        metric = _l4_metric(settings.spot, quotas.region)
        if settings.termination_action == "DELETE" and settings.max_run_seconds <= MAY_BE_PREEMPTIBLE_SECONDS:
            metric = max(metric, SPOT_L4, key=lambda each: _free(quotas, each))
        here.append((metric, machine.l4s, l4s))
    if not machine.l4s:
        here.append(("CPUS", machine.vcpus, vcpus))
    if settings.ssh == "public":
        here.append(("IN_USE_ADDRESSES", 1, "an external address (ssh: public)"))
    for metric, need, what in everywhere:
        _judge(findings, f"{metric} (all regions)", quotas.project.get(metric), need, quotas.own.get(metric, 0), what)
    for metric, need, what in here:
        _judge(findings, f"{metric} in {settings.region}", quotas.region.get(metric), need, quotas.own.get(metric, 0), what)


def _free(quotas: Quotas, metric: str) -> float:
    quota = quotas.region.get(metric, {"limit": 0.0, "usage": 0.0})
    return float(quota["limit"] - max(0, quota["usage"] - quotas.own.get(metric, 0)))


def _l4_metric(spot: bool, region: Mapping[str, Resource]) -> str:
    """Spot counts against a quota of its own where one is granted, otherwise against the usual one."""
    granted = region.get(SPOT_L4, {}).get("limit", 0) > 0
    return SPOT_L4 if spot and granted else "NVIDIA_L4_GPUS"


def _judge(findings: Findings, name: str, quota: Resource | None, need: float, own: float, what: str) -> None:
    if quota is None:
        findings.fine(f"quota {name}: Google does not report it, not checked")
        return
    limit, others = quota["limit"], max(0, quota["usage"] - own)
    if limit - others >= need:
        findings.fine(f"quota {name}: {need:g} needed, {limit - others:g} free")
        return
    step = f"ask for {name} = {others + need:g}: {QUOTAS_PAGE}{findings.project}"
    if limit >= need:
        step += "\n   or end what uses it: ./fab sweep"
    elif "GPU" in name:
        step += "\n   (new projects often have GPUS_ALL_REGIONS = 0; trial accounts get no GPU until they are upgraded)"
    findings.obstacle(f"quota {name}: {need:g} needed for {what}, limit {limit:g}, {others:g} in use otherwise", step)
