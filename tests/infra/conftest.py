"""The programs of `infra` under Pulumi's mocks (`program`), and places where the real engine has brought stacks up."""

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.runtime import get_root_resource, mocks
from pulumi.runtime.stack import run_pulumi_func

from infra.policy import Planned
from tests.tools.programs import require
from tests.tools.stand_in_cloud.place import Place, sure
from tests.tools.stand_in_cloud.rest import Rest, needs_gcloud
from tests.tools.stand_in_cloud.rest_resources import lister
from tests.tools.stand_in_cloud.world import World

ROOT = Path(__file__).parent.parent.parent

STORAGE = {
    "project": "demo-project",
    "region": "us-central1",
    "bucket": "demo-project-incubator",
    "service_account": "incubator-training@demo-project.iam.gserviceaccount.com",
    "secrets": ["hf-token"],
}
BASE = {"gcp:project": "demo-project"}
KINDS = {
    "storage": {"incubator:kind": "storage", "incubator:location": "us-central1"},
    "l4": {"incubator:kind": "machine"},
    "cpu": {"incubator:kind": "machine", "incubator:machineType": "e2-standard-4"},
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs the engine or gcloud is marked `cloud`."""
    for item in items:
        if isinstance(item, pytest.Function) and {"cloud", "cloud_of", "empty", "stored", "rented"} & set(item.fixturenames):
            item.add_marker("cloud")


class Recorder(pulumi.runtime.Mocks):
    """Takes down every resource that is asked for; a StackReference answers with `storage`."""

    def __init__(self, storage: dict[str, Any]) -> None:
        self.storage, self.planned, self.protected = storage, list[Planned](), set[str]()

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        outputs = dict(args.inputs)
        if args.typ == "pulumi:pulumi:StackReference":
            outputs |= {"outputs": self.storage, "secretOutputNames": []}
        elif args.custom:
            self.planned.append(Planned(args.typ, args.name, _plain(args.inputs), args.name in self.protected))
            outputs |= {"email": STORAGE["service_account"], "instanceId": "4711", "number": "123456789012"}
        return f"{args.name}-id", outputs

    def call(self, args: pulumi.runtime.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        return {"name": "newest-of-its-family", "number": "123456789012", "outputs": self.storage}, []


class Monitor(mocks.MockMonitor):
    """Tells the recorder what mocks are not told: which resources are protected.

    Pulumi's own monitor opens an event loop per thread and closes none; here the threads take turns with one.
    """

    def __init__(self, recorder: Recorder, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(recorder)
        self.recorder, self.loop, self.turn = recorder, loop, threading.Lock()

    def RegisterResource(self, request: Any) -> Any:
        if request.protect:
            self.recorder.protected.add(request.name)
        return self._in_turn(super().RegisterResource, request)

    def ReadResource(self, request: Any) -> Any:
        return self._in_turn(super().ReadResource, request)

    def Invoke(self, request: Any) -> Any:
        return self._in_turn(super().Invoke, request)

    def _in_turn(self, call: Callable[[Any], Any], request: Any) -> Any:
        with self.turn:
            asyncio.set_event_loop(self.loop)
            return call(request)


class Program:
    """One run of `infra/__main__.py`."""

    def __init__(self, planned: list[Planned], outputs: dict[str, Any]) -> None:
        self.planned, self.outputs = planned, outputs

    def one(self, type_: str) -> Planned:
        """The only resource of a type."""
        (found,) = [resource for resource in self.planned if resource.type == type_]
        return found

    def all(self, type_: str) -> list[Planned]:
        """All resources of a type."""
        return [resource for resource in self.planned if resource.type == type_]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Program]:
    """Runs the program of a stack with settings `incubator:KEY` over its kind's; `storage` is what the storage stack says.

    `before` and `after` are lines that somebody has written into the program.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # as Pulumi's language host does: a refusal leaves futures nobody asks
    monkeypatch.setattr(mocks.MockEngine, "RequirePulumiVersion", lambda *_: None, raising=False)

    def run(
        stack: str = "l4", storage: dict[str, Any] | None = None, before: str = "", after: str = "", **settings: str
    ) -> Program:
        recorder = Recorder(STORAGE if storage is None else storage)
        outputs: dict[str, Any] = {}
        monkeypatch.setattr(pulumi, "export", outputs.__setitem__)
        loop, loop_of_threads = asyncio.new_event_loop(), asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        pulumi.runtime.set_mocks(recorder, project="incubator", stack=stack, monitor=Monitor(recorder, loop_of_threads))
        root = get_root_resource()
        assert root is not None
        root._transformations = []  # there is one root stack a process: what the program before this one has registered
        config = {**BASE, **KINDS.get(stack, {}), **{f"incubator:{key}": value for key, value in settings.items()}}
        pulumi.runtime.set_all_config(config)
        try:
            code = before + (ROOT / "infra" / "__main__.py").read_text() + after
            loop.run_until_complete(
                run_pulumi_func(lambda: exec(compile(code, "infra/__main__.py", "exec"), {"__name__": "__main__"}))
            )
            said = {key: loop.run_until_complete(pulumi.Output.from_input(value).future()) for key, value in outputs.items()}
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # the program has its own
            pending = asyncio.all_tasks(loop)
            for task in pending:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
            loop_of_threads.close()
            asyncio.set_event_loop(None)
        return Program(recorder.planned, said)

    return run


def _plain(value: Any) -> Any:
    """Mocks hand whole numbers over as floats."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Nothing is up yet."""
    require("pulumi")
    return Place.begin(tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="session")
def stored(empty: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The storage stack is up."""
    place = empty.copy(tmp_path_factory.mktemp("stored"))
    sure(place.engine.up("storage"))
    return place


@pytest.fixture(scope="session")
def rented(stored: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """And the machine."""
    place = stored.copy(tmp_path_factory.mktemp("rented"))
    sure(place.engine.up("l4"))
    return place


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Place], Place]:
    """A copy of a place to break, in which our own verbs run too."""

    def begin(place: Place) -> Place:
        mine = place.copy(tmp_path / "place")
        monkeypatch.chdir(mine.project)
        for key, value in mine.engine.env.items():
            monkeypatch.setenv(key, value)
        return mine

    return begin


@pytest.fixture
def cloud_of(at: Callable[[Place], Place], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Place], Place]]:
    """A copy of a place, whose world gcloud reaches too."""
    needs_gcloud()
    open_servers = []

    def begin(place: Place) -> Place:
        mine = at(place)
        rest = Rest(mine.world, tmp_path / "gcloud")
        open_servers.append(rest.__enter__())
        for key, value in rest.env.items():
            monkeypatch.setenv(key, value)
        return mine

    yield begin
    for rest in open_servers:
        rest.__exit__(None, None, None)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """An empty cloud whose lists are read without gcloud."""
    world = World.create(tmp_path / "world.json")
    monkeypatch.setattr("infra.sweep.gcloud", lister(world))
    return world
