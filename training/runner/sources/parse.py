"""What `--data` may say, as frozen dataclasses, and where it lands below ROOT/data. Imports little: the laptop uses it too."""

import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from training.errors import UserError, did_you_mean
from training.text import escaped

PRESETS = Path(__file__).parents[3] / "configs" / "data"
ACCEPTED = (
    "accepted: a name in configs/data, gs://BUCKET/PREFIX, hf://datasets/ORG/NAME@REVISION[/PATH], hf://ORG/NAME@REVISION[/PATH], "
    "https://HOST/FILE#sha256=HEX, or a local file or folder"
)

_COMMIT = re.compile(r"[0-9a-f]{40}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_HUB = re.compile(
    r"hf://(?P<datasets>datasets/)?(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>refs/convert/[\w-]+|refs/pr/\d+|[^/@]+))?(?:/(?P<path>.*?))?/?"
)
_NO_ORGANISATIONS = ("datasets", "models", "spaces", "buckets")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Gcs:
    """All objects below a prefix of a bucket; they land in a folder."""

    bucket: str
    prefix: str
    """Without slashes at its ends; empty for the whole bucket."""

    def __str__(self) -> str:
        return f"gs://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def text(self) -> str:
        """What `parse_source` reads as this."""
        return str(self)

    @property
    def last(self) -> str:
        """The name it has when nobody names it."""
        return self.prefix.rpartition("/")[2] or self.bucket


@dataclass(frozen=True)
class Hub:
    """A repository of the Hugging Face hub at a revision, or a file or folder in it."""

    kind: Literal["dataset", "model"]
    repo: str
    revision: str
    path: str
    """In the repository, without slashes at its ends; empty for all of it."""

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        revision = self.revision.replace("/", "%2F")
        return f"hf://{'datasets/' * (self.kind == 'dataset')}{self.repo}@{revision}/{self.path}".rstrip("/")

    @property
    def text(self) -> str:
        """What `parse_source` reads as this."""
        return str(self)

    @property
    def last(self) -> str:
        """The name it has when nobody names it."""
        return (self.path or self.repo).rpartition("/")[2]


