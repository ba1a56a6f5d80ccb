"""Whether Pulumi has credentials, and what they may do in the project."""

import json
import os
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from infra.findings import Findings
from infra.gcloud import LOGIN_FOR_PULUMI, GcloudFailed, gcloud
from infra.stack_config import MachineSettings, StackSettings
from training.errors import RunError, UserError

LIMIT_SECONDS = 30
ACT_AS = "iam.serviceAccounts.actAs"

# What Pulumi does, and the role that allows it.
STORAGE_PERMISSIONS = {
    "serviceusage.services.enable": "roles/serviceusage.serviceUsageAdmin",
    "storage.buckets.create": "roles/storage.admin",
    "iam.serviceAccounts.create": "roles/iam.serviceAccountAdmin",
    "resourcemanager.projects.setIamPolicy": "roles/resourcemanager.projectIamAdmin",
}
MACHINE_PERMISSIONS = {
    f"compute.{action}": "roles/compute.admin"
    for action in (
        "instances.create",
        "instances.delete",
        "instances.setLabels",
        "instances.setMetadata",
        "instances.setServiceAccount",
        "disks.create",
        "networks.create",
        "subnetworks.create",
        "subnetworks.use",
        "firewalls.create",
        "routers.create",
    )
} | {ACT_AS: "roles/iam.serviceAccountUser"}
SECRETS_PERMISSION = {"secretmanager.secrets.setIamPolicy": "roles/secretmanager.admin"}
TUNNEL, LOGIN = "iap.tunnelInstances.accessViaIAP", "compute.instances.osAdminLogin"
ELSEWHERE = {ACT_AS: "the training account", TUNNEL: "the machine", LOGIN: "the machine"}
"""What may be granted on another thing alone: the project does not know."""
PUBLIC_PERMISSION = {"compute.subnetworks.useExternalIp": "roles/compute.admin"}


def pulumi_login(findings: Findings) -> bool:
    """Whether Pulumi has credentials; gcloud's own login is another one."""
    for variable in ("GOOGLE_CREDENTIALS", "GOOGLE_OAUTH_ACCESS_TOKEN"):
        if os.environ.get(variable):
            findings.fine(f"Pulumi's credentials: {variable}")
            return True
    file = login_file()
    if file.is_file():
        findings.fine(f"Pulumi's credentials: {file}")
        return True
    findings.obstacle(f"Pulumi has no credentials: {file} is not there (the login of gcloud itself is another)", LOGIN_FOR_PULUMI)
    return False


def login_file() -> Path:
    """Where the application-default login lies."""
    folder = os.environ.get("CLOUDSDK_CONFIG") or Path.home() / ".config" / "gcloud"
    return Path(os.environ.get("GOOGLE_APPLICATION_CREDENTIALS") or Path(folder) / "application_default_credentials.json")


def missing_permissions(settings: StackSettings) -> list[str]:
    """What Pulumi's account may not do in the project. gcloud 528 has no command that asks this.

    Raises: UserError if Pulumi's credentials are no longer good; GcloudFailed where it cannot be asked.
    """
    wanted = wanted_permissions(settings)
    base = os.environ.get("CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDRESOURCEMANAGER") or "https://cloudresourcemanager.googleapis.com/"
    token = token_of_pulumi()
    request = Request(
        f"{base.rstrip('/')}/v1/projects/{settings.project}:testIamPermissions",
        data=json.dumps({"permissions": [*wanted]}).encode(),
        headers={"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {}),
    )
    try:
        with urlopen(request, timeout=LIMIT_SECONDS) as response:
            granted = json.load(response).get("permissions", [])
    except HTTPError as error:
        with error:
            raise GcloudFailed(f"testIamPermissions: HTTP {error.code} {error.reason}") from None
    except OSError as error:
        raise GcloudFailed(f"testIamPermissions: {error}") from None
    return [permission for permission in wanted if permission not in granted]


def judge_permissions(findings: Findings, settings: StackSettings, missing: list[str] | RunError) -> None:
    """Takes down what is missing, by role."""
    if isinstance(missing, RunError):
        findings.fine(f"permissions: not checked ({missing})")
        return
    wanted = wanted_permissions(settings)
    if not missing:
        findings.fine(f"permissions: all {len(wanted)} granted")
    for role in dict.fromkeys(wanted[permission] for permission in missing):
        lacks, grant = ", ".join(permission for permission in missing if wanted[permission] == role), findings.grant(role)
        if lacks in ELSEWHERE:
            findings.fine(f"permissions: {lacks} is not granted on the project; if not on {ELSEWHERE[lacks]} either: {grant}")
        else:
            findings.obstacle(f"permissions: Pulumi's account may not {lacks}", f"ask an owner of the project for: {grant}")


def wanted_permissions(settings: StackSettings) -> dict[str, str]:
    """What Pulumi does for this stack, with the role that allows it."""
    if isinstance(settings, MachineSettings):
        way_in = PUBLIC_PERMISSION if settings.ssh == "public" else {TUNNEL: "roles/iap.tunnelResourceAccessor"}
        login = {} if settings.ssh_public_key else {LOGIN: "roles/compute.osAdminLogin"}
        return MACHINE_PERMISSIONS | way_in | login
    return STORAGE_PERMISSIONS | (SECRETS_PERMISSION if settings.secrets else {})


def token_of_pulumi() -> str | None:
    """What Pulumi's credentials give, or None where gcloud itself is told to send nothing.

    Raises: UserError if they are no longer good; GcloudFailed where gcloud does not take them.
    """
    if os.environ.get("CLOUDSDK_AUTH_DISABLE_CREDENTIALS", "").lower() in ("true", "1", "yes"):
        return None
    if os.environ.get("GOOGLE_CREDENTIALS"):
        raise GcloudFailed("GOOGLE_CREDENTIALS is for Pulumi alone")
    if token := os.environ.get("GOOGLE_OAUTH_ACCESS_TOKEN"):
        return token
    try:
        return str(gcloud("auth", "application-default", "print-access-token", "--format=json(token)")["token"])
    except UserError:
        raise UserError(f"Pulumi's credentials are no longer good\n   next: {LOGIN_FOR_PULUMI}") from None
