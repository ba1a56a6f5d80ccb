"""What stays, as gcloud reads it: buckets, the service account, and who is granted what (IAM policies)."""

import base64
from collections.abc import Callable
from typing import Any

from tests.tools.stand_in_cloud import rules
from tests.tools.stand_in_cloud.rest_errors import Sorry, admit, missing
from tests.tools.stand_in_cloud.world import State, World, of_type

At = dict[str, str]


def _buckets(world: World, at: At, query: At, body: bytes) -> dict[str, Any]:
    state = world.read()
    admit(state, query["project"], "storage", "storage.buckets.list")
    found = [record for record in of_type(state, rules.BUCKET) if record["inputs"].get("project") == query["project"]]
    items = [
        {
            "kind": "storage#bucket",
            "name": record["id"],
            "location": record["inputs"]["location"],
            "labels": record["inputs"].get("labels", {}),
            "projectNumber": state["project_number"],
        }
        for record in found
    ]
    return {"kind": "storage#buckets", "items": items}


def _bucket_policy(world: World, at: At, query: At, body: bytes) -> dict[str, Any]:
    state = world.read()
    if at["bucket"] not in state["resources"]:
        raise Sorry(404, "NOT_FOUND", "notFound", "The specified bucket does not exist.")
    return _policy(state, rules.BUCKET_GRANT, bucket=at["bucket"])


def _project_policy(world: World, at: At, query: At, body: bytes) -> dict[str, Any]:
    state = world.read()
    admit(state, at["project"], "cloudresourcemanager", "resourcemanager.projects.getIamPolicy")
    return _policy(state, rules.PROJECT_GRANT, project=at["project"])


def _secret_policy(world: World, at: At, query: At, body: bytes) -> dict[str, Any]:
    state = world.read()
    admit(state, at["project"], "secretmanager", "secretmanager.secrets.getIamPolicy")
    if at["secret"] not in state["secrets"]:
        raise Sorry(404, "NOT_FOUND", "notFound", f"Secret [projects/{state['project_number']}/secrets/{at['secret']}] not found.")
    return _policy(state, rules.SECRET_GRANT, project=at["project"], secretId=at["secret"])


def _policy(state: State, token: str, **where: str) -> dict[str, Any]:
    """One binding a grant: gcloud shows what Google joins in the same way, by role."""
    grants = [record["inputs"] for record in of_type(state, token)]
    bindings = [
        {"role": grant["role"], "members": [grant["member"]], **{key: grant[key] for key in ("condition",) if grant.get(key)}}
        for grant in grants
        if all(grant.get(key) == value for key, value in where.items())
    ]
    return {"version": 3, "etag": base64.b64encode(b"stand-in").decode(), "bindings": bindings}


def _account(world: World, at: At, query: At, body: bytes) -> dict[str, Any]:
    state = world.read()
    admit(state, state["project"], "iam", "iam.serviceAccounts.get")
    for record in of_type(state, rules.ACCOUNT):
        if record["outputs"]["email"] == at["email"]:
            return {"name": record["id"], "email": at["email"], "projectId": state["project"]}
    raise missing(f"projects/-/serviceAccounts/{at['email']}")


ROUTES: list[tuple[str, str, Callable[[World, At, At, bytes], dict[str, Any]]]] = [
    ("GET", r"/storage/v1/b", _buckets),
    ("GET", r"/storage/v1/b/(?P<bucket>[\w.-]+)/iam", _bucket_policy),
    ("POST", r"/v1/projects/(?P<project>[\w-]+):getIamPolicy", _project_policy),
    ("GET", r"/v1/projects/(?P<project>[\w-]+)/secrets/(?P<secret>[\w-]+):getIamPolicy", _secret_policy),
    ("GET", r"/v1/projects/-/serviceAccounts/(?P<email>[\w.@-]+)", _account),
]
