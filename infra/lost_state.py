"""A rented machine as Google knows it: what Pulumi's state would tell, when that is lost or on another laptop.

All names are fixed, and the rest stands in the VM itself: its zone, account, limit, and in a label the bucket. Names of secrets do
not, so a machine that is known in this way brings no tokens to a new run; what runs, and its last results, need none.
"""

from collections.abc import Mapping
from typing import Any

from infra.gcloud import ApiDisabled, gcloud
from infra.machine_types import PRICES_OF
from infra.ours import is_ours
from infra.outputs import MachineOutputs, tunnel
from infra.prices import vm_usd_per_hour
from infra.stack_config import BUCKET_LABEL, PROJECT
from infra.stack_files import our_buckets
from infra.sweep import is_spot, last
from training.errors import UserError


def machine_without_state(project: str, stack: str) -> MachineOutputs | None:
    """The machine of a stack, asked of gcloud alone; None if there is no VM of its name.

    Raises: UserError if the VM of this name is another installation's; RunError where gcloud cannot say.
    """
    name = f"{PROJECT}-{stack}"
    try:
        found = [vm for vm in gcloud("compute", "instances", "list", f"--project={project}") if vm["name"] == name]
    except ApiDisabled:
        return None
    if not found:
        return None
    (vm, *more), buckets = found, our_buckets(project)
    if more:
        zones = ", ".join(last(each["zone"]) for each in found)
        raise UserError(f"{name}: there are several in project {project}, in {zones}; ./fab sweep --stack {stack} shows whose")
    if not is_ours(vm, buckets):
        label = (vm.get("labels") or {}).get(BUCKET_LABEL)
        fix = f"pulumi config set incubator:bucket {label} --stack storage" if label and buckets and label not in buckets else ""
        raise UserError(
            f"{name} in project {project} is not of this installation: its label {BUCKET_LABEL} is {label or 'missing'} (accepted: "
            f"{', '.join(sorted(buckets)) or 'none, for no storage stack of configs/stacks is of this project'}). "
            + (f"If it is yours: {fix}" if fix else f"Whose it is: ./fab sweep --project {project}")
        )
    return _outputs(project, vm)


def _outputs(project: str, vm: Mapping[str, Any]) -> MachineOutputs:
    zone, machine_type, spot = last(vm["zone"]), last(vm["machineType"]), is_spot(vm)
    configs = [config for interface in vm.get("networkInterfaces", []) for config in interface.get("accessConfigs", [])]
    metadata = {entry["key"]: entry.get("value", "") for entry in vm.get("metadata", {}).get("items", [])}
    user, colon, _ = metadata.get("ssh-keys", "").partition(":")
    return MachineOutputs(
        name=vm["name"],
        instance_id=str(vm["id"]),
        project=project,
        zone=zone,
        ssh_host=str(configs[0].get("natIP", "")) if configs else vm["name"],  # a VM that is off has no address
        ssh_port=22,
        bucket=vm["labels"][BUCKET_LABEL],
        service_account=next((account["email"] for account in vm.get("serviceAccounts", [])), ""),
        secrets=(),
        machine_type=machine_type,
        provisioning="spot" if spot else "standard",
        usd_per_hour=vm_usd_per_hour(machine_type, zone, spot) or 0.0,
        price_of=PRICES_OF,
        max_run_seconds=int(vm.get("scheduling", {}).get("maxRunDuration", {}).get("seconds", 0)),
        ssh_user=user if colon else None,
        ssh_proxy=None if configs else tunnel(vm["name"], project, zone),
    )
