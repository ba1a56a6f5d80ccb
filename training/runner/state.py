"""state.json: the supervisor's word on a job, and what follows from it. Nothing here starts or ends anything.

Code of another version may read it after an update: fields have defaults, and unknown fields and words of a newer one are ignored.
"""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, TypeAdapter

from training.checkpoints.manifest import complete_checkpoints
from training.run_facts import read_facts
from training.runner.guards.memory import what_to_do
from training.runner.job import Job, JobPaths
from training.runner.processes import try_to_write_json

FORMAT = 1
"""Of state.json; 0: before the file named its format."""
Phase = Literal["starting", "running", "stopping", "stopped", "interrupted", "finished", "failed"]
Ending = Literal[
    "", "finished", "stopped", "preempted", "no space", "refused", "crashed", "out of memory", "hung", "rebooted", "unsupervised"
]
"""How a start ended; empty while it lives."""
FINAL: tuple[Phase, ...] = ("stopped", "finished", "failed")
"""Nothing but `train` goes on from these. Written before the last push: with a living supervisor they mean that it pushes."""
CRASHES: tuple[Ending, ...] = ("crashed", "out of memory")
MAX_REBOOTS = 10
"""Starts without a new checkpoint that a reboot, a preemption or a dead supervisor has ended."""


def _phase(word: object) -> object:
    """A phase of a newer version is not final for us: `train` and the boot hook go on."""
    return word if word in get_args(Phase) else "interrupted"


def _ending(word: object) -> object:
    return word if word in get_args(Ending) else "unsupervised"


@dataclass(frozen=True)
class Start:
    """One process of the run."""

    time: str = "1970-01-01T00:00:00+00:00"
    boot: str = ""
    from_step: int = 0
    """Newest complete checkpoint when it began."""
    reached_step: int = 0
    """Its last optimizer step."""
    saved_step: int = 0
    """Newest complete checkpoint when it had ended."""
    seconds: float = 0.0
    ended: Annotated[Ending, BeforeValidator(_ending)] = ""


@dataclass(frozen=True)
class State:
    """What is known of a job."""

    phase: Annotated[Phase, BeforeValidator(_phase)] = "interrupted"
    reason: str = ""
    starts: tuple[Start, ...] = ()
    counted_from: int = 0
    """Restarts are counted from this start on: `train` said again begins a new count."""
    begun: bool = False
    """Whether the run directory is this job's own: it did not exist when the job first started."""
    supervisor: int = 0
    """Pid of the supervisor that wrote this."""
    tail: str = ""
    """Last lines of the log of a start that failed."""

    @property
    def fruitless(self) -> tuple[Start, ...]:
        """The latest counted starts since a new checkpoint was last written."""
        found: list[Start] = []
        for start in reversed(self.starts[self.counted_from :]):
            if start.saved_step > start.from_step:
                break
            found.append(start)
        return tuple(found)


@dataclass(frozen=True)
class Verdict:
    """What a job has come to."""

    phase: Phase
    reason: str


_STATE = TypeAdapter(State)


def read_state(paths: JobPaths) -> State | None:
    """What the supervisor last wrote; None before it ever did."""
    try:
        return state_of((paths.folder / "state.json").read_bytes())
    except OSError:
        return None


def state_of(text: bytes) -> State | None:
    """What state.json says, from wherever it comes; None if it is none."""
    try:
        return _STATE.validate_json(text)
    except ValueError:
        return None


def write_state(paths: JobPaths, state: State) -> None:
    """Put state.json in place, whole; on a full disk it stays as it was."""
    try_to_write_json(paths.folder / "state.json", {"format": FORMAT, **asdict(state)})


def now() -> str:
    """The time, as it is written everywhere."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def seconds_of(time: str) -> float:
    """Seconds since 1970 of a time as `now` writes it; 0 for anything else."""
    try:
        return datetime.fromisoformat(time).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def newest_step(paths: JobPaths) -> int:
    """Step of the newest complete checkpoint, 0 if there is none."""
    found = complete_checkpoints(paths.checkpoints)
    return found[-1].step if found else 0


def total_steps(run: Path) -> int | None:
    """Length of the run, as its latest start recorded it."""
    facts = read_facts(run)
    return None if facts is None else facts.latest.total_steps


def is_finished(paths: JobPaths, max_steps: int | None, early_stopping: str | None = None) -> bool:
    """Whether the run is complete: a complete checkpoint of its last step, and model.pt. Exit codes say nothing.

    `max_steps` and `early_stopping` are what run.yaml asks for, which may be more than the latest start was for.
    """
    facts = read_facts(paths.run)
    if facts is None or not (paths.run / "model.pt").is_file():
        return False
    asked, total = max_steps or facts.latest.total_steps, facts.latest.total_steps
    if asked is None or total is None:
        return False
    is_same = (asked, early_stopping) == (total, facts.latest.early_stopping)
    ended_early = is_same and facts.finished_step is not None and newest_step(paths) >= facts.finished_step
    return ended_early or newest_step(paths) >= asked


def judge(state: State, job: Job, code: int) -> Verdict | None:
    """What the end of the latest start means; None: start again. Whether the run is complete was asked before."""
    start = state.starts[-1]
    if start.ended == "refused":
        return Verdict("failed", "the run was refused: its log says why")
    hangs = sum(s.ended == "hung" for s in state.fruitless)
    if start.ended == "hung":
        return Verdict("failed", f"it hung {hangs} times without a new checkpoint between") if hangs > 1 else None
    if start.ended in CRASHES and not any(s.reached_step for s in state.starts):
        return Verdict("failed", f"it ended before its first step ({_exit(code)}){_why(state)}")
    return limit_of_restarts(state, job)


def limit_of_restarts(state: State, job: Job) -> Verdict | None:
    """Whether the job has been started in vain too often."""
    crashes = sum(start.ended in CRASHES for start in state.fruitless)
    if crashes > job.max_restarts:
        said = f"it crashed {crashes} times without a new checkpoint (max_restarts: {job.max_restarts}){_why(state)}"
        return Verdict("failed", said)
    reboots = sum(start.ended in ("rebooted", "preempted", "unsupervised") for start in state.fruitless)
    if reboots > MAX_REBOOTS:
        return Verdict("failed", f"{reboots} reboots without a new checkpoint between: checkpoints.every_steps is too long")
    return None


def _why(state: State) -> str:
    return f": {what_to_do()}" if state.starts[-1].ended == "out of memory" else ""


def _exit(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
