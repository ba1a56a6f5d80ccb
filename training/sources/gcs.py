"""gs:// prefixes through the real `gcloud storage`: what is there, and bringing what is not here yet (compared by crc32c)."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from training.refusal import Failed, Refused
from training.sources.parse import Gcs

LIST_SECONDS = 300.0
_MISSING = re.compile(r"not found: 404|bucket does not exist", re.I)
_DENIED = re.compile(r"does not have permission|HTTPError 403|does not have storage\.", re.I)
_LOGGED_OUT = re.compile(
    r"have an active account|gcloud auth login|reauthenticat|invalid_grant|Anonymous caller|HTTPError 401", re.I
)
_OFFLINE = re.compile(
    r"unable to find the server|Failed to resolve|Max retries exceeded|Connection (refused|reset)|timed out", re.I
)


@dataclass(frozen=True)
class Thing:
    """An object below the prefix: its name from there on, its size in bytes, its crc32c."""

    name: str
    size: int
    crc32c: str


def listed(source: Gcs) -> tuple[Thing, ...]:
    """What is below the prefix.

    Raises: Refused if there is no such bucket or nothing below the prefix; Failed as `gcloud storage` fails.
    """
    below = f"{source.prefix}/" if source.prefix else ""
    words = ("objects", "list", f"gs://{source.bucket}/{below}**", "--format=json(name,size,crc32c_hash)")
    answer = _gcloud(source, *words, seconds=LIST_SECONDS)
    try:
        found = [Thing(each["name"].removeprefix(below), int(each["size"]), each["crc32c_hash"]) for each in json.loads(answer)]
    except (ValueError, KeyError, TypeError):
        raise Failed(f"{source}: gcloud storage objects list did not answer with a list of names, sizes and crc32c") from None
    things = tuple(thing for thing in found if not thing.name.endswith("/"))  # a folder that the console made
    if not things:
        raise Refused(
            f"{source}: there is nothing below this prefix (accepted: a folder of the bucket; for one object, the folder it is in)"
        )
    return things


def bring(source: Gcs, folder: Path, held: int) -> None:
    """Bring what is not here yet; gcloud compares crc32c, and checks it on every file that it brings.

    `held` is the descriptor of the lock: a gcloud that outlives us keeps it, so that no other starts beside it.

    Raises: Failed as `gcloud storage` fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _gcloud(source, "rsync", "--recursive", "--checksums-only", str(source), str(folder), held=held)


def _gcloud(source: Gcs, *words: str, seconds: float | None = None, held: int | None = None) -> str:
    program = shutil.which("gcloud")
    if program is None:
        raise Failed(f"{source}: gcloud is not on this machine's PATH; install it (https://cloud.google.com/sdk/docs/install)")
    try:
        done = subprocess.run(
            [program, "storage", *words],
            env={**os.environ, "CLOUDSDK_CORE_DISABLE_PROMPTS": "1", "CLOUDSDK_CORE_VERBOSITY": "warning"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
            pass_fds=() if held is None else (held,),
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{source}: gcloud storage {words[0]}: no answer within {seconds:g} seconds") from None
    if done.returncode:
        raise _explained(source, done.stderr)
    return done.stdout


def _explained(source: Gcs, stderr: str) -> Exception:
    errors = re.findall(r"^ERROR: (?:\([\w.-]+\) )?(.*)", stderr, re.M) or [stderr.strip()[-2000:]]
    words = " ".join(errors[0].split())
    if _LOGGED_OUT.search(words):
        return Failed(f"{source}: gcloud has no valid login on this machine: {words}")
    if _DENIED.search(words):
        return Failed(
            f"{source}: this machine's account may not read it; give it roles/storage.objectViewer on the bucket: {words}"
        )
    if _MISSING.search(words):
        return Refused(f"{source}: there is no bucket gs://{source.bucket}")
    if _OFFLINE.search(words):
        return Failed(f"{source}: Google Cloud Storage cannot be reached; check the network, then run it again")
    return Failed(f"{source}: gcloud storage: {words}")