@dataclass(frozen=True)
class Web:
    """One file behind an https URL, with the hash it must have."""

    url: str
    sha256: str

    def __str__(self) -> str:
        """Without the query: a signed URL has its secret there, and this goes into logs."""
        return f"{urlunsplit(urlsplit(self.url)._replace(query=''))}#sha256={self.sha256}"

    @property
    def text(self) -> str:
        """What `parse_source` reads as this."""
        return f"{self.url}#sha256={self.sha256}"

    @property
    def last(self) -> str:
        """The name it has when nobody names it."""
        return unquote(urlsplit(self.url).path).rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class Local:
    """A file or folder of the laptop, which copies it to the machine itself."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def text(self) -> str:
        """What `parse_source` reads as this."""
        return str(self)

    @property
    def last(self) -> str:
        """The name it has when nobody names it."""
        return self.path.resolve().name


Source = Gcs | Hub | Web | Local


@dataclass(frozen=True)
class Wanted:
    """A source and where it goes."""

    source: Source
    to: str
    """File or folder, relative to ROOT/data."""


def parse_source(text: str) -> Source:
    """Read one source.

    Raises: UserError naming the text and what is accepted.
    """
    scheme = text.partition("://")[0] if "://" in text else ""
    match scheme:
        case "gs":
            return _gcs(text)
        case "hf":
            return _hub(text)
        case "https" | "http":
            return _web(text)
        case "":
            return _local(text)
    raise UserError(f"{text}: {scheme}:// is no source of data{did_you_mean(scheme, ('gs', 'hf', 'https'))} ({ACCEPTED})")


def plan(texts: Iterable[str], presets: Path = PRESETS) -> tuple[Wanted, ...]:
    """What `--data TEXT...` asks for; the name of a file in `presets` stands for the sources listed there.

    Raises: UserError naming the text and what is accepted; also if one source would land on or in another.
    """
    wanted: list[Wanted] = []
    for text in texts:
        preset = presets / f"{text}.yaml"
        if re.fullmatch(r"[\w-]+", text) and preset.is_file():
            wanted += _preset(preset)
        else:
            source = parse_source(text)
            wanted.append(Wanted(source, _target(source.last, text)))
    return _apart(wanted)


def to_json(wanted: Iterable[Wanted]) -> str:
    """The file that `fetch FILE.json` reads on the machine; local sources are left out, the laptop copies those itself."""
    sources = [{"from": each.source.text, "to": each.to} for each in wanted if not isinstance(each.source, Local)]
    return json.dumps({"sources": sources}, indent=1) + "\n"


def read_json(path: Path) -> tuple[Wanted, ...]:
    """Read what `to_json` wrote; `-` is the standard input.

    Raises: UserError naming the file and what is wrong in it.
    """
    try:
        document = json.loads(sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable list of sources: {error}") from None
    return _apart(_listed(document, path))


def _preset(path: Path) -> list[Wanted]:
    import yaml  # here, so that the machine, which reads JSON, need not

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a readable YAML file: {' '.join(str(error).split())}") from None
    return _listed(document, path)


def _listed(document: Any, path: Path) -> list[Wanted]:
    form = "accepted: `sources:`, a list of `from: SOURCE` and, where it shall have another name, `to: NAME`"
    if not isinstance(document, Mapping) or list(document) != ["sources"] or not isinstance(document["sources"], list):
        raise UserError(f"{path}: not a list of sources ({form})")
    wanted = []
    for entry in document["sources"]:
        texts = isinstance(entry, Mapping) and all(isinstance(value, str) for value in entry.values())
        if not texts or "from" not in entry or not {"from", "to"}.issuperset(entry):
            raise UserError(f"{path}: sources: {json.dumps(entry)} ({form})")
        if "://" not in entry["from"]:
            raise UserError(f"{path}: sources: from: {entry['from']}: a file lists no local sources and no other files")
        try:
            source = parse_source(entry["from"])
            wanted.append(Wanted(source, _target(entry.get("to", source.last), entry["from"])))
        except UserError as refusal:
            raise UserError(f"{path}: sources: from: {refusal}") from None
    return wanted


def _apart(wanted: list[Wanted]) -> tuple[Wanted, ...]:
    for n, one in enumerate(wanted):
        for other in wanted[:n]:
            mine, theirs = PurePosixPath(one.to), PurePosixPath(other.to)
            if mine.is_relative_to(theirs) or theirs.is_relative_to(mine):
                where = f"data/{one.to}" if mine == theirs else f"data/{other.to} and data/{one.to}, one inside the other"
                raise UserError(
                    f"{other.source} and {one.source} would both land in {where}; "
                    "leave one out, or list them with a `to` of their own in a file of configs/data"
                )
    return tuple(wanted)


def _target(to: str, text: str) -> str:
    parts = to.split("/")
    if not to.isprintable() or not all(part and not part.startswith(".") and len(part.encode()) <= 255 for part in parts):
        raise UserError(
            f"{text}: would land in data/{escaped(to)} (accepted: a relative path inside data/ of printable characters, "
            "no part of which begins with a dot)"
        )
    return to


def _gcs(text: str) -> Gcs:
    bucket, _, prefix = text.removeprefix("gs://").partition("/")
    prefix = prefix.rstrip("/")
    if not _BUCKET.fullmatch(bucket):
        raise UserError(
            f"{text}: {bucket or 'nothing'} is no name of a bucket (accepted: gs://BUCKET/PREFIX, 3 to 222 of a-z 0-9 . _ -)"
        )
    if re.search(r"[*?\[\]#\x00-\x1f]", prefix) or (prefix and not _is_plain(prefix)):
        raise UserError(f"{text}: {prefix} is no prefix (accepted: gs://BUCKET/PREFIX without wildcards, `..` and empty parts)")
    return Gcs(bucket, prefix)


def _hub(text: str) -> Hub:
    found = _HUB.fullmatch(text)
    form = "accepted: hf://datasets/ORG/NAME@REVISION[/PATH] for a data set, hf://ORG/NAME@REVISION[/PATH] for a model"
    if found is None or found["repo"].partition("/")[0] in _NO_ORGANISATIONS:
        raise UserError(f"{text}: names no repository of the Hugging Face hub ({form})")
    if found["revision"] is None:
        raise UserError(f"{text}: the revision is missing: what the hub serves today is not what it serves next month ({form})")
    path = found["path"] or ""
    if path and not _is_plain(path):
        raise UserError(f"{text}: {path} is no path in a repository ({form})")
    return Hub("dataset" if found["datasets"] else "model", found["repo"], unquote(found["revision"]), path)


def _web(text: str) -> Web:
    form = "accepted: https://HOST/FILE#sha256=HEX, the hash being 64 hex digits; http:// only from this machine itself"
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port  # a port that is no number is an error
    except ValueError as error:
        raise UserError(f"{text}: {error} ({form})") from None
    named = urlunsplit(parts._replace(query="", netloc=parts.netloc.rpartition("@")[2]))  # both may hold secrets
    if not text.isascii() or re.search(r"[\s\x00-\x1f]", text):
        raise UserError(f"{named}: a URL has no blanks and only ASCII: write %20 for a blank ({form})")
    if "@" in parts.netloc:
        raise UserError(f"{named}: a URL with a user or a password in it would stand in logs ({form})")
    if not host or (parts.scheme == "http" and host not in _LOOPBACK):
        raise UserError(f"{named}: {'http:// can be changed on its way' if host else 'names no host'} ({form})")
    name, _, sha256 = parts.fragment.partition("=")
    if name != "sha256" or not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UserError(f"{named}: the hash is {'not 64 hex digits' if name == 'sha256' else 'missing'} ({form})")
    web = Web(urlunsplit(parts._replace(fragment="")), sha256.lower())
    if not web.last:
        raise UserError(f"{named}: names no file ({form})")
    return web


def _local(text: str) -> Local:
    path = Path(text).expanduser()
    if text and path.exists():
        return Local(path)
    names = sorted(preset.stem for preset in PRESETS.glob("*.yaml"))
    raise UserError(
        f"--data {text or repr(text)}: no name in configs/data ({', '.join(names)}), and no such file or folder here"
        f"{did_you_mean(text, names)} ({ACCEPTED})"
    )


def _is_plain(path: str) -> bool:
    return all(part not in ("", ".", "..") for part in path.split("/"))
