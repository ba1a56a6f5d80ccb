"""A folder that looks like a machine's, with one job whose run is a stand-in."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tools.login_server import LoginServer
from training.checkpoints.manifest import complete_checkpoints
from training.checkpoints.progress_file import read_progress
from training.runner.admission import supervise
from training.runner.attempts import Timing
from training.runner.job import JobPaths
from training.runner.processes import living
from training.runner.state import State, read_state

REPOSITORY = Path(__file__).parents[3]
STAND_IN = Path(__file__).with_name("stand_in_run.py")
HURRY = Timing(tick=0.05, term=5.0, dump=0.3, hung_term=0.5, pause=0.05, attempts=3, disk=0.1)
RUN_FILE = """
name: {name}
data: {{split: {root}/data/split.toml, control: control}}
trainer: {{max_steps: {steps}}}
"""
DRIVER = """
import sys
from pathlib import Path
from tests.training.runner.conftest import drive
sys.exit(drive(Path(sys.argv[1]), *sys.argv[2:]))
"""


@dataclass(frozen=True)
class Site:
    """ROOT, and the one job below it."""

    paths: JobPaths
    steps: int

    def write_job(self, **changes: object) -> None:
        self.write_files(self.paths.folder, changes)

    def write_files(self, folder: Path, changes: dict[str, object]) -> None:
        """As a laptop writes them."""
        values = {"name": self.paths.name, "bucket": None, "push_interval_seconds": 0.2, "min_free_gib": 0.0, **changes}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "job.json").write_text(json.dumps(values))
        text = RUN_FILE.format(name=self.paths.name, root=self.paths.root, steps=self.steps)
        (folder / "run.yaml").write_text(text)

    @property
    def staged(self) -> Path:
        """Where a laptop puts its files aside."""
        return self.paths.root / ".staged" / self.paths.name

    def stage(self, *marks: str, **changes: object) -> "Site":
        """As a laptop asks for a start: the job's files with `changes`, and files that are `marks`."""
        self.write_files(self.staged, {**json.loads(self.paths.job_file.read_bytes()), **changes})
        for mark in marks:
            (self.staged / mark).touch()
        return self

    def supervise_staged(self, behaviours: str = "ok") -> State:
        """As `supervise`, with what was staged."""
        supervise(self.paths.root, self.paths.name, staged=self.staged, command=stand_in(behaviours, self.steps), timing=HURRY)
        return self.state

    def supervise(self, behaviours: str = "ok", by_boot: bool = False, timing: Timing = HURRY) -> State:
        """In this process, to the end."""
        supervise(self.paths.root, self.paths.name, by_boot=by_boot, command=stand_in(behaviours, self.steps), timing=timing)
        return self.state

    def start(self, behaviours: str, *options: str, first: Callable[[], None] | None = None) -> "subprocess.Popen[bytes]":
        """In a process of its own, which one can kill; `first` is done in it before anything else."""
        words = [sys.executable, "-c", DRIVER, str(self.paths.root), self.paths.name, behaviours, str(self.steps), *options]
        with self.paths.log.open("ab") as log:
            return subprocess.Popen(
                words, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=first
            )

    @property
    def state(self) -> State:
        found = read_state(self.paths)
        assert found is not None
        return found

    @property
    def words(self) -> list[str]:
        """What each start of the run was told."""
        return self.paths.run.with_name(f".{self.paths.name}.words.txt").read_text().splitlines()

    @property
    def saved(self) -> list[int]:
        return [checkpoint.step for checkpoint in complete_checkpoints(self.paths.checkpoints)]

    @property
    def step(self) -> int:
        progress = read_progress(self.paths.run)
        return 0 if progress is None else progress.step


def stand_in(behaviours: str, steps: int) -> Callable[[JobPaths, tuple[str, ...]], list[str]]:
    return lambda paths, words: [sys.executable, str(STAND_IN), str(paths.run), str(steps), behaviours, *words]


def drive(root: Path, name: str, behaviours: str, steps: str, *options: str) -> int:
    """The body of a supervisor in a process of its own."""
    staged = root / ".staged" / name if "--staged" in options else None
    return supervise(root, name, by_boot="--boot" in options, staged=staged, command=stand_in(behaviours, int(steps)), timing=HURRY)


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not come true in time"
        time.sleep(0.02)


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "root"
    for name in ("code", "data", "runs", "jobs"):
        (folder / name).mkdir(parents=True)
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")  # nobody is there: no watch
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return folder


@pytest.fixture
def site(root) -> Iterator[Site]:
    """The job, whose processes do not outlive the test."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    made = Site(JobPaths(root, "job"), steps=8)
    made.write_job()
    yield made
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for path in (made.paths.pid_file, made.paths.run_pid_file, made.paths.pusher_pid_file):
        pid = living(path)
        if pid is not None and pid != os.getpid():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def login(root, monkeypatch) -> Iterator[LoginServer]:
    """The logins of a VM, for processes that the test starts: google-auth reads where they are when it is imported."""
    with LoginServer() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def bucket(tmp_path) -> str:
    """URL of an empty bucket."""
    (tmp_path / "bucket").mkdir()
    return f"file://{tmp_path}/bucket"
