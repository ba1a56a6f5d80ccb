"""The REST face of the stand-in cloud: the paths that the real gcloud 528 calls for preflight, sweep and cost, over a World.

Served: projects, regions and their quotas, machine types, images (by name, by family, listed), aggregated instances, disks,
addresses and routers, snapshots, each of them alone, their deletion, the start of a VM, operations; services;
testIamPermissions; tokens; what rest_storage.py has. Faults of Google's are set in the World: `missing_permissions`, `services`,
and `unreachable` (a list of regions).
"""

import contextlib
import json
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.tools.programs import require
from tests.tools.stand_in_cloud import rest_resources as resources
from tests.tools.stand_in_cloud import rest_storage
from tests.tools.stand_in_cloud.refusals import users_of_network
from tests.tools.stand_in_cloud.rest_errors import Sorry, admit, missing
from tests.tools.stand_in_cloud.world import REGIONS, State, World, now, usage

ZONES = [f"{region}-{letter}" for region in REGIONS for letter in ("bcd" if region in ("us-east1", "europe-west1") else "abc")]
APIS = ("CLOUDRESOURCEMANAGER", "IAM", "SECRETMANAGER", "SERVICEUSAGE")
SCOPE = r"(?P<scope>zones/[\w-]+|regions/[\w-]+|global)"


class Rest:
    """Serves a World on a loopback port; `env` is what sends gcloud there, `seen` what was asked: (method, path, authorization)."""

    def __init__(self, world: World, config: Path) -> None:
        self.world, self.config = world, config
        self.seen: list[tuple[str, str, str | None]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def env(self) -> dict[str, str]:
        """The environment of a gcloud that knows no other cloud, and no account."""
        url = f"http://127.0.0.1:{self._server.server_port}"
        return {
            "CLOUDSDK_CONFIG": str(self.config),
            "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
            "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
            "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
            "CLOUDSDK_AUTH_TOKEN_HOST": f"{url}/token",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"{url}/compute/v1/",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{url}/storage/v1/",
            **{f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{api}": f"{url}/" for api in APIS},
            "GOOGLE_OAUTH_ACCESS_TOKEN": "stand-in",  # for Pulumi: a credential of some kind must be there
        }

    def __enter__(self) -> Self:
        self.config.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, url: str, body: bytes) -> dict[str, Any]:
        """What Google would answer.

        Raises: Sorry.
        """
        path = urlsplit(url).path
        for verb, pattern, face in ROUTES:
            if verb == method and (found := re.fullmatch(pattern, path)):
                query = {key: values[0] for key, values in parse_qs(urlsplit(url).query).items()}
                return face(self.world, found.groupdict(), query, body)
        raise Sorry(501, "UNIMPLEMENTED", "notImplemented", f"the stand-in cloud serves no {method} {path}")


def needs_gcloud() -> None:
    """Skip a test where there is no gcloud: no package index has it, so nothing here can bring it."""
    require("gcloud")


@contextlib.contextmanager
def served(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Rest]:
    """A fresh World that the real gcloud of this process talks to."""
    needs_gcloud()
    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "CLOUDSDK_API_", "CLOUDSDK_AUTH_"))]:
        patch.delenv(name)
    with Rest(World.create(folder / "world.json"), folder / "gcloud") as rest:
        for name, value in rest.env.items():
            patch.setenv(name, value)
        yield rest


def _handler(rest: Rest) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            rest.seen.append((self.command, self.path, self.headers.get("authorization")))
            try:
                code, answer = 200, rest.answer(self.command, self.path, body)
            except Sorry as sorry:
                code, answer = sorry.code, sorry.body
            text = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("content-type", "application/json; charset=UTF-8")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, format: str, *args: Any) -> None:
            """What was asked stands in `seen`."""

    return Handler


# --- the faces ---


def _project(world: World, at: dict[str, str], query: dict[str, str], body: bytes) -> dict[str, Any]:
    state = world.read()
    admit(state, at["project"], "compute", "compute.projects.get")
    return {"kind": "compute#project", "name": at["project"], "quotas": _quotas(state, state["quotas"]["project"], None)}


def _region(world: World, at: dict[str, str], query: dict[str, str], body: bytes) -> dict[str, Any]:
    state, region = world.read(), at["region"]
    admit(state, at["project"], "compute", "compute.regions.get")
    if region not in state["quotas"]["regions"]:
        raise missing(f"projects/{at['project']}/regions/{region}")
    return {
        "kind": "compute#region",
        "name": region,
        "status": "UP",
        "quotas": _quotas(state, state["quotas"]["regions"][region], region),
    }


