from collections.abc import Mapping
from typing import Any

import pytest

from infra.findings import Findings
from infra.quota import Size, judge_quota, read_quotas, size_of
from infra.stack_config import MachineSettings

Limits = Mapping[str, tuple[float, float]]
LIMITS: Limits = {
    "NVIDIA_L4_GPUS": (1, 0),
    "PREEMPTIBLE_NVIDIA_L4_GPUS": (1, 0),
    "CPUS": (24, 0),
    "SSD_TOTAL_GB": (500, 0),
    "IN_USE_ADDRESSES": (8, 0),
}
PROJECT_LIMITS: Limits = {"GPUS_ALL_REGIONS": (1, 0), "CPUS_ALL_REGIONS": (32, 0)}
PUBLIC = {"ssh": "public", "sshSourceRanges": ["203.0.113.7/32"]}


def _settings(**told: Any) -> MachineSettings:
    return MachineSettings.model_validate({"project": "demo-project", **told})


def _answer(quotas: Limits) -> dict[str, Any]:
    return {"quotas": [{"metric": metric, "limit": limit, "usage": usage} for metric, (limit, usage) in quotas.items()]}


def _vm(zone: str = "us-central1-a", machine_type: str = "g2-standard-8", status: str = "RUNNING", **more: Any) -> dict[str, Any]:
    return {
        "name": "incubator-l4",
        "machineType": f"zones/{zone}/machineTypes/{machine_type}",
        "zone": zone,
        "status": status,
        **more,
    }


def _judged(
    settings: MachineSettings,
    region: Limits | None = None,
    project: Limits | None = None,
    instances: list[Any] | None = None,
    disks: list[Any] | None = None,
    told: dict[str, Any] | None = None,
) -> Findings:
    findings = Findings("demo-project", "l4")
    answers = _answer({**PROJECT_LIMITS, **(project or {})}), _answer({**LIMITS, **(region or {})})
    size = size_of(settings.machine_type, told)
    assert size is not None
    judge_quota(findings, settings, read_quotas(settings, "l4", *answers, instances or [], disks or [], size), size)
    return findings


def test_a_machine_that_fits_is_told_quota_by_quota():
    findings = _judged(_settings())

    assert findings.obstacles == []
    assert findings.lines == [
        "quota CPUS_ALL_REGIONS (all regions): 8 needed, 32 free",
        "quota GPUS_ALL_REGIONS (all regions): 1 needed, 1 free",
        "quota SSD_TOTAL_GB in us-central1: 450 needed, 500 free",
        "quota NVIDIA_L4_GPUS in us-central1: 1 needed, 1 free",
    ]


def test_a_new_project_without_gpus_is_told_where_to_ask_for_how_many():
    findings = _judged(_settings(), project={"GPUS_ALL_REGIONS": (0, 0)})

    assert findings.obstacles == [
        "quota GPUS_ALL_REGIONS (all regions): 1 needed for 1 L4 of g2-standard-8, limit 0, 0 in use otherwise\n"
        "   next: ask for GPUS_ALL_REGIONS (all regions) = 1: https://console.cloud.google.com/iam-admin/quotas?project=demo-project\n"
        "   (new projects often have GPUS_ALL_REGIONS = 0; trial accounts get no GPU until they are upgraded)"
    ]


def test_a_limit_that_others_use_up_names_the_sweep():
    findings = _judged(_settings(), region={"NVIDIA_L4_GPUS": (1, 1)})

    (obstacle,) = findings.obstacles
    assert "ask for NVIDIA_L4_GPUS in us-central1 = 2" in obstacle
    assert "or end what uses it: ./fab sweep" in obstacle


@pytest.mark.parametrize(
    ("told", "region", "project", "metric"),
    [
        pytest.param(
            {"machineType": "g2-standard-24"},
            {"NVIDIA_L4_GPUS": (1, 0)},
            {"GPUS_ALL_REGIONS": (4, 0)},
            "NVIDIA_L4_GPUS",
            id="two-l4s",
        ),
        pytest.param({"provisioning": "spot"}, {"PREEMPTIBLE_NVIDIA_L4_GPUS": (1, 1)}, {}, "PREEMPTIBLE_NVIDIA_L4_GPUS", id="spot"),
        pytest.param(
            {"provisioning": "spot"},
            {"PREEMPTIBLE_NVIDIA_L4_GPUS": (0, 0), "NVIDIA_L4_GPUS": (1, 1)},
            {},
            "NVIDIA_L4_GPUS",
            id="spot-without-a-quota-of-its-own",
        ),
        pytest.param({"bootDiskGib": 301}, {}, {}, "SSD_TOTAL_GB", id="disks"),
        pytest.param(PUBLIC, {"IN_USE_ADDRESSES": (8, 8)}, {}, "IN_USE_ADDRESSES", id="address"),
        pytest.param({"machineType": "e2-standard-4"}, {"CPUS": (8, 5)}, {}, "CPUS", id="cpus"),
        pytest.param({}, {}, {"CPUS_ALL_REGIONS": (12, 5)}, "CPUS_ALL_REGIONS", id="cpus-everywhere"),
    ],
)
def test_each_quota_that_is_too_small_is_an_obstacle(told, region, project, metric):
    (obstacle,) = _judged(_settings(**told), region, project).obstacles

    assert obstacle.startswith(f"quota {metric} ")


def test_a_machine_without_a_gpu_needs_no_gpu_quota():
    findings = _judged(_settings(machineType="e2-standard-4"), {"NVIDIA_L4_GPUS": (0, 0)}, {"GPUS_ALL_REGIONS": (0, 0)})

    assert findings.obstacles == []


