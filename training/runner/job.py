"""A job: where its files are, what job.json may say, and the environment that its run gets."""

import os
import re
import stat
import sys
from base64 import b64decode
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.errors import RunError, UserError
from training.runner.bucket.login import log_in, plain_login_errors
from training.runner.protocol import LOG, format_of, without_unknown

FORMAT = 1
"""Of job.json."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9._=-]*$"  # as in training.config
_KEY = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
SECRET_SECONDS = 30
SECRETS = os.environ.get("SECRETMANAGER_ENDPOINT", "https://secretmanager.googleapis.com")

Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class JobPaths:
    """Paths of the job `name` below `root`."""

    root: Path
    name: str

    def __post_init__(self) -> None:
        if not re.match(NAME, self.name):
            raise UserError(f"{self.name}: not the name of a job (accepted: letters, digits and ._=- after the first)")

    @property
    def folder(self) -> Path:
        """Everything about the job but its results."""
        return self.root / "jobs" / self.name

    @property
    def job_file(self) -> Path:
        """What to run."""
        return self.folder / "job.json"

    @property
    def run_file(self) -> Path:
        """The resolved configuration."""
        return self.folder / "run.yaml"

    @property
    def log(self) -> Path:
        """What supervisor, pusher and run print, appended across starts."""
        return self.folder / LOG

    @property
    def lock(self) -> Path:
        """Held by the living supervisor."""
        return self.folder / "lock"

    @property
    def pid_file(self) -> Path:
        """The supervisor's process."""
        return self.folder / "supervisor.json"

    @property
    def run_pid_file(self) -> Path:
        """The run's process."""
        return self.folder / "run_process.json"

    @property
    def pusher_pid_file(self) -> Path:
        """The pusher's process."""
        return self.folder / "pusher.json"

    @property
    def stopped(self) -> Path:
        """Present: the user stopped it."""
        return self.folder / "stopped"

    @property
    def given_up(self) -> Path:
        """Present: nobody waits any longer for the supervisor to have pushed everything."""
        return self.folder / "given-up"

    @property
    def revived(self) -> Path:
        """How often in a row its supervisor was started again after a kill, and which process was the last."""
        return self.folder / "revived.json"

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.root / "runs" / self.name

    @property
    def checkpoints(self) -> Path:
        """The run's checkpoints."""
        return self.run / "checkpoints"

    @property
    def code(self) -> Path:
        """Where the run is started."""
        return self.root / "code"

    @property
    def environment_file(self) -> Path:
        """Tokens, of all jobs."""
        return self.root / "env"


class Job(BaseModel):
    """What job.json says. Its format grows with every setting that an older machine must not overlook."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    format: Annotated[int, Field(ge=0)] = 0
    """0: before the file named its format."""
    name: Annotated[str, Field(pattern=NAME)]
    """The only setting without a default: a job without a name is none."""
    bucket: str | None = None
    """Where results go, `gs://BUCKET` or `file:///folder`; null: they stay on this disk."""
    push_interval_seconds: Positive = 60.0
    hang_factor: Positive = 20.0
    """A run hangs after so many median steps without a step, and not before `hang_minutes`."""
    hang_minutes: Positive = 10.0
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """Crashes without a new checkpoint after which the job has failed."""
    min_free_gib: Annotated[float, Field(ge=0)] = 2.0
    """Free space of the disk below which the run is ended."""
    secrets: tuple[str, ...] = ()
    """Secrets of the Secret Manager that the run gets: hf-token becomes HF_TOKEN."""


def read_job(paths: JobPaths, file: Path | None = None) -> Job:
    """The job; settings of a newer format are passed over, so that code of any version can tell of it and end it.

    `file` is a job.json that is not yet the job's.

    Raises: UserError if there is none, or job.json is not one.
    """
    file = file or paths.job_file
    try:
        job = Job.model_validate_json(without_unknown(file.read_bytes(), Job.model_fields, FORMAT))
    except FileNotFoundError:
        known = ", ".join(job_names(paths.root)) or "none yet"
        raise UserError(f"{file}: no such job (jobs here: {known})") from None
    except (OSError, ValidationError) as error:
        found = error.errors()[0] if isinstance(error, ValidationError) else None
        what = str(error) if found is None else f"{'.'.join(map(str, found['loc']))}: {found.get('input')!r}: {found['msg']}"
        raise UserError(f"{file}: {what}") from None
    if job.name != paths.name:
        raise UserError(f"{file}: name: {job.name} (accepted: {paths.name}, the name of its folder)")
    return job


def refuse_newer(job_file: Path) -> None:
    """Raises: UserError if a laptop asks for what this code may not know: a run is not started by half of its settings."""
    with suppress(OSError):
        theirs = format_of(job_file.read_bytes())
        if theirs > FORMAT:
            raise UserError(
                f"job.json is of format {theirs}, and this machine's code knows {FORMAT}; run: ./fab bootstrap, then train again"
            )


def job_names(root: Path) -> list[str]:
    """Names of the jobs below `root`, in order. A folder that cannot be one is passed over."""
    return [name for name in _folders(root) if re.match(NAME, name)]


def read_jobs(root: Path) -> tuple[list[tuple[JobPaths, Job]], dict[str, str]]:
    """All jobs, and what is wrong with those that cannot be read, by name: a neighbour's slip stops nobody else."""
    found, broken = [], {}
    for name in _folders(root):
        try:
            paths = JobPaths(root.absolute(), name)
            found.append((paths, read_job(paths)))
        except UserError as refusal:
            broken[name] = str(refusal)
    return found, broken