def _quotas(state: State, limits: dict[str, Any], region: str | None) -> list[dict[str, Any]]:
    return [
        {"metric": metric, "limit": float(quota["limit"]), "usage": usage(state, metric, region)}
        for metric, quota in limits.items()
    ]


def _zones(world: World, at: dict[str, str], query: dict[str, str], body: bytes) -> dict[str, Any]:
    state = world.read()
    admit(state, at["project"], "compute", "compute.zones.list")
    link = resources.link(f"projects/{at['project']}/zones/")
    return {"kind": "compute#zoneList", "items": [{"name": zone, "selfLink": link + zone} for zone in _all_zones(state)]}


def _all_zones(state: State) -> list[str]:
    return [*ZONES, *state.get("newer_zones", [])]


def _offered(state: State, project: str, zone: str) -> list[dict[str, Any]]:
    """The machine types of a zone: two families, and `newer_machine_types` of the World, but for `machine_types_missing`."""
    sizes = [(family, vcpus) for family in ("e2", "g2") for vcpus in (2, 4, 8, 12, 16, 24, 32, 48, 96)]
    known = {f"{family}-standard-{vcpus}": {"guestCpus": vcpus} for family, vcpus in sizes} | state.get("newer_machine_types", {})
    sold = state.get("machine_types_missing", {}).get(zone, [])
    where = resources.link(f"projects/{project}/zones/{zone}")
    return [
        {"kind": "compute#machineType", "name": name, "zone": where, "selfLink": f"{where}/machineTypes/{name}", **told}
        for name, told in known.items()
        if name not in sold
    ]


def _machine_type(world: World, at: dict[str, str], query: dict[str, str], body: bytes) -> dict[str, Any]:
    state, zone = world.read(), at["zone"]
    admit(state, at["project"], "compute", "compute.machineTypes.get")
    if zone not in _all_zones(state):
        raise Sorry(400, "INVALID_ARGUMENT", "invalid", f"Invalid value for field 'zone': '{zone}'. Unknown zone.")
    for offered in _offered(state, at["project"], zone):
        if offered["name"] == at["name"]:
            return offered
    raise missing(f"projects/{at['project']}/zones/{zone}/machineTypes/{at['name']}")


def _machine_types(world: World, at: dict[str, str], query: dict[str, str], body: bytes) -> dict[str, Any]:
    state, zones = world.read(), [at["zone"]] if "zone" in at else _all_zones(world.read())
    admit(state, at["project"], "compute", "compute.machineTypes.list")
    found = {zone: [each for each in _offered(state, at["project"], zone) if _passes(each, query)] for zone in zones}
    if "zone" in at:
        return {"kind": "compute#machineTypeList", "items": found[at["zone"]]}
    items = {f"zones/{zone}": {"machineTypes": offered} for zone, offered in found.items() if offered}
    return {"kind": "compute#machineTypeAggregatedList", "items": items}


def _image(world: World, at: dict[str, str], query: dict[str, str], body: bytes) -> dict[str, Any]:
    images = world.read()["images"].get(at["project"], [])
    if family := at.get("family"):
        found = [image for image in images if image.get("family") == family and not image.get("deprecated")]
        name = f"family/{family}"
    else:
        name = at["name"]
        found = [image for image in images if image["name"] == name]
    if not found:
        raise missing(f"projects/{at['project']}/global/images/{name}")
    newest = max(found, key=lambda image: str(image["creationTimestamp"]))
    return {"kind": "compute#image", "status": "READY", **newest}


def _images(world: World, at: dict[str, str], query: dict[str, str], body: bytes) -> dict[str, Any]:
    images = world.read()["images"].get(at["project"], [])
    own = [item for _, item in resources.all_of(world.read(), "images")] if at["project"] == world.read()["project"] else []
    return {"kind": "compute#imageList", "items": [image for image in (*images, *own) if _passes(image, query)]}


def _passes(item: dict[str, Any], query: dict[str, str]) -> bool:
    """Whether an item meets the filter that gcloud sends along: KEY eq "REGEX", several in brackets."""
    wanted = re.findall(r'(\w+) eq "(.*?)"(?=\)|$)', query.get("filter", ""))
    return all(re.fullmatch(pattern, str(item.get(key, ""))) for key, pattern in wanted)


