"""Real machines on loopback, and a laptop that has their key."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bootstrap.connection import Host, connect
from tests.tools.ssh_machine import SshMachine, close_connections, needs_sshd


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the laptop keeps its ssh_config; connections that are still open end with the test."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path / ".incubator"
    close_connections(tmp_path / ".incubator")


@pytest.fixture
def machine(tmp_path: Path, laptop: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshMachine]:
    """A machine that is on."""
    needs_sshd()
    with SshMachine(tmp_path / "machine") as on:
        for name, value in on.laptop.items():
            monkeypatch.setenv(name, value)
        yield on
        close_connections(laptop)


@pytest.fixture
def host(machine: SshMachine) -> Host:
    """The connection to it, as to one that a stack rents."""
    return connect(machine.machine())
