"""run.json: which run a run directory holds, of what, and every start and resume. Whoever asks for one of these reads it here."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, TypeAdapter

RUN_JSON = "run.json"
FORMAT = 1
"""Of run.json; 0: before it named its format and the run's id."""


@dataclass(frozen=True)
class Start:
    """One start or resume."""

    time: Annotated[str, BeforeValidator(str)] = ""
    """As `datetime.isoformat` writes it."""
    step: int = 0
    """From which it went on."""
    reason: str = ""
    total_steps: int | None = None
    early_stopping: str | None = None
    """What ends it early, as text; None where nothing does."""
    device: str | None = None
    """`cpu` or `gpu`."""


@dataclass(frozen=True)
class RunFacts:
    """What run.json holds. Fields have defaults and unknown ones are ignored: code of another version reads it too."""

    starts: tuple[Start, ...]
    run_id: str = ""
    """Tells this run from another of the same name; `overwrite=true` begins a new run. Never empty once read."""
    format: int = 0
    finished_step: int | None = None
    """Step at which the run was complete; None while it is not, and before format 1."""
    data_fingerprint: str = ""
    git_commit: str | None = None
    python: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def begun(self) -> datetime:
        """When the run was started first; 1970 if that is not known."""
        try:
            time = datetime.fromisoformat(self.starts[0].time)
        except ValueError:
            return datetime.fromtimestamp(0, UTC)
        return time if time.tzinfo else time.replace(tzinfo=UTC)

    @property
    def latest(self) -> Start:
        """The newest start."""
        return self.starts[-1]


_FACTS = TypeAdapter(RunFacts)


def facts_of(text: bytes | str | None) -> RunFacts | None:
    """What a run.json says, from wherever it comes; None for anything but that of a run that has begun."""
    try:
        values = json.loads(text or "")
        if "run_id" not in values:  # format 0: the first start stood for the run
            values["run_id"] = json.dumps(values["starts"][0], sort_keys=True)
        facts = _FACTS.validate_python(values)
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return facts if facts.starts and facts.run_id else None


def read_facts(run: Path) -> RunFacts | None:
    """The facts of a run directory; None if no run has begun there, or its run.json cannot be read."""
    try:
        return facts_of((run / RUN_JSON).read_bytes())
    except OSError:
        return None


def run_id_of(text: bytes | str | None) -> str | None:
    """The id of the run that a run.json is of; None if there is none."""
    facts = facts_of(text)
    return None if facts is None else facts.run_id
