"""What to do when the engine did not finish: the next step for the errors that it reports, which have words and no codes."""

import re

from infra.shortage import Shortage

ADVICE = {
    "pending operations": "an earlier run was cut off: pulumi refresh --clear-pending-creates --stack {stack}, then again",
    "the stack is currently locked": "another pulumi is at work on it; if none is: pulumi cancel --stack {stack}",
    "already being used by": "something uses it that Pulumi does not know of: ./fab down --stack {stack}, then again",
    "/serviceAccounts/": "the training account is there, of a state that is lost: ./fab adopt --stack {stack}",
    "Secret [": "there is no such secret yet: gcloud secrets create NAME --data-file=FILE, then again",
    "Billing must be enabled": "link a billing account: gcloud billing projects link PROJECT --billing-account=ID",
    "you already own it": "the bucket is yours, of a state that is lost: ./fab adopt --stack {stack}; or another one: "
    "pulumi config set incubator:bucket NAME --stack {stack}",
    "bucket name is not available": "the whole world shares them: pulumi config set incubator:bucket NAME --stack {stack}",
    "must be larger than existing size": "a boot disk cannot shrink: set incubator:bootDiskGib to the existing size or more: "
    "pulumi config set incubator:bootDiskGib GIB --stack {stack}; or a new machine: ./fab down --stack {stack}, then ./fab up",
    "marked for protection": "a setting, or a newer program, would delete or replace something that stays. If that is meant: "
    "pulumi state unprotect 'URN' --stack {stack}, with the URN that stands above, then again",
    "containing objects without": "the bucket is not empty, though it may look so: earlier versions count too. All of it: "
    "gcloud storage ls --all-versions 'gs://BUCKET/**'; to delete it for good: gcloud storage rm --all-versions 'gs://BUCKET/**'",
    "notFound": "something was deleted by hand: pulumi refresh --stack {stack}, then again",
    "passphrase": "set PULUMI_CONFIG_PASSPHRASE (or _FILE) to the passphrase of your stacks",
}
SWEPT = ("instances", "disks", "addresses", "snapshots", "routers")
COMMANDS = {"subnetworks": "networks subnets", "firewalls": "firewall-rules"}  # the rest are called alike


def next_step(stack: str, printed: str, found: Shortage | None = None, verb: str = "up") -> str:
    """A sentence for the errors of the engine (`Ended.errors`), or for the quota that was too small."""
    if found is not None:
        return (
            f"the project's quota is too small, and another zone would not help: {found.words}; "
            f"./fab preflight --stack {stack} says what to ask for"
        )
    advice = _there_but_unknown(stack, printed) or next(
        (advice.format(stack=stack) for words, advice in ADVICE.items() if words in printed), None
    )
    if advice is not None:
        return f"pulumi {verb} did not finish: {advice}"
    return f"pulumi {verb} did not finish (see above). What came is in its state: run it again; what costs: ./fab sweep"


def _there_but_unknown(stack: str, printed: str) -> str | None:
    """For a thing that is in the cloud and not in the state: of a run that was cut off, or somebody else's."""
    found = re.search(r"The resource 'projects/([^/]+)/(global|regions/[^/]+|zones/[^/]+)/(\w+)/([^']+)' already exists", printed)
    if found is None:
        return None
    project, place, kind, name = found.groups()
    scope = "" if place == "global" else f" --{place.replace('s/', '=')}"
    by_hand = f"gcloud compute {COMMANDS.get(kind, kind)} delete {name}{scope} --project={project}"
    delete = f"./fab sweep --stack {stack} --delete" if kind in SWEPT else by_hand
    delete = f"./fab down --stack {stack}" if kind == "instances" else delete  # a sweep spares a VM
    return (
        f"{name} ({kind}) is there, but not in this state. If it is of a run that was cut off: {delete}, then again. "
        "If it is somebody else's (the sweep shows whose): give your stack another name"
    )
