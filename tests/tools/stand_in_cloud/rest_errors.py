"""How the APIs of the stand-in cloud refuse, as Google does."""

from typing import Any

from tests.tools.stand_in_cloud.world import State


class Sorry(Exception):
    """An error as Google answers it."""

    def __init__(self, code: int, status: str, reason: str, message: str, info: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        kind = "type.googleapis.com/google.rpc.ErrorInfo"
        self.code = code
        self.body: dict[str, Any] = {
            "error": {
                "code": code,
                "message": message,
                "status": status,
                "errors": [{"message": message, "domain": "global", "reason": reason}],
                "details": [{"@type": kind, "domain": "googleapis.com", **info}] if info else [],
            }
        }


def admit(state: State, project: str, api: str, permission: str) -> None:
    """Refuses what Google would: a foreign project, a disabled API, a missing permission."""
    if project != state["project"]:
        raise Sorry(404, "NOT_FOUND", "notFound", f"The resource 'projects/{project}' was not found")
    if f"{api}.googleapis.com" not in state["services"]:
        message = (
            f"{api} API has not been used in project {project} before or it is disabled. Enable it by visiting "
            f"https://console.developers.google.com/apis/api/{api}.googleapis.com/overview?project={project} then retry."
        )
        metadata = {"service": f"{api}.googleapis.com", "consumer": f"projects/{project}"}
        info = {"reason": "SERVICE_DISABLED", "metadata": metadata}
        raise Sorry(403, "PERMISSION_DENIED", "accessNotConfigured", message, info)
    if permission in state["missing_permissions"]:
        message = f"Required '{permission}' permission for 'projects/{project}'"
        raise Sorry(403, "PERMISSION_DENIED", "forbidden", message)


def missing(path: str) -> Sorry:
    """The refusal of something that is not there."""
    return Sorry(404, "NOT_FOUND", "notFound", f"The resource '{path}' was not found")
