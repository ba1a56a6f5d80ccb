"""What a machine leaves in the bucket when it powers itself off: how all its jobs stand, by its own comparison of disk and bucket.

While the VM is off, nobody can ask its disk. `fab down` reads this report instead and compares it with the bucket (in_bucket.py).
"""

import json
from dataclasses import dataclass
from pathlib import Path

from training.errors import RunError, UserError
from training.runner.bucket.bucket import Bucket, open_bucket
from training.runner.protocol import Count, Line, Name, read_message, remedy
from training.runner.report import FORMAT as REPORT_FORMAT
from training.runner.report import Status, as_json, from_json
from training.runner.status import status
from training.untrusted import single_name

FORMAT = 1
"""Of machine.json."""
REPORTS = "runs/.machines"
"""A machine may write below runs/ alone, and no run has a name that begins with a dot."""


@dataclass(frozen=True)
class Place:
    """What machine.json says: the name of the machine, and where its shutdown report goes."""

    name: Name
    bucket: Line
    format: Count = 0


def place_file(root: Path) -> Path:
    """Present: a stack rents the machine (bootstrap/steps.py writes it)."""
    return root / "machine.json"


def write_shutdown_report(root: Path) -> str:
    """Write how everything stands to the bucket; the machine is to be off soon.

    Returns: where it was written.
    Raises: UserError without machine.json; RunError if that is none; as Bucket's methods do.
    """
    place = _place(root)
    bucket = open_bucket(place.bucket)
    bucket.write(_name(place.name), as_json(status(root)).encode())
    return f"{bucket.url}/{_name(place.name)}"


def remove_shutdown_report(root: Path) -> str:
    """Remove it, if it is there: the machine is on after all.

    Returns: where it was.
    Raises: as `write_shutdown_report`.
    """
    place = _place(root)
    bucket = open_bucket(place.bucket)
    bucket.remove([_name(place.name)])
    return f"{bucket.url}/{_name(place.name)}"


def shutdown_report(bucket: Bucket, machine: str) -> Status | None:
    """What a machine wrote last; None if it never did.

    A disk is destroyed by it, so what it does not say has no default, and what a newer format means is not guessed.

    Raises: RunError if that cannot be read, is of a newer format, or does not name jobs and strays; as Bucket's methods do.
    """
    content = bucket.read(_name(machine))
    if content is None:
        return None
    text, source = content.decode(errors="replace"), f"{bucket.url}/{_name(machine)}"
    report = from_json(text, source)
    if report.format > REPORT_FORMAT:
        raise RunError(f"{source}: {remedy(text, REPORT_FORMAT)}")
    if lacking := [field for field in ("jobs", "strays") if field not in json.loads(text)]:
        raise RunError(f"{source}: is no shutdown report of a machine: it lacks {' and '.join(lacking)}")
    return report


def _place(root: Path) -> Place:
    file = place_file(root)
    if not file.exists():
        raise UserError(f"{file}: no such file: this machine has no name that `fab down` asks for; ./fab bootstrap writes it")
    return read_message(Place, file.read_text(encoding="utf-8"), str(file), FORMAT)


def _name(machine: str) -> str:
    return f"{REPORTS}/{single_name(machine, 'name of the machine')}.json"
