"""What a machine leaves in the bucket when it powers itself off: how all its jobs stand, by its own comparison of disk and bucket.

While the VM is off, nobody can ask its disk. `fab down` reads this word instead, and compares it with the bucket (`in_bucket.py`).
"""

from dataclasses import dataclass
from pathlib import Path

from training.bucket.bucket import Bucket, open_bucket
from training.protocol import Count, Line, Name, read_message
from training.refusal import Refused
from training.supervision.report import Status, as_json, from_json
from training.supervision.status import status
from training.untrusted import single_name

FORMAT = 1
"""Of machine.json."""
WORDS = "runs/.machines"
"""A machine may write below runs/ alone, and no run has a name that begins with a dot."""


@dataclass(frozen=True)
class Place:
    """What machine.json says: the name of the machine, and where its last word goes."""

    name: Name
    bucket: Line
    format: Count = 0


def place_file(root: Path) -> Path:
    """Present: a stack rents the machine (bootstrap/steps.py writes it)."""
    return root / "machine.json"


def say_last_word(root: Path) -> str:
    """Write how everything stands to the bucket; the machine is to be off soon.

    Returns: where it was written.
    Raises: Refused without machine.json; Failed if that is none; as Bucket's methods do.
    """
    file = place_file(root)
    if not file.exists():
        raise Refused(f"{file}: no such file: this machine has no name that `fab down` asks for; ./fab bootstrap writes it")
    place = read_message(Place, file.read_text(encoding="utf-8"), str(file), FORMAT)
    bucket = open_bucket(place.bucket)
    bucket.write(_name(place.name), as_json(status(root)).encode())
    return f"{bucket.url}/{_name(place.name)}"


def last_word(bucket: Bucket, machine: str) -> Status | None:
    """What a machine wrote last; None if it never did.

    Raises: Failed if that cannot be read; as Bucket's methods do.
    """
    text = bucket.read(_name(machine))
    return None if text is None else from_json(text.decode(errors="replace"), f"{bucket.url}/{_name(machine)}")


def _name(machine: str) -> str:
    return f"{WORDS}/{single_name(machine, 'name of the machine')}.json"
