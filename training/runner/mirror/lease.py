"""A lease in the bucket, runs/NAME/lease.json: one machine at a time writes a run."""

import json
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from training.errors import UserError
from training.runner.bucket.bucket import Bucket, Changed, Stored, open_bucket
from training.text import escaped
from training.untrusted import single_name

STALE_AFTER = timedelta(minutes=15)
RENEW_SECONDS = 300.0


class Taken(UserError):
    """Another machine writes this run."""


def holder_of(job: Path) -> str:
    """This machine and job folder, as a lease names them: machines of one name, or two roots on one machine, are told apart."""
    try:
        machine = Path("/etc/machine-id").read_text().strip()[:8]
    except OSError:
        machine = ""
    return f"{socket.gethostname()}{machine and '-'}{machine}:{os.path.abspath(job)}"


def claim(bucket_url: str, name: str, holder: str, take_over: bool = False) -> None:
    """Take the lease of a run, or renew it; `take_over` does not ask whose it is.

    Raises: Taken while it is another holder's and younger than 15 minutes; as Bucket's methods do.
    """
    claim_in(open_bucket(bucket_url), name, holder, take_over)


def claim_in(bucket: Bucket, name: str, holder: str, take_over: bool = False) -> bool:
    """`claim`, in a bucket that is open.

    Returns: whether it was this holder's already.
    Raises: as `claim`; Changed if others write it again and again.
    """
    stored = bucket.about(_lease(name))
    if take_over:
        before = None
    else:
        before = _refuse_other(bucket, name, holder) if stored is not None else None
    try:
        _write(bucket, name, holder, stored)
    except Changed:
        stored = bucket.about(_lease(name))
        if _refuse_other(bucket, name, holder) != holder:  # removed meanwhile: nothing of ours is there
            _write(bucket, name, holder, stored)
            return False
    return before == holder


def release(bucket_url: str, name: str, holder: str) -> None:
    """Give the lease back; one that another machine has taken meanwhile stays.

    Raises: as Bucket's methods do.
    """
    release_in(open_bucket(bucket_url), name, holder)


def release_in(bucket: Bucket, name: str, holder: str) -> None:
    """`release`, in a bucket that is open."""
    stored = bucket.about(_lease(name))
    if stored is not None and lease_in(bucket, name)[0] == holder:
        with suppress(Changed):
            bucket.remove([_lease(name)], stored.generation)


def _write(bucket: Bucket, name: str, holder: str, replaces: Stored | None) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    bucket.write(_lease(name), json.dumps({"holder": holder, "renewed": now}).encode(), replaces.generation if replaces else 0)


def _refuse_other(bucket: Bucket, name: str, holder: str) -> str:
    """Returns: whose it is, or was."""
    other, renewed = lease_in(bucket, name)
    now = datetime.now(UTC)
    # A clock that was ahead when it wrote must not lock the run until then.
    if other != holder and now - STALE_AFTER < renewed < now + STALE_AFTER:
        until = renewed + STALE_AFTER
        raise Taken(
            f"{bucket.url}/runs/{name}: {escaped(other[:200])} writes this run, and was heard of at {renewed:%H:%M:%S} UTC: "
            "stop the run there (fab stop), or take another name; if that machine is gone for good, take its run over (fab train "
            f"--take-over), or try again after {until:%H:%M:%S} UTC"
        )
    return other


def lease_in(bucket: Bucket, name: str) -> tuple[str, datetime]:
    """Holder and time; of no lease, or one that cannot be read, nobody and long ago."""
    try:
        lease = json.loads(bucket.read(_lease(name)) or b"")
        renewed = datetime.fromisoformat(lease["renewed"])
        if renewed.tzinfo is None:
            raise ValueError("a time without a zone")
        return str(lease["holder"]), renewed
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return "", datetime.fromtimestamp(0, UTC)


def _lease(name: str) -> str:
    return f"runs/{single_name(name, 'lease')}/lease.json"
