"""What can be known before anything is created: logins, APIs, permissions, quota, machine type, image.

All obstacles come at once, each with its next step. What the same stack has already is not asked for twice.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from infra.accounts import Accounts, accounts, judge_accounts
from infra.findings import Findings
from infra.gcloud import ApiDisabled, GcloudFailed, NotFound, all_at_once, gcloud
from infra.machine_types import ZONES, region_of
from infra.offers import judge_zone, refuse_machine_type
from infra.permissions import judge_permissions, missing_permissions, pulumi_login
from infra.quota import judge_quota, read_quotas, size_of
from infra.stack_config import PROJECT, MachineSettings, StackSettings
from infra.stack_files import told_by
from training.errors import RunError, UserError

STORAGE_APIS = {
    "serviceusage": "with it the stack enables the others",
    "cloudresourcemanager": "with it the stack grants roles",
}
"""What a storage stack needs before it begins: every other API it enables itself."""

MACHINE_APIS = {
    "compute": "the VM, its disks and network",
    "iam": "the account that the VM runs as",
    "logging": "where its log goes",
    "monitoring": "where its metrics go",
    "storage": "the bucket",
}
IAP_API, OS_LOGIN_API = {"iap": "SSH without an external address"}, {"oslogin": "SSH with a Google account"}

Answers = Mapping[str, Any]


def preflight(settings: StackSettings, stack: str) -> list[str]:
    """What was checked, a line each, if nothing stands in the way of `pulumi up` of this stack.

    Raises: UserError with every obstacle and its next step; RunError if Google cannot be reached.
    """
    findings = Findings(settings.project, stack)
    questions: dict[str, Callable[[], Any]] = {
        "services": partial(gcloud, "services", "list", "--enabled", f"--project={settings.project}")
    }
    if pulumi_login(findings):
        questions |= {"permissions": partial(missing_permissions, settings), "accounts": accounts}
    if isinstance(settings, MachineSettings):
        questions |= _machine_questions(settings)
    try:
        answers = all_at_once(questions)
    except UserError as refusal:  # no gcloud or no login: there is nothing more to learn
        findings.obstacles.append(str(refusal))
        return findings.settle()
    for answer in answers.values():
        if isinstance(answer, RunError) and not isinstance(answer, GcloudFailed):
            raise answer
    if isinstance(answers.get("project"), NotFound):
        step = "gcloud projects list shows your projects"
        findings.obstacle(f"gcp:project: {settings.project}: there is no such project, or it is not yours", step)
        return findings.settle()
    if found := answers.get("accounts"):
        judge_accounts(findings, found if isinstance(found, Accounts) else Accounts(None, None, str(found)))
    _judge_apis(findings, settings, answers)
    if "permissions" in answers:
        judge_permissions(findings, settings, answers["permissions"])
    if isinstance(settings, MachineSettings):
        _judge_machine(findings, settings, answers)
    return findings.settle()


def _machine_questions(settings: MachineSettings) -> dict[str, Callable[[], Any]]:
    project, images = f"--project={settings.project}", f"--project={settings.image_project}"
    family = image_family(settings.image)
    words = {
        "project": ("project-info", "describe", project),
        "region": ("regions", "describe", settings.region, project),
        "instances": ("instances", "list", project),
        "disks": ("disks", "list", project),
        "machine type": ("machine-types", "describe", settings.machine_type, f"--zone={settings.zone}", project),
        "newest image": ("images", "describe-from-family", family, images),
    }
    if not settings.image.startswith("family/"):
        words["image"] = ("images", "describe", settings.image, images)
    if settings.zone not in ZONES:
        words["zones"] = ("zones", "list", project)
    return {name: partial(gcloud, "compute", *said) for name, said in words.items()}


def image_family(image: str) -> str:
    """The family of an image: its name without the date, as Google's deep-learning images have it."""
    return re.sub(r"-v\d{8}$", "", image.removeprefix("family/"))


def _is_it_yours(findings: Findings, role: str) -> str:
    return f"gcloud projects list shows your projects; if {findings.project} is one, ask its owner for: {findings.grant(role)}"


def _judge_apis(findings: Findings, settings: StackSettings, answers: Answers) -> None:
    needed, enabled = dict(STORAGE_APIS), answers["services"]
    if isinstance(settings, MachineSettings):
        needed = MACHINE_APIS | (IAP_API if settings.ssh == "iap" else {}) | ({} if settings.ssh_public_key else OS_LOGIN_API)
    if isinstance(enabled, ApiDisabled):  # the one that answers, so nothing is known of the others
        enabled, needed = [], {"serviceusage": STORAGE_APIS["serviceusage"]}
    if isinstance(enabled, GcloudFailed):
        findings.obstacle(f"APIs: {enabled}", _is_it_yours(findings, "roles/serviceusage.serviceUsageConsumer"))
        return
    names = {service["config"]["name"].removesuffix(".googleapis.com") for service in enabled}
    missing = {api: why for api, why in needed.items() if api not in names}
    if not missing:
        findings.fine(f"APIs: {', '.join(needed)} are enabled")
        return
    hosts = " ".join(f"{api}.googleapis.com" for api in missing)
    step = f"gcloud services enable {hosts} --project {settings.project}"
    if isinstance(settings, MachineSettings):
        step += f"\n   (pulumi up --stack {settings.storage_stack} does it too)"
    findings.obstacle("APIs: not enabled: " + "; ".join(f"{api} ({why})" for api, why in missing.items()), step)