def test_a_reservation_has_its_gpus_counted_already():
    assert _judged(_settings(reservation="mine"), {"NVIDIA_L4_GPUS": (1, 1)}, {"GPUS_ALL_REGIONS": (1, 1)}).obstacles == []


def test_what_the_stack_has_already_is_not_asked_for_twice():
    vm = _vm(networkInterfaces=[{"accessConfigs": [{}]}])
    disks = [
        {"name": name, "sizeGb": size, "zone": "us-central1-a"}
        for name, size in (("incubator-l4", "250"), ("incubator-l4-data", "200"))
    ]
    used = {"NVIDIA_L4_GPUS": (1, 1), "SSD_TOTAL_GB": (500, 450), "IN_USE_ADDRESSES": (1, 1)}

    assert _judged(_settings(**PUBLIC), used, {"GPUS_ALL_REGIONS": (1, 1)}, [vm], disks).obstacles == []


@pytest.mark.parametrize(
    "vm",
    [
        pytest.param(_vm(status="TERMINATED"), id="stopped"),
        pytest.param(_vm() | {"name": "incubator-l4-spot"}, id="another-stack"),
        pytest.param(_vm(machine_type="e2-standard-4"), id="without-gpu"),
    ],
)
def test_a_vm_that_takes_no_gpu_of_the_stack_gives_none_back(vm):
    findings = _judged(_settings(), {"NVIDIA_L4_GPUS": (1, 1)}, {"GPUS_ALL_REGIONS": (1, 1)}, [vm])

    assert [obstacle.split()[1] for obstacle in findings.obstacles] == ["GPUS_ALL_REGIONS", "NVIDIA_L4_GPUS"]


def test_a_vm_in_another_region_gives_back_what_counts_everywhere():
    vm = _vm(zone="us-east1-b")

    findings = _judged(_settings(), {"NVIDIA_L4_GPUS": (1, 1)}, {"GPUS_ALL_REGIONS": (1, 1)}, [vm])

    assert [obstacle.split()[1] for obstacle in findings.obstacles] == ["NVIDIA_L4_GPUS"]


def test_a_spot_vm_does_not_give_back_the_quota_of_standard_ones():
    vm = _vm(scheduling={"provisioningModel": "SPOT"})

    findings = _judged(_settings(), {"NVIDIA_L4_GPUS": (1, 1)}, {"GPUS_ALL_REGIONS": (1, 1)}, [vm])

    assert [obstacle.split()[1] for obstacle in findings.obstacles] == ["NVIDIA_L4_GPUS"]


def test_a_quota_that_google_does_not_report_is_said_to_be_unchecked():
    settings, findings = _settings(), Findings("demo-project", "l4")
    judge_quota(findings, settings, read_quotas(settings, "l4", {}, _answer(LIMITS), [], []), Size(8, 1))

    assert findings.obstacles == []
    assert findings.lines[1] == "quota GPUS_ALL_REGIONS (all regions): Google does not report it, not checked"


@pytest.mark.parametrize(
    ("told", "region", "metric"),
    [
        ({"terminationAction": "DELETE"}, {"NVIDIA_L4_GPUS": (0, 0)}, "PREEMPTIBLE_NVIDIA_L4_GPUS"),
        ({"terminationAction": "DELETE"}, {"PREEMPTIBLE_NVIDIA_L4_GPUS": (0, 0)}, "NVIDIA_L4_GPUS"),
        ({"terminationAction": "DELETE", "maxRunSeconds": 8 * 86400}, {"PREEMPTIBLE_NVIDIA_L4_GPUS": (5, 0)}, "NVIDIA_L4_GPUS"),
        ({"terminationAction": "STOP"}, {"PREEMPTIBLE_NVIDIA_L4_GPUS": (5, 0)}, "NVIDIA_L4_GPUS"),
    ],
)
def test_a_machine_that_google_deletes_within_a_week_may_use_the_quota_of_spot(told, region, metric):
    findings = _judged(_settings(**told), region=region)

    assert findings.obstacles == []
    assert any(line.startswith(f"quota {metric} in us-central1: 1 needed") for line in findings.lines)


def test_a_machine_type_that_no_table_here_has_takes_what_google_says():
    told = {"guestCpus": 48, "accelerators": [{"guestAcceleratorType": "nvidia-rtx-pro-6000", "guestAcceleratorCount": 1}]}
    settings = _settings(machineType="g4-standard-48")
    vm = _vm(machine_type="g4-standard-48")
    here: Limits = {"NVIDIA_RTX_PRO_6000_GPUS": (1, 1)}

    fits = _judged(settings, here, {"CPUS_ALL_REGIONS": (64, 48), "GPUS_ALL_REGIONS": (1, 1)}, [vm], told=told)
    second = _judged(settings, here, {"CPUS_ALL_REGIONS": (64, 48), "GPUS_ALL_REGIONS": (1, 1)}, told=told)

    assert fits.obstacles == []
    assert "quota NVIDIA_RTX_PRO_6000_GPUS in us-central1: 1 needed, 1 free" in fits.lines
    assert [obstacle.split()[1] for obstacle in second.obstacles] == [
        "CPUS_ALL_REGIONS",
        "GPUS_ALL_REGIONS",
        "NVIDIA_RTX_PRO_6000_GPUS",
    ]
    assert "1 needed for 1 RTX_PRO_6000 of g4-standard-48" in second.obstacles[-1]
    assert size_of(
        "a2-highgpu-1g",
        {"guestCpus": 12, "accelerators": [{"guestAcceleratorType": "nvidia-tesla-a100", "guestAcceleratorCount": 1}]},
    ) == Size(12, 1, "NVIDIA_A100")
