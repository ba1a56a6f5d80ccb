"""The stand-in cloud's Pulumi face: what the engine asks a provider, answered over the cloud's file."""

import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.protobuf import empty_pb2, json_format, struct_pb2
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc

from tests.tools.stand_in_cloud import cloud, rules
from tests.tools.stand_in_cloud.differences import ADDED, CHANGED, GONE
from tests.tools.stand_in_cloud.language_host import serve
from tests.tools.stand_in_cloud.operations import Refused
from tests.tools.stand_in_cloud.world import World

Values = dict[str, Any]
Answer = Callable[[Any], Any]
DIFF = provider_pb2.PropertyDiff


def plain(struct: struct_pb2.Struct) -> Values:
    """What a message holds, as Python writes it: whole numbers are int."""

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: whole(item) for key, item in value.items()}
        if isinstance(value, list):
            return [whole(item) for item in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return whole(json_format.MessageToDict(struct))


def message(values: Mapping[str, Any]) -> struct_pb2.Struct:
    """The same, as a message."""
    struct = struct_pb2.Struct()
    struct.update(dict(values))
    return struct


class Provider(provider_pb2_grpc.ResourceProviderServicer):
    """One provider process of one engine run."""

    def __init__(self, world: World) -> None:
        self._cloud = cloud.Cloud(world)

    def Handshake(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.ProviderHandshakeResponse:
        """Neither secrets nor resource references: plain values."""
        return provider_pb2.ProviderHandshakeResponse()

    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> plugin_pb2.PluginInfo:
        """The version of the SDK that the signatures are of."""
        return plugin_pb2.PluginInfo(version=importlib.metadata.version("pulumi-gcp"))

    def GetSchema(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.GetSchemaResponse:
        """None: programs bring their SDK."""
        return provider_pb2.GetSchemaResponse(schema="{}")

    def CheckConfig(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.CheckResponse:
        """The settings of the provider itself."""
        return self._checked(rules.PROVIDER, plain(request.news), "")

    def DiffConfig(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.DiffResponse:
        """Other settings change nothing that exists."""
        changed = plain(request.old_inputs) != plain(request.news)
        return provider_pb2.DiffResponse(changes=DIFF_SOME if changed else DIFF_NONE)

    def Configure(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.ConfigureResponse:
        """Take the settings, and look for credentials."""
        with refusals(context):
            self._cloud.configure(plain(request.args))
        return provider_pb2.ConfigureResponse(supportsPreview=True)

    def Check(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.CheckResponse:
        """Whether a resource's inputs are possible at all."""
        name = plain(request.olds).get("name") or f"{request.name}-{request.randomSeed.hex()[:7]}"
        return self._checked(request.type, plain(request.news), name)

    def _checked(self, token: str, inputs: Values, name: str) -> provider_pb2.CheckResponse:
        inputs = rules.named(token, inputs, name)
        failures = [provider_pb2.CheckFailure(property=path, reason=reason) for path, reason in rules.problems(token, inputs)]
        return provider_pb2.CheckResponse(inputs=message(inputs), failures=failures)

    def Diff(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.DiffResponse:
        """What changed, and which of it needs a new resource."""
        old, new = plain(request.old_inputs), plain(request.news)
        found = {
            path: change for path, change in rules.changes(request.type, old, new).items() if path not in request.ignoreChanges
        }
        detailed, replaces = {}, []
        for path, change in found.items():
            replace = rules.replaces(request.type, path, old, new)
            detailed[path] = DIFF(kind=KINDS[change, replace], inputDiff=True)
            replaces += [path] * replace
        return provider_pb2.DiffResponse(
            changes=DIFF_SOME if found else DIFF_NONE,
            diffs=sorted({path.partition(".")[0].partition("[")[0] for path in found}),
            replaces=replaces,
            detailedDiff=detailed,
            hasDetailedDiff=True,
        )

    def Create(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.CreateResponse:
        """Make a resource, or in a preview say what it would be."""
        inputs = plain(request.properties)
        if request.preview:
            return provider_pb2.CreateResponse(properties=message(rules.planned(request.type, inputs)))
        with refusals(context):
            made = self._cloud.create(request.type, inputs)
        return provider_pb2.CreateResponse(id=made["id"], properties=message(made["outputs"]))

    def Read(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.ReadResponse:
        """What the cloud holds; nothing, where someone deleted it. Without properties it is an import."""
        imported = not plain(request.properties)
        with refusals(context):
            found = self._cloud.read(request.type, cloud.imported(request.type, request.id) if imported else request.id)
        if found is None:
            return provider_pb2.ReadResponse()
        known = plain(request.inputs)
        hidden = [key for key in rules.recorded(request.type, "not_imported") if key not in known]
        outputs, inputs = ({key: found[part][key] for key in found[part] if key not in hidden} for part in ("outputs", "inputs"))
        return provider_pb2.ReadResponse(id=found["id"], properties=message(outputs), inputs=message(inputs))

    def Update(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.UpdateResponse:
        """Change a resource in place."""
        new = plain(request.news)
        if request.preview:
            return provider_pb2.UpdateResponse(properties=message(plain(request.olds) | new))
        with refusals(context):
            changed = self._cloud.update(request.type, request.id, new)
        return provider_pb2.UpdateResponse(properties=message(changed["outputs"]))

    def Delete(self, request: Any, context: grpc.ServicerContext) -> empty_pb2.Empty:
        """Delete a resource; one that is gone is no error."""
        with refusals(context):
            self._cloud.delete(request.type, request.id, plain(request.properties))
        return empty_pb2.Empty()

    def Invoke(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.InvokeResponse:
        """The functions that look things up."""
        with refusals(context):
            found = self._cloud.invoke(request.tok, plain(request.args))
        return provider_pb2.InvokeResponse(**{"return": message(found)})

    def Cancel(self, request: Any, context: grpc.ServicerContext) -> empty_pb2.Empty:
        """Nothing to cancel: what has begun comes to its end."""
        return empty_pb2.Empty()


KINDS = {
    (ADDED, False): DIFF.ADD,
    (ADDED, True): DIFF.ADD_REPLACE,
    (CHANGED, False): DIFF.UPDATE,
    (CHANGED, True): DIFF.UPDATE_REPLACE,
    (GONE, False): DIFF.DELETE,
    (GONE, True): DIFF.DELETE_REPLACE,
}
DIFF_SOME, DIFF_NONE = provider_pb2.DiffResponse.DIFF_SOME, provider_pb2.DiffResponse.DIFF_NONE


class refusals:
    """Hands what the cloud refuses to the engine, in the words of the real provider."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Refused):
            self._context.abort(grpc.StatusCode.UNKNOWN, f"1 error occurred:\n\t* {error}\n\n")


def main() -> None:
    """Serve the cloud that STAND_IN_CLOUD names."""
    provider = Provider(World.of_environment())
    serve(lambda server: provider_pb2_grpc.add_ResourceProviderServicer_to_server(provider, server))
