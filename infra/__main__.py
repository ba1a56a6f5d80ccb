"""What `pulumi up` runs: wires the parts of one stack together; what the stack is stands in its file under configs/stacks."""

from functools import partial

import pulumi

from infra.ending import end_without_a_traceback
from infra.guard import guard
from infra.machine import Machine
from infra.network import Network
from infra.ours import network_description
from infra.stack import stack_settings, storage_outputs
from infra.stack_config import BUCKET_LABEL, PROJECT, MachineSettings, StorageSettings
from infra.storage import Storage

pulumi.require_pulumi_version(">=3.250.0")


def storage_stack(settings: StorageSettings) -> None:
    """What stays."""
    labels = {**settings.labels(pulumi.get_stack()), BUCKET_LABEL: settings.bucket_name}
    storage = Storage("storage", settings, labels)
    pulumi.export("project", settings.project)
    pulumi.export("region", settings.location)
    pulumi.export("bucket", storage.bucket)
    pulumi.export("service_account", storage.service_account)
    pulumi.export("secrets", list(settings.secrets))


def machine_stack(settings: MachineSettings) -> None:
    """What comes and goes."""
    stack = pulumi.get_stack()
    name = f"{PROJECT}-{stack}"
    storage = storage_outputs(settings)
    bucket = storage.apply(lambda outputs: outputs.bucket)
    network = Network("network", settings, name, bucket.apply(partial(network_description, stack)))
    machine = Machine("machine", settings, storage, network, name, {**settings.labels(stack), BUCKET_LABEL: bucket})
    for key, value in machine.outputs(storage).items():
        pulumi.export(key, value)


end_without_a_traceback()
settings = stack_settings()
guard(settings)
if isinstance(settings, StorageSettings):
    storage_stack(settings)
else:
    machine_stack(settings)
