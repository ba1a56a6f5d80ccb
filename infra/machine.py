"""The machine of one stack.

- the data disk: caches, code, runs; results are safe only in the bucket
- the VM, with the driver in its image, a limit on how long it may run, and an identity of its own
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pulumi
import pulumi_gcp as gcp

from infra.machine_types import PRICES_OF, has_gpu
from infra.network import Network
from infra.outputs import StorageOutputs, tunnel
from infra.stack_config import BUCKET_LABEL, MachineSettings

STARTUP_SCRIPT = Path(__file__).with_name("startup.sh")
DATA_DEVICE = "data"  # /dev/disk/by-id/google-data on the machine


class Machine(pulumi.ComponentResource):
    """VM and data disk."""

    instance_id: pulumi.Output[str]
    address: pulumi.Output[str | None]

    def __init__(
        self,
        name: str,
        settings: MachineSettings,
        storage: pulumi.Output[StorageOutputs],
        network: Network,
        stack_name: str,
        labels: dict[str, pulumi.Input[str]],
    ) -> None:
        super().__init__("incubator:machine:Machine", name)
        self._settings, self._labels, self._name = settings, labels, stack_name
        disk = gcp.compute.Disk(
            "data-disk",
            name=f"{stack_name}-data",
            project=settings.project,
            zone=settings.zone,
            type=settings.data_disk_type,
            size=settings.data_disk_gib,
            labels=labels,
            opts=pulumi.ResourceOptions(parent=self, delete_before_replace=True),
        )
        self._vm = self._make_vm(stack_name, storage, network, disk)
        self.instance_id = self._vm.instance_id
        self.address = self._vm.network_interfaces.apply(_external_address)
        self.register_outputs({"instance_id": self.instance_id})

    def outputs(self, storage: pulumi.Output[StorageOutputs]) -> dict[str, pulumi.Input[Any]]:
        """What `infra.outputs.MachineOutputs` reads; `max_run_seconds` and the price stand in every plan."""
        settings, name = self._settings, self._name
        return {
            "name": name,
            "instance_id": self.instance_id,
            "project": settings.project,
            "zone": settings.zone,
            "ssh_user": settings.ssh_user,
            "ssh_host": name if settings.ssh == "iap" else self.address,
            "ssh_port": 22,
            "ssh_proxy": tunnel(name, settings.project, settings.zone) if settings.ssh == "iap" else None,
            "bucket": storage.apply(lambda outputs: outputs.bucket),
            "service_account": storage.apply(lambda outputs: outputs.service_account),
            "secrets": storage.apply(lambda outputs: list(outputs.secrets)),
            "machine_type": settings.machine_type,
            "provisioning": settings.provisioning,
            "usd_per_hour": settings.price or 0.0,  # not known
            "price_of": "told by usdPerHour" if settings.usd_per_hour else PRICES_OF,
            "max_run_seconds": settings.max_run_seconds,
        }

    def _make_vm(
        self, stack_name: str, storage: pulumi.Output[StorageOutputs], network: Network, disk: gcp.compute.Disk
    ) -> gcp.compute.Instance:
        settings = self._settings
        reservation = settings.reservation and gcp.compute.InstanceReservationAffinityArgs(
            type="SPECIFIC_RESERVATION",
            specific_reservation=gcp.compute.InstanceReservationAffinitySpecificReservationArgs(
                key="compute.googleapis.com/reservation-name", values=[settings.reservation]
            ),
        )
        return gcp.compute.Instance(
            "vm",
            name=stack_name,
            project=settings.project,
            zone=disk.zone,  # not settings.zone: so a new disk means a new VM, and the old VM lets go of the old disk first
            machine_type=settings.machine_type,  # its L4s come with it; guest_accelerators would be a change in every plan
            boot_disk=self._boot_disk(),
            attached_disks=[gcp.compute.InstanceAttachedDiskArgs(source=disk.id, device_name=DATA_DEVICE, mode="READ_WRITE")],
            network_interfaces=[
                gcp.compute.InstanceNetworkInterfaceArgs(
                    subnetwork=network.subnetwork,
                    access_configs=[gcp.compute.InstanceNetworkInterfaceAccessConfigArgs(network_tier="PREMIUM")]
                    if settings.ssh == "public"
                    else [],
                )
            ],
            scheduling=_scheduling(settings),
            service_account=gcp.compute.InstanceServiceAccountArgs(
                email=storage.apply(lambda outputs: outputs.service_account),
                scopes=["https://www.googleapis.com/auth/cloud-platform"],  # what it may do is said by its roles
            ),
            shielded_instance_config=gcp.compute.InstanceShieldedInstanceConfigArgs(
                enable_vtpm=True,
                enable_integrity_monitoring=True,
                enable_secure_boot=False,  # NVIDIA's modules are not signed
            ),
            metadata=_metadata(settings) | {BUCKET_LABEL: storage.apply(lambda outputs: outputs.bucket)},
            tags=[network.tag],
            labels=self._labels,
            reservation_affinity=reservation or None,
            allow_stopping_for_update=True,
            deletion_protection=False,
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=network.ways_out,
                delete_before_replace=True,
                ignore_changes=_ignored(settings),
            ),
        )

    def _boot_disk(self) -> gcp.compute.InstanceBootDiskArgs:
        settings = self._settings
        return gcp.compute.InstanceBootDiskArgs(
            auto_delete=True,
            device_name="boot",
            initialize_params=gcp.compute.InstanceBootDiskInitializeParamsArgs(
                image=_image(settings), size=settings.boot_disk_gib, type=settings.boot_disk_type, labels=self._labels
            ),
        )


def _image(settings: MachineSettings) -> pulumi.Input[str]:
    family = settings.image.removeprefix("family/")
    if family == settings.image:
        return f"projects/{settings.image_project}/global/images/{settings.image}"
    found = gcp.compute.get_image_output(family=family, project=settings.image_project)
    return pulumi.Output.concat(f"projects/{settings.image_project}/global/images/", found.name)


def _ignored(settings: MachineSettings) -> list[str]:
    """What would replace the VM for nothing: a newer image where a family was asked for."""
    return ["bootDisk.initializeParams.image"] if settings.image.startswith("family/") else []


def _scheduling(settings: MachineSettings) -> gcp.compute.InstanceSchedulingArgs:
    """A GPU cannot move to another host, and a Spot VM may not. Other VMs move; of e2 Google refuses TERMINATE."""
    moves = not settings.spot and not has_gpu(settings.machine_type)
    return gcp.compute.InstanceSchedulingArgs(
        provisioning_model="SPOT" if settings.spot else "STANDARD",
        preemptible=settings.spot,
        automatic_restart=not settings.spot,
        on_host_maintenance="MIGRATE" if moves else "TERMINATE",
        instance_termination_action=settings.termination_action,
        max_run_duration=gcp.compute.InstanceSchedulingMaxRunDurationArgs(seconds=settings.max_run_seconds),
    )


def _metadata(settings: MachineSettings) -> dict[str, pulumi.Input[str]]:
    """A start-up script here may change without a new machine; `metadata_startup_script` would replace it."""
    metadata: dict[str, pulumi.Input[str]] = {
        "startup-script": STARTUP_SCRIPT.read_text(),
        "block-project-ssh-keys": "TRUE",
        "enable-oslogin": "FALSE" if settings.ssh_public_key else "TRUE",
    }
    if settings.ssh_public_key:
        metadata["ssh-keys"] = f"{settings.ssh_user}:{settings.ssh_public_key}"
    return metadata


def _external_address(interfaces: Sequence[gcp.compute.outputs.InstanceNetworkInterface]) -> str | None:
    """The address that the cloud gave, if one was asked for."""
    configs = interfaces[0].access_configs or [] if interfaces else []
    return configs[0].nat_ip if configs else None