def _judge_machine(findings: Findings, settings: MachineSettings, answers: Answers) -> None:
    asked = {name: answers[name] for name in _machine_questions(settings)}
    disabled = [answer for answer in asked.values() if isinstance(answer, ApiDisabled)]
    if disabled:
        if not findings.obstacles:  # enabled a moment ago
            findings.obstacle(f"APIs: {disabled[0]}", "wait some minutes, then run it again")
        return
    if isinstance(asked.get("zones"), list) and not judge_zone(findings, settings.zone, asked["zones"]):
        return  # whatever else was asked was asked of that zone
    silent = {
        name: answer for name, answer in asked.items() if isinstance(answer, GcloudFailed) and not isinstance(answer, NotFound)
    }
    if silent:
        why = next(iter(silent.values()))
        findings.obstacle(f"not known: {', '.join(silent)}: {why}", _is_it_yours(findings, "roles/compute.viewer"))
        return
    _judge_region(findings, settings)
    offered = not isinstance(asked["machine type"], NotFound)
    size = size_of(settings.machine_type, asked["machine type"] if offered else None)
    quotas = read_quotas(settings, findings.stack, asked["project"], asked["region"], asked["instances"], asked["disks"], size)
    if size is not None:
        judge_quota(findings, settings, quotas, size)
    if offered:
        findings.fine(f"machine type: {settings.machine_type} is offered in {settings.zone}")
    else:
        refuse_machine_type(findings, settings)
    if settings.price is None:
        price = f"price: not known here for {settings.machine_type} in {settings.zone}"
        findings.warning(f"{price}; to set it: {findings.configure('usdPerHour', 'DOLLARS')}")
    _judge_image(findings, settings, asked, quotas.exists)


def _judge_region(findings: Findings, settings: MachineSettings) -> None:
    """The bucket's region is that of the storage stack's file: it never changes."""
    region = told_by(settings.storage_stack).get(f"{PROJECT}:location")
    if region is None:
        findings.fine(f"region of the bucket: no configs/stacks/Pulumi.{settings.storage_stack}.yaml here tells it, not checked")
    elif region == settings.region:
        findings.fine(f"region: the machine and the bucket are both in {region}")
    elif settings.other_regions:
        findings.fine(f"region: the machine in {settings.region}, the bucket in {region}: the traffic between them is billed")
    else:
        near = [zone for zone in ZONES if region_of(zone) == region] or [f"{region}-a"]
        what = f"incubator:zone: {settings.zone}: the bucket of stack {settings.storage_stack} is in {region}"
        step = (
            f"{findings.configure('zone', near[0])}\n   or, and pay for the traffic: {findings.configure('otherRegions', 'true')}"
        )
        findings.obstacle(what, step)


def _judge_image(findings: Findings, settings: MachineSettings, asked: Answers, exists: bool) -> None:
    """A boot image is read once: that it is gone is no obstacle for a VM that stands."""
    newest = None if isinstance(asked["newest image"], NotFound) else asked["newest image"]
    image = asked.get("image", asked["newest image"])
    what = f"incubator:image: {settings.image} of {settings.image_project}"
    state = "not there" if isinstance(image, NotFound) else image.get("deprecated", {}).get("state", "ACTIVE")
    if state not in ("ACTIVE", "DEPRECATED"):
        families = f"gcloud compute images list --project {settings.image_project} --no-standard-images --format='value(family)'"
        if exists:
            findings.fine(f"image: {settings.image}: {state.lower()}; the machine that stands does not need it, the next one will")
        elif newest:
            findings.obstacle(f"{what}: {state.lower()}; the newest of its family is", findings.configure("image", newest["name"]))
        else:
            findings.obstacle(f"{what}: {state.lower()}, and so is its family", f"choose one of: {families}")
        return
    if int(image.get("diskSizeGb", 0)) > settings.boot_disk_gib:
        size = f"incubator:bootDiskGib: {settings.boot_disk_gib}: the image has {image['diskSizeGb']} GiB"
        findings.obstacle(size, findings.configure("bootDiskGib", image["diskSizeGb"]))
    findings.fine(f"image: {image['name']}" + (" (deprecated: it will go)" if state == "DEPRECATED" else ""))
    if newest and newest["name"] != image["name"]:
        findings.fine(f"image: a newer one is there, for the next machine: {findings.configure('image', newest['name'])}")
