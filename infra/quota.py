"""Whether a machine fits into the project's quota, and what to ask Google for where it does not."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra.findings import Findings
from infra.machine_types import MACHINE_TYPES, region_of
from infra.stack_config import PROJECT, MachineSettings
from infra.sweep import RUNNING, has_external_address, is_spot, last

QUOTAS_PAGE = "https://console.cloud.google.com/iam-admin/quotas?project="
MAY_BE_PREEMPTIBLE_SECONDS = 7 * 24 * 3600
"""A standard VM that Google deletes after at most so long may count against the quota of Spot VMs."""

Resource = Mapping[str, Any]


@dataclass(frozen=True)
class Size:
    """What a machine type takes of quotas; `gpu` is the beginning of its GPU's metrics."""

    vcpus: int
    gpus: int
    gpu: str = "NVIDIA_L4"

    @property
    def gpu_name(self) -> str:
        """What a person calls the GPU: L4."""
        return self.gpu.removeprefix("NVIDIA_")


def size_of(machine_type: str, told: Resource | None = None) -> Size | None:
    """By our table, else as `machine-types describe` tells it; None where neither does."""
    if known := MACHINE_TYPES.get(machine_type):
        return Size(known.vcpus, known.l4s)
    if told is None:
        return None
    gpus = [(each["guestAcceleratorType"], int(each["guestAcceleratorCount"])) for each in told.get("accelerators", [])]
    kind, count = gpus[0] if gpus else ("nvidia-l4", 0)
    return Size(int(told["guestCpus"]), count, kind.upper().replace("-", "_").replace("_TESLA", ""))


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
    settings: MachineSettings,
    stack: str,
    project: Resource,
    region: Resource,
    instances: list[Resource],
    disks: list[Resource],
    size: Size | None = None,
) -> Quotas:
    """From the answers of `describe` and `list`; `size` is that of the settings' machine type."""
    of_project, of_region = ({quota["metric"]: quota for quota in answer.get("quotas", [])} for answer in (project, region))
    name, here, own = f"{PROJECT}-{stack}", settings.region, dict[str, float]()
    for disk in disks:
        if disk["name"] in (name, f"{name}-data") and region_of(last(disk.get("zone", ""))) == here:
            own["SSD_TOTAL_GB"] = own.get("SSD_TOTAL_GB", 0) + int(disk["sizeGb"])
    vms = [vm for vm in instances if vm["name"] == name]
    for vm in vms:
        called = last(vm["machineType"])
        machine = size_of(called) or (size if called == settings.machine_type else None)
        if machine is None or vm["status"] not in RUNNING:
            continue
        own |= {"GPUS_ALL_REGIONS": machine.gpus, "CPUS_ALL_REGIONS": machine.vcpus}
        if region_of(last(vm["zone"])) == here:
            own |= {_gpu_metric(machine, is_spot(vm), of_region): machine.gpus, "CPUS": machine.vcpus}
            own["IN_USE_ADDRESSES"] = int(has_external_address(vm))
    return Quotas(of_project, of_region, own, exists=bool(vms))


def judge_quota(findings: Findings, settings: MachineSettings, quotas: Quotas, machine: Size) -> None:
    """Takes down what is free of each quota that the machine needs."""
    vcpus = f"{machine.vcpus} vCPUs of {settings.machine_type}"
    gpus = f"{machine.gpus} {machine.gpu_name} of {settings.machine_type}"
    disks = settings.boot_disk_gib + settings.data_disk_gib
    everywhere = [("CPUS_ALL_REGIONS", machine.vcpus, vcpus)]
    here = [("SSD_TOTAL_GB", disks, f"{disks} GiB of disks (pd-balanced counts as SSD)")]
    if machine.gpus and settings.reservation is None:  # what is reserved has been counted
        everywhere.append(("GPUS_ALL_REGIONS", machine.gpus, gpus))
        metric = _gpu_metric(machine, settings.spot, quotas.region)
        if settings.termination_action == "DELETE" and settings.max_run_seconds <= MAY_BE_PREEMPTIBLE_SECONDS:
            metric = max(metric, f"PREEMPTIBLE_{machine.gpu}_GPUS", key=lambda each: _free(quotas, each))
        here.append((metric, machine.gpus, gpus))
    if not machine.gpus:
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


def _gpu_metric(machine: Size, spot: bool, region: Mapping[str, Resource]) -> str:
    """Spot counts against a quota of its own where one is granted, otherwise against the usual one."""
    preemptible = f"PREEMPTIBLE_{machine.gpu}_GPUS"
    granted = region.get(preemptible, {}).get("limit", 0) > 0
    return preemptible if spot and granted else f"{machine.gpu}_GPUS"


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