def _aggregated(world: World, at: dict[str, str], query: dict[str, str], body: bytes) -> dict[str, Any]:
    state, collection = world.read(), at["collection"]
    admit(state, at["project"], "compute", f"compute.{collection}.list")
    unreachable = [
        f"regions/{name}" if collection in ("addresses", "routers") else f"zones/{name}-a" for name in state.get("unreachable", [])
    ]
    if unreachable and "returnPartialSuccess" not in query:
        raise Sorry(503, "UNAVAILABLE", "backendError", f"The following scopes are unreachable: {', '.join(unreachable)}")
    items: dict[str, Any] = {"global": {"warning": {"code": "NO_RESULTS_ON_PAGE", "message": "No results for the scope 'global'."}}}
    items |= {scope: {"warning": {"code": "UNREACHABLE", "message": f"The scope {scope} is unreachable."}} for scope in unreachable}
    for scope, item in resources.all_of(state, collection):
        if scope not in unreachable:
            items.setdefault(scope, {}).setdefault(collection, []).append(item)
    return {"kind": "compute#aggregatedList", "items": items}


def _global(world: World, at: dict[str, str], query: dict[str, str], body: bytes) -> dict[str, Any]:
    state, collection = world.read(), at["collection"]
    admit(state, at["project"], "compute", f"compute.{collection}.list")
    kind = f"compute#{collection.removesuffix('s')}List"
    return {"kind": kind, "items": [item for _, item in resources.all_of(state, collection)]}


def _one(world: World, at: dict[str, str], query: dict[str, str], body: bytes) -> dict[str, Any]:
    state = world.read()
    admit(state, at["project"], "compute", f"compute.{at['collection']}.get")
    for scope, item in resources.all_of(state, at["collection"]):
        if (scope, item["name"]) == (at["scope"], at["name"]):
            return item
    raise missing(f"projects/{at['project']}/{at['scope']}/{at['collection']}/{at['name']}")


def _delete(world: World, at: dict[str, str], query: dict[str, str], body: bytes) -> dict[str, Any]:
    path = f"projects/{at['project']}/{at['scope']}/{at['collection']}/{at['name']}"
    with world.edit() as state:
        admit(state, at["project"], "compute", f"compute.{at['collection']}.delete")
        item = next((item for scope, item in resources.all_of(state, at["collection"]) if item["selfLink"].endswith(path)), None)
        if item is None:
            raise missing(path)
        users = [user.partition("/v1/")[2] for user in item.get("users", [])] or [*users_of_network(state, path)]
        if at["collection"] in ("disks", "addresses", "networks", "subnetworks") and users:
            kind = at["collection"].removesuffix("s").removesuffix("e")
            message = f"The {kind} resource '{path}' is already being used by '{users[0]}'"
            raise Sorry(400, "INVALID_ARGUMENT", "resourceInUseByAnotherResource", message)
        resources.remove(state, at["collection"], path)
        operation = _done(at, path, f"operation-{len(state['operations']) + 1}-delete")
        state["operations"].append(operation)
    return operation


def _start(world: World, at: dict[str, str], query: dict[str, str], body: bytes) -> dict[str, Any]:
    path = f"projects/{at['project']}/{at['scope']}/instances/{at['name']}"
    with world.edit() as state:
        admit(state, at["project"], "compute", "compute.instances.start")
        if path not in state["resources"]:
            raise missing(path)
        state["resources"][path] |= {"status": "RUNNING", "lastStartTimestamp": now()}
        operation = _done(at, path, f"operation-{len(state['operations']) + 1}-start") | {"operationType": "start"}
        state["operations"].append(operation)
    return operation


def _done(at: dict[str, str], path: str, name: str) -> dict[str, Any]:
    """The operation of a deletion, or of a start, which is done at once."""
    place, _, where = at["scope"].partition("/")
    scope = {place.removesuffix("s"): resources.link(f"projects/{at['project']}/{at['scope']}")} if where else {}
    return scope | {
        "kind": "compute#operation",
        "id": str(zlib.crc32(name.encode())),
        "name": name,
        "operationType": "delete",
        "targetLink": resources.link(path),
        "status": "DONE",
        "progress": 100,
        "insertTime": now(),
        "selfLink": resources.link(f"projects/{at['project']}/{at['scope']}/operations/{name}"),
    }


