"""How the engine's plugins of the tests start: the executables in tests/tools/bin call `start`.

Three of the four seconds of a `pulumi up` would be imports: a language host and a provider are new processes each time, and the
program imports pulumi_gcp. So one process per test session has everything imported, and forks; the executable that the engine
started hands over what it has (arguments, environment, folder, streams) through the socket that STAND_IN_WARM names, and waits.
"""

import array
import atexit
import functools
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, NoReturn

VARIABLE = "STAND_IN_WARM"
PLUGINS = ("language_host", "provider")
IMPORTED = {
    "billing": "Budget",
    "compute": "Instance",
    "projects": "Service",
    "secretmanager": "SecretIamMember",
    "serviceaccount": "Account",
    "storage": "Bucket",
}


def start(name: str) -> NoReturn:
    """Be the plugin of that name: in a process that is warm already, if there is one."""
    if path := os.environ.get(VARIABLE):
        _hand_over(path, name)
    else:
        _plugin(name).main()
    os._exit(0)


def _plugin(name: str) -> Any:
    return importlib.import_module(f"tests.tools.stand_in_cloud.{name}")


def _hand_over(path: str, name: str) -> None:
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        told = {"name": name, "argv": sys.argv, "folder": os.getcwd(), "environment": dict(os.environ)}
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]).tobytes())]
        connection.sendmsg([b"\0"], rights)
        connection.sendall(json.dumps(told).encode() + b"\n")
        engine = os.getppid()
        while os.getppid() == engine and not select.select([connection], [], [], 1)[0]:
            pass  # the other side lives, and ends when this does


@functools.cache
def warm() -> dict[str, str]:
    """What to add to the engine's environment; the first call starts the warm process, which ends with this one."""
    if sys.platform != "linux":  # elsewhere a fork after imports is not safe
        return {}
    path = Path(tempfile.mkdtemp(prefix="stand-in-"), "warm")
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    atexit.register(process.communicate)  # closes its stdin, and so does the system if this process ends otherwise
    assert process.stdout is not None
    assert process.stdout.readline() == b"warm\n"
    return {VARIABLE: str(path)}


def _serve_forks(path: str) -> None:
    import pulumi_gcp  # not above: what hands over starts in 20 ms so

    for folder, name in IMPORTED.items():  # by asking for a class: the folders are imported when something of them is used
        getattr(getattr(pulumi_gcp, folder), name)
    for name in PLUGINS:
        _plugin(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests; this ends when they do
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        print("warm", flush=True)
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            with listener.accept()[0] as connection:
                if os.fork() == 0:
                    listener.close()
                    _become(connection)
    Path(path).unlink()
    Path(path).parent.rmdir()


def _become(connection: socket.socket) -> NoReturn:
    """Be, in this fork, the plugin that the other side of a connection was started as."""
    _, rights, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    for stream, fd in enumerate(array.array("i", rights[0][2])):
        os.dup2(fd, stream)
        os.close(fd)
    with connection.makefile("rb") as lines:
        told = json.loads(lines.readline())
    os.chdir(told["folder"])
    os.environ.clear()
    os.environ.update(told["environment"])
    sys.argv = told["argv"]
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=[connection], daemon=True).start()
    try:
        _plugin(told["name"]).main()
    finally:
        os._exit(1)


def _end_with(connection: socket.socket) -> None:
    connection.recv(1)
    os._exit(0)


if __name__ == "__main__":
    _serve_forks(sys.argv[1])
