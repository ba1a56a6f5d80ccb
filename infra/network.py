"""The network of one machine.

- a VPC and one subnet, from which Google's APIs (the bucket) are reached without an external address
- a rule that lets SSH in: from Google's identity-aware proxy, or from the ranges that are named
- for a machine without an external address: a NAT, through which it reaches the package indexes
"""

import pulumi
import pulumi_gcp as gcp

from infra.ssh_ranges import IAP_RANGE
from infra.stack_config import MachineSettings

SUBNET_RANGE = "10.10.0.0/24"


class Network(pulumi.ComponentResource):
    """VPC, subnet, SSH rule, NAT; `tag` is what the SSH rule applies to."""

    subnetwork: pulumi.Output[str]
    tag: str
    ways_out: list[pulumi.Resource]
    """What a machine waits for, so that it comes up with a way out and is gone before that is."""

    def __init__(self, name: str, settings: MachineSettings, stack_name: str, description: pulumi.Input[str]) -> None:
        super().__init__("incubator:network:Network", name)
        inside = pulumi.ResourceOptions(parent=self)
        # Names and ranges are fixed, so the old one goes before the new one comes.
        first_delete = pulumi.ResourceOptions(parent=self, delete_before_replace=True)
        self.tag, project, region = stack_name, settings.project, settings.region
        network = gcp.compute.Network(
            "network",
            name=stack_name,
            description=description,  # a network has no labels; a sweep knows by it whose this is
            project=project,
            auto_create_subnetworks=False,
            routing_mode="REGIONAL",
            opts=inside,
        )
        subnetwork = gcp.compute.Subnetwork(
            "subnet",
            name=stack_name,
            project=project,
            region=region,
            network=network.id,
            ip_cidr_range=SUBNET_RANGE,
            private_ip_google_access=True,
            opts=first_delete,
        )
        ssh = gcp.compute.Firewall(
            "ssh",
            name=f"{stack_name}-ssh",
            project=project,
            network=network.id,
            direction="INGRESS",
            allows=[gcp.compute.FirewallAllowArgs(protocol="tcp", ports=["22"])],
            source_ranges=[IAP_RANGE] if settings.ssh == "iap" else [str(source) for source in settings.ssh_source_ranges],
            target_tags=[self.tag],
            opts=first_delete,
        )
        self.subnetwork, self.ways_out = subnetwork.id, [ssh]
        if settings.ssh == "iap":
            self.ways_out.append(_nat(settings, stack_name, network.id, first_delete))
        self.register_outputs({"subnetwork": self.subnetwork})


def _nat(settings: MachineSettings, stack_name: str, network: pulumi.Output[str], opts: pulumi.ResourceOptions) -> pulumi.Resource:
    project, region = settings.project, settings.region
    router = gcp.compute.Router("router", name=f"{stack_name}-router", project=project, region=region, network=network, opts=opts)
    return gcp.compute.RouterNat(
        "nat",
        name=f"{stack_name}-nat",
        project=project,
        region=region,
        router=router.name,
        nat_ip_allocate_option="AUTO_ONLY",
        source_subnetwork_ip_ranges_to_nat="ALL_SUBNETWORKS_ALL_IP_RANGES",
        opts=opts,
    )
