"""A connection that is cut in the middle: what runs on the machine does not notice, and what is said of it afterwards is true."""

import re
import subprocess
import threading
import time
from pathlib import Path

import pytest
import yaml

from bootstrap import runs
from bootstrap.connection import Host, Lost
from tests.tools.answering_machine import ROOT, AnsweringMachine
from tests.tools.ssh_machine import SshMachine

RUN = {
    "name": "screen",
    "model": "state_sm",
    "data": {"split": "data/split.toml", "control": "control"},
    "trainer": {"max_steps": 10},
}


@pytest.fixture
def there(machine: SshMachine) -> AnsweringMachine:
    """A bootstrapped machine whose verbs `wait` and `stop` take their time, and leave a mark at their beginning and end."""
    found = AnsweringMachine(machine)
    slow = f"touch {ROOT}/begun; while ! [ -e {ROOT}/end ]; do sleep 0.1; done; touch {ROOT}/ended"
    found.python(f'case "$*" in *" wait "*|*" stop "*|*" supervise "*) {slow} ;; *) cat {ROOT}/answer ;; esac')
    check = found.root / "code" / ".venv" / "bin" / "training"
    check.write_text("#!/bin/sh\nexit 0\n")
    check.chmod(0o755)
    return found


def cut_when(host: Host, mark: Path) -> threading.Thread:
    """Ends the shared connection on the laptop's side, as a network that is gone does, once there is a mark."""

    def cut() -> None:
        until = time.monotonic() + 60
        while not mark.exists() and time.monotonic() < until:
            time.sleep(0.05)
        words = ["ssh", "-F", str(host.ssh_config), "-O", "check", host.machine.label]
        said = subprocess.run(words, capture_output=True, text=True).stderr
        subprocess.run(["kill", "-9", re.findall(r"pid=(\d+)", said)[0]], check=True)

    thread = threading.Thread(target=cut)
    thread.start()
    return thread


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.05)


def test_a_run_whose_start_was_cut_off_is_said_to_run(there, host, tmp_path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))
    cutting = cut_when(host, there.root / "begun")

    with pytest.raises(
        Lost, match=r"screen was started, and needs this laptop no longer; how it goes: \./fab status, \./fab logs$"
    ):
        runs.train(host, tmp_path / "run.yaml", [], "gs://cells")
    cutting.join()
    (there.root / "end").touch()

    wait_for(there.root / "ended")  # nothing there has noticed
    assert runs.status(host).jobs  # and the next command makes a connection of its own


def test_a_stop_that_was_cut_off_names_the_run_for_the_next(there, host):
    cutting = cut_when(host, there.root / "begun")

    with pytest.raises(Lost, match=r"job ends there all the same; whether all is in the bucket: \./fab stop --run job$"):
        runs.stop(host, None)
    cutting.join()
    (there.root / "end").touch()

    wait_for(there.root / "ended")
    runs.stop(host, "job")
