"""A Python language host for tests: the engine's real one is a Go program that no package index has.

Runs the program's folder in this process, over the SDK's own language server; says what goes wrong as the real host does.
"""

import importlib.metadata
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
from pulumi.automation._server import LanguageServer
from pulumi.errors import RunError
from pulumi.runtime.proto import language_pb2, language_pb2_grpc


def program_of(folder: str) -> Callable[[], None]:
    """What runs a program; what it raises, `pulumi.RunError` apart, is told with its traceback."""

    def program() -> None:
        try:
            runpy.run_path(folder, run_name="__main__")
        except RunError:
            raise
        except Exception as error:
            message = f"Program failed with an unhandled exception:\n{''.join(traceback.format_exception(error))}"
            raise RunError(message) from error

    return program


class LanguageHost(LanguageServer):
    """What the engine asks of a language host; dependencies are the business of whoever started the tests."""

    def __init__(self, engine_address: str) -> None:
        super().__init__(lambda: None)
        self._engine_address = engine_address

    def Run(self, request: Any, context: grpc.ServicerContext) -> language_pb2.RunResponse:
        """Run the program; its errors are already told when this ends, so that the engine only stops (`bail`)."""
        os.chdir(request.pwd)
        sys.argv = [request.info.program_directory, *request.args]
        request.args[:] = [self._engine_address]
        self.program = program_of(request.info.program_directory)
        response = super().Run(request, context)
        return language_pb2.RunResponse(bail=bool(response.error))

    def InstallDependencies(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """Nothing: the program runs in the environment of the tests."""
        yield language_pb2.InstallDependenciesResponse()

    def RuntimeOptionsPrompts(self, request: Any, context: grpc.ServicerContext) -> language_pb2.RuntimeOptionsResponse:
        """Nothing to ask."""
        return language_pb2.RuntimeOptionsResponse()

    def GetProgramDependencies(self, request: Any, context: grpc.ServicerContext) -> language_pb2.GetProgramDependenciesResponse:
        """What is installed, for `pulumi about`."""
        found = {name: importlib.metadata.version(name) for name in ("pulumi", "pulumi-gcp")}
        return language_pb2.GetProgramDependenciesResponse(
            dependencies=[language_pb2.DependencyInfo(name=name, version=version) for name, version in found.items()]
        )


def main() -> None:
    """Serve until the engine says (SIGINT) that it needs no host any more, or is gone itself."""
    serve(lambda server: language_pb2_grpc.add_LanguageRuntimeServicer_to_server(LanguageHost(sys.argv[-1]), server))


def serve(add: Callable[[grpc.Server], None]) -> None:
    """Be a plugin: tell the engine the port, and serve until it says (SIGINT) that it is done, or is gone itself."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    parent = os.getppid()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    add(server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    while server.wait_for_termination(timeout=1) and os.getppid() == parent:
        pass
    os._exit(0)