def _operations(world: World, at: dict[str, str], query: dict[str, str], body: bytes) -> dict[str, Any]:
    state, items = world.read(), dict[str, Any]()
    admit(state, at["project"], "compute", "compute.zoneOperations.list")
    for operation in state["operations"]:
        if _passes(operation, query):
            scope = re.search(r"(zones|regions)/[\w-]+$", operation.get("zone") or operation.get("region") or "")
            items.setdefault(scope[0] if scope else "global", {"operations": []})["operations"].append(operation)
    return {"kind": "compute#operationAggregatedList", "items": items}


def _wait(world: World, at: dict[str, str], query: dict[str, str], body: bytes) -> dict[str, Any]:
    for operation in world.read()["operations"]:
        if operation["name"] == at["name"]:
            return operation
    raise missing(f"projects/{at['project']}/{at['scope']}/operations/{at['name']}")


def _services(world: World, at: dict[str, str], query: dict[str, str], body: bytes) -> dict[str, Any]:
    state = world.read()
    if at["project"] != state["project"]:
        raise Sorry(403, "PERMISSION_DENIED", "forbidden", f"Project '{at['project']}' not found or permission denied.")
    admit(state, at["project"], "serviceusage", "serviceusage.services.list")
    number = state["project_number"]
    return {
        "services": [
            {"name": f"projects/{number}/services/{name}", "state": "ENABLED", "config": {"name": name}}
            for name in state["services"]
        ]
    }


def _test_permissions(world: World, at: dict[str, str], query: dict[str, str], body: bytes) -> dict[str, Any]:
    state = world.read()
    if at["project"] != state["project"]:
        raise Sorry(403, "PERMISSION_DENIED", "forbidden", "The caller does not have permission")
    asked = json.loads(body)["permissions"]
    return {"permissions": [permission for permission in asked if permission not in state["missing_permissions"]]}


def _token(world: World, at: dict[str, str], query: dict[str, str], body: bytes) -> dict[str, Any]:
    """What a login is exchanged for; `credentials` of the World says whether it is still good."""
    if not world.read().get("credentials", True):
        expired = Sorry(400, "", "", "")
        expired.body = {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
        raise expired
    return {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}


TOKEN = "the-token-of-the-stand-in"
Face = Callable[[World, dict[str, str], dict[str, str], bytes], dict[str, Any]]
COMPUTE = r"/compute/v1/projects/(?P<project>[\w-]+)"
COLLECTIONS = "instances|disks|addresses|snapshots|routers|images|networks|subnetworks|firewalls"
ONE = SCOPE + rf"/(?P<collection>{COLLECTIONS})/(?P<name>[\w-]+)"
ROUTES: list[tuple[str, str, Face]] = [
    ("GET", COMPUTE, _project),
    ("GET", rf"{COMPUTE}/regions/(?P<region>[\w-]+)", _region),
    ("GET", rf"{COMPUTE}/zones/(?P<zone>[\w-]+)/machineTypes/(?P<name>[\w-]+)", _machine_type),
    ("GET", rf"{COMPUTE}/zones", _zones),
    ("GET", rf"{COMPUTE}/zones/(?P<zone>[\w-]+)/machineTypes", _machine_types),
    ("GET", rf"{COMPUTE}/aggregated/machineTypes", _machine_types),
    ("GET", rf"{COMPUTE}/global/images/family/(?P<family>[\w-]+)", _image),
    ("GET", rf"{COMPUTE}/global/images/(?P<name>[\w-]+)", _image),
    ("GET", rf"{COMPUTE}/global/images", _images),
    ("GET", rf"{COMPUTE}/aggregated/(?P<collection>instances|disks|addresses|routers)", _aggregated),
    ("GET", rf"{COMPUTE}/aggregated/operations", _operations),
    ("GET", rf"{COMPUTE}/global/(?P<collection>snapshots|networks|firewalls)", _global),
    ("GET", rf"{COMPUTE}/{ONE}", _one),
    ("DELETE", rf"{COMPUTE}/{ONE}", _delete),
    ("POST", rf"{COMPUTE}/{SCOPE}/instances/(?P<name>[\w-]+)/start", _start),
    ("GET", rf"{COMPUTE}/{SCOPE}/operations/(?P<name>[\w-]+)", _wait),
    ("POST", rf"{COMPUTE}/{SCOPE}/operations/(?P<name>[\w-]+)/wait", _wait),
    ("GET", r"/v1/projects/(?P<project>[\w-]+)/services", _services),
    ("POST", r"/v1/projects/(?P<project>[\w-]+):testIamPermissions", _test_permissions),
    ("POST", r"/token", _token),
    *rest_storage.ROUTES,
]