def _folders(root: Path) -> list[str]:
    """What is hidden is not meant."""
    return sorted(path.parent.name for path in (root / "jobs").glob("[!.]*/job.json"))


def environment_of(paths: JobPaths, job: Job) -> dict[str, str]:
    """Tokens for the run alone: those of ROOT/env, and the secrets of the job.

    Raises: UserError if ROOT/env may be read by others or is not KEY=VALUE lines; RunError if a secret is not handed out.
    """
    return _environment_file(paths.environment_file) | {_variable(secret): _secret(secret) for secret in job.secrets}


def _environment_file(path: Path) -> dict[str, str]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return {}
    if mode & 0o077:
        raise UserError(f"{path}: holds tokens and its mode {mode:04o} lets others at them (accepted: 0600; chmod 600 {path})")
    values = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        key, equals, value = line.strip().partition("=")
        if not key or key.startswith("#"):
            continue
        if not equals or not _KEY.match(key):
            raise UserError(f"{path}: line {number}: not KEY=VALUE")  # the line may be a token: it is not shown
        values[key] = value
    return values


def _variable(secret: str) -> str:
    return secret.upper().replace("-", "_")


def _secret(name: str) -> str:
    """Ask the Secret Manager, as the service account of this VM.

    Raises: UserError or RunError as `log_in`; RunError for any other answer than the secret.
    """
    from google.auth.transport.requests import AuthorizedSession
    from requests import RequestException

    shown = f"secret {name}"
    login = log_in(shown)
    if login.project is None:
        raise RunError(f"{shown}: the login here belongs to no project; set GOOGLE_CLOUD_PROJECT")
    url = f"{SECRETS}/v1/projects/{login.project}/secrets/{quote(name, safe='')}/versions/latest:access"
    with plain_login_errors(shown, login):
        try:
            answer = AuthorizedSession(login.credentials).get(url, timeout=SECRET_SECONDS)
        except RequestException as error:
            raise RunError(f"{shown}: the Secret Manager cannot be reached: check the network ({type(error).__name__})") from None
    if answer.status_code in (403, 404):
        raise RunError(
            f"{shown}: there is no such secret in {login.project}, or the machine's account lacks the role Secret Manager Secret "
            "Accessor on it (`secrets` of the storage stack gives it)"
        )
    try:
        return b64decode(answer.json()["payload"]["data"], validate=True).decode().strip()
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{shown}: the Secret Manager answers with {answer.status_code} and no secret") from None


def own_command(root: Path, *words: str) -> list[str]:
    """The words that run a verb of this package. -P: a `copy.py` in the working directory is not Python's own."""
    return [sys.executable, "-P", "-m", "training.runner", "--root", str(root), *words]


def settings_command(run_file: Path) -> list[str]:
    """The argv that prints what a run file asks for."""
    return [sys.executable, "-P", "-m", "training", "show-config", "--json", str(run_file)]


def fit_command(paths: JobPaths, words: tuple[str, ...]) -> list[str]:
    """The words that run the job."""
    return [sys.executable, "-P", "-m", "training", "fit", str(paths.run_file), f"output_dir={paths.root / 'runs'}", *words]
