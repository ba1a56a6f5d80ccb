"""`fab up` and `fab down`: checks before anything costs money, the engine, the next zone if one is sold out, a last look."""

from infra.advice import next_step
from infra.engine import Engine, Plan
from infra.gcloud import gcloud
from infra.machine_types import region_of
from infra.outputs import MachineOutputs
from infra.policy import BUCKET, INSTANCE
from infra.preflight import preflight
from infra.refusal import Failed, Refused
from infra.shortage import Shortage, next_zone, shortage
from infra.stack_config import PROJECT, MachineSettings


def rent(engine: Engine, allow_replace: bool) -> None:
    """Bring a stack up.

    Raises: Refused before anything is created; Failed where the cloud or the engine could not.
    """
    engine.make_sure_it_exists()
    settings = engine.settings()
    for line in preflight(settings, engine.stack):
        print(line)
    came_before = engine.holds(INSTANCE) or "instance_id" in engine.outputs()  # a disk that no VM ever had is empty
    plan = engine.plan()
    if came_before and not allow_replace:
        _refuse_a_loss(plan, engine.stack)
    if not isinstance(settings, MachineSettings):
        _up(engine)
        return
    print(f"about ${settings.price:.2f} an hour while it runs; the cloud ends it after {settings.max_run_seconds / 3600:g} hours")
    _up_somewhere(engine, settings, movable=not came_before)
    _look_at_what_came(engine)


def _refuse_a_loss(plan: Plan, stack: str) -> None:
    lost = [name for name in (*plan.replaced, *plan.deleted) if name in ("vm", "data-disk")]
    if lost:
        raise Refused(
            f"stack {stack}: this would replace {' and '.join(lost)}, and what is on its disk and not in the bucket would be lost "
            f"(see: pulumi preview --stack {stack}); run it again with --replace if that is meant"
        )


def _up(engine: Engine) -> None:
    ended = engine.show("up", "--yes", "--skip-preview", "--stack", engine.stack)
    if ended.code != 0:
        raise Failed(next_step(engine.stack, ended.text))


def _up_somewhere(engine: Engine, settings: MachineSettings, movable: bool) -> None:
    """`pulumi up`, in the next zone as long as one is sold out."""
    name, tried = f"{PROJECT}-{engine.stack}", [settings.zone]
    while True:
        before = {operation["id"] for operation in _operations(settings.project, name)}
        ended = engine.show("up", "--yes", "--skip-preview", "--stack", engine.stack)
        if ended.code == 0:
            return
        new = [operation for operation in _operations(settings.project, name) if operation["id"] not in before]
        found = shortage(new, ended.text)
        if found is None or (found.kind == "quota" and not _only_there(found, tried)):
            _put_back(engine, settings.zone, tried)
            raise Failed(next_step(engine.stack, ended.text, found))
        zone = next_zone(tried, found, settings.other_regions)
        if not movable or zone is None:
            _put_back(engine, settings.zone, tried)
            raise Failed(_nowhere(engine.stack, tried, movable, settings.other_regions))
        why = "is sold out" if found.kind == "sold_out" else "is beyond the quota of its region"
        print(f"{tried[-1]} {why}; trying {zone} (incubator:zone in configs/stacks/Pulumi.{engine.stack}.yaml)", flush=True)
        engine.set("zone", zone)
        tried.append(zone)


def _only_there(found: Shortage, tried: list[str]) -> bool:
    """Whether a quota is missing in another region only, to which the search had moved on."""
    return f"in region {region_of(tried[-1])}" in found.words and region_of(tried[-1]) != region_of(tried[0])


def _put_back(engine: Engine, zone: str, tried: list[str]) -> None:
    if len(tried) > 1:
        engine.set("zone", zone)


def _operations(project: str, name: str) -> list[dict[str, str]]:
    """What the cloud has noted of attempts to create the VM, newest first."""
    found: list[dict[str, str]] = gcloud(
        "compute", "operations", "list", f"--project={project}", f"--filter=operationType=insert AND targetLink~/instances/{name}$"
    )
    return sorted(found, key=lambda operation: operation.get("insertTime", ""), reverse=True)


def _nowhere(stack: str, tried: list[str], movable: bool, other_regions: bool) -> str:
    if not movable:
        return (
            f"{tried[-1]} is sold out, and the data disk of stack {stack} stands there. Try again later; or, if all that counts is "
            f"in the bucket, move without the disk: ./fab down --stack {stack} --without-sync, then ./fab up --stack {stack}"
        )
    elsewhere = (
        "" if other_regions else f"; to look in other regions too: pulumi config set incubator:otherRegions true --stack {stack}"
    )
    return (
        f"sold out in {', '.join(tried)}: no machine was rented{elsewhere}. An empty disk and a NAT are left "
        f"(./fab cost --stack {stack}); ./fab down --stack {stack} removes them, ./fab up --stack {stack} tries again"
    )


def _look_at_what_came(engine: Engine) -> None:
    """Is it what was asked for? A Spot VM that came as a standard one costs more than twice as much.

    Raises: Failed with what differs.
    """
    asked = MachineOutputs.of(engine.outputs(), engine.stack)
    vm = gcloud("compute", "instances", "describe", asked.name, f"--project={asked.project}", f"--zone={asked.zone}")
    came = {
        "provisioning": str(vm.get("scheduling", {}).get("provisioningModel", "STANDARD")).lower(),
        "machine_type": str(vm.get("machineType", "")).split("/")[-1],
        "status": str(vm.get("status", "")),
    }
    wanted = {"provisioning": asked.provisioning, "machine_type": asked.machine_type, "status": "RUNNING"}
    wrong = [f"{key}: {came[key]} instead of {wanted[key]}" for key in wanted if came[key] != wanted[key]]
    if wrong:
        off = "" if came["status"] == "RUNNING" else f"To start it: {asked.start}. "
        raise Failed(
            f"{asked.name} is not what was asked for: {'; '.join(wrong)}. {off}To give it back: ./fab down --stack {engine.stack}"
        )
    print(f"{asked.name} runs in {asked.zone} ({asked.machine_type}, {asked.provisioning})")


def give_back(engine: Engine) -> None:
    """`pulumi destroy`.

    Raises: Refused for a stack that stays; Failed where the engine could not.
    """
    if not engine.exists():
        return
    if engine.holds(BUCKET):
        bucket = engine.outputs().get("bucket", "BUCKET")
        raise Refused(
            f"stack {engine.stack} holds the bucket with your results, and is protected. To give it up for good, delete the "
            f"objects with their earlier versions: gcloud storage rm --all-versions 'gs://{bucket}/**', "
            f"then: pulumi state unprotect --all --stack {engine.stack}; pulumi destroy --stack {engine.stack}"
        )
    ended = engine.show("destroy", "--yes", "--skip-preview", "--stack", engine.stack)
    if ended.code != 0:
        raise Failed(next_step(engine.stack, ended.text, verb="destroy"))
