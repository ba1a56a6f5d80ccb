"""What a stack may be told: the typed settings of `incubator:*`, and what is refused before the engine calls out."""

import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import IPv4Network
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from infra.machine_types import MACHINE_TYPE_FORM, MACHINE_TYPES, REGION_FORM, REGIONS, ZONE_FORM, ZONES, region_of
from infra.prices import vm_usd_per_hour
from infra.ssh_ranges import ACCEPTED, MOST_ADDRESSES, address_count
from training.errors import UserError

PROJECT = "incubator"
# Google's label keys know no dots or slashes: the prefix is the namespace. The bucket's name is the world's only one, so it tells
# one installation from another in a project, also on a second laptop and with Pulumi's state lost.
BUCKET_LABEL, STACK_LABEL = f"{PROJECT}-bucket", f"{PROJECT}-stack"
# What is deleted or overwritten in the bucket can be restored for so many days, and is paid for so long. A checkpoint's files are
# large, and a newer checkpoint takes their place.
UNDO_DAYS, CHECKPOINT_UNDO_DAYS = 7, 1
UNUSED_MINUTES = 60
"""So long after a boot a machine on which nothing was bootstrapped powers itself off (infra/startup.sh)."""
ACCOUNT_ID = "incubator-training"
IMAGE_PROJECT = "deeplearning-platform-release"
IMAGE_FAMILY = "common-cu129-ubuntu-2204-nvidia-580"
# Pinned: a family moves on, and a moved image would be another machine. Seen READY on 2026-09-19.
# The guide that this project grew from names c0-deeplearning-common-cu113-v20241118-debian-11 (of project ml-images): Debian images
# are deprecated since 2026-09, and CUDA 11.3 is older than every torch that can be installed today.
IMAGE = f"{IMAGE_FAMILY}-v20260909"


def _formed(pattern: str, known: tuple[str, ...], more: str) -> AfterValidator:
    """A name that is known here, or of the form that Google's have: whether it has it, Google is asked later."""

    def check(value: str) -> str:
        if value in known or re.fullmatch(pattern, value):
            return value
        near = get_close_matches(value, known, n=2)
        meant = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"{meant}accepted: {', '.join(known)}, or {more}")

    return AfterValidator(check)


def _matches(pattern: str, accepted: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"accepted: {accepted}")
        return value

    return AfterValidator(check)


def _bucket_name(value: str) -> str:
    if value.startswith("goog") or "google" in value:
        raise ValueError("accepted: a name that neither starts with goog nor holds google")
    return value


def _source_range(value: Any) -> IPv4Network:
    """A range of the user's own. IPv6, also as ::ffff:0:0/96, has no effect: the subnet has none."""
    try:
        network = IPv4Network(value, strict=False) if isinstance(value, str) else None
    except ValueError:
        network = None
    if network is None:
        raise ValueError(f"{value}: accepted: {ACCEPTED}")
    if value not in (str(network), str(network.network_address)):
        range_, one = f"{network}, the whole range, or " if network.num_addresses <= MOST_ADDRESSES else "", value.split("/")[0]
        raise ValueError(f"{value}: accepted: {range_}{one}/32, the one address")
    return network


def _narrow(ranges: tuple[IPv4Network, ...]) -> tuple[IPv4Network, ...]:
    """All together: half the internet twice is the whole of it."""
    if (count := address_count(ranges)) > MOST_ADDRESSES:
        raise ValueError(f"{count} addresses could try to log in; accepted: {ACCEPTED}")
    return ranges


def _list_of_ranges(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _no_secret(value: str) -> str:
    """The secret itself in place of its name would stand in plain files. It is not repeated in the refusal."""
    if re.fullmatch(r"hf_\w{20,}|[0-9a-f]{40}|\w{50,}", value):
        raise ValueError("this looks like a secret itself (accepted: the name of a secret in Secret Manager)")
    return value


def _each_once(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) < len(values):
        raise ValueError("accepted: each name once")
    return values


Label = Annotated[str, _matches(r"[a-z0-9_-]{1,63}", "1 to 63 of a-z, 0-9, _ and -")]
RegionName = Annotated[str, _formed(REGION_FORM, tuple(REGIONS), "another region of Google's")]
Zone = Annotated[str, _formed(ZONE_FORM, ZONES, "another zone of Google's")]
Bucket = Annotated[str, _matches(r"[a-z0-9][a-z0-9_-]{1,61}[a-z0-9]", "3 to 63 of a-z, 0-9, - and _"), AfterValidator(_bucket_name)]
Secret = Annotated[
    str, _matches(r"[A-Za-z0-9_-]{1,255}", "the name of a secret in Secret Manager (not the secret)"), AfterValidator(_no_secret)
]
DiskType = Literal["pd-ssd", "pd-balanced"]
SourceRange = Annotated[IPv4Network, BeforeValidator(_source_range)]
PublicKey = Annotated[
    str,
    _matches(
        r"(ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)|sk-ssh-ed25519@openssh\.com) AAAA[A-Za-z0-9+/]{60,}={0,3}( [^\n]*)?",
        "one line of a .pub file, such as ~/.ssh/id_ed25519.pub",
    ),
]
ProjectId = Annotated[str, _matches(r"[a-z][a-z0-9-]{4,28}[a-z0-9]", "a GCP project id: 6 to 30 of a-z, 0-9 and -")]
StackName = Annotated[str, _matches(r"[a-z][a-z0-9-]{0,39}", "the name of a stack")]
BillingAccount = Annotated[str, _matches(r"[0-9A-F]{6}(-[0-9A-F]{6}){2}", "an id such as 0123AB-4567CD-89EF01")]
ReservationName = Annotated[str, _matches(r"[a-z][a-z0-9-]{0,62}", "the name of a reservation of the project")]
ImageName = Annotated[str, _matches(r"(family/)?[a-z][a-z0-9-]{0,62}", "the name of an image, or family/NAME")]
UserName = Annotated[str, _matches(r"[a-z_][a-z0-9_-]{0,31}", "a Linux user name")]
DiskSize = Annotated[int, Field(ge=10, le=65536)]


class Settings(BaseModel):
    """What both kinds of stack are told; keys are camelCase in Pulumi's files, and stand with these sentences in Pulumi.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel)
    kind: ClassVar[str]

    project: ProjectId
    owner: Label = Field(default="unnamed", description="label: whose it is")
    run: Label = Field(default="none", description="label: what it is rented for")

    def labels(self, stack: str) -> dict[str, str]:
        """What everything of the stack is labelled with, besides the bucket: a sweep finds it by them."""
        return {STACK_LABEL: stack, "owner": self.owner, "run": self.run}


class StorageSettings(Settings):
    """The long-lived stack: bucket, service account, APIs, budget alert."""

    kind = "storage"

    location: RegionName = Field(description="storage: region of the bucket, which stays there; machines stand in the same one")
    bucket: Bucket | None = Field(default=None, description="storage: name of the bucket (unset: PROJECT-incubator)")
    checkpoint_days: Annotated[int, Field(ge=1, le=3650)] = Field(
        default=90, description="storage: checkpoints live so many days in the bucket; model.pt, logs and figures stay"
    )
    secrets: Annotated[tuple[Secret, ...], AfterValidator(_each_once)] = Field(
        default=(), description="storage: names of Secret Manager secrets that machines may read (never the secrets themselves)"
    )
    billing_account: BillingAccount | None = Field(default=None, description="storage: for the budget alert, with monthlyBudget")
    monthly_budget: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="storage: mails at 50, 90 and 100 % of so much a month, in the account's currency; an alert, not a limit",
    )

    @property
    def bucket_name(self) -> str:
        """The bucket's name, as told or by default."""
        return self.bucket or f"{self.project}-incubator"

    @property
    def account(self) -> str:
        """The service account of training."""
        return f"{ACCOUNT_ID}@{self.project}.iam.gserviceaccount.com"

    @property
    def budget_name(self) -> str:
        """What the budget alert is called."""
        return f"{PROJECT}: {self.project}"

    @model_validator(mode="after")
    def _budget_is_whole(self) -> Self:
        if (self.billing_account is None) != (self.monthly_budget is None):
            raise ValueError("billingAccount and monthlyBudget only work together: set both or neither")
        return self


class MachineSettings(Settings):
    """A disposable stack: network, VM, data disk."""

    kind = "machine"

    storage_stack: StackName = Field(default="storage", description="machine: the stack that holds the bucket")
    zone: Zone = Field(default="us-central1-a", description="machine: where the VM stands; another zone is another VM")
    other_regions: bool = Field(
        default=False, description="machine: may stand in another region than the bucket (the traffic between them is billed)"
    )
    machine_type: Annotated[str, _formed(MACHINE_TYPE_FORM, tuple(MACHINE_TYPES), "another machine type of Google's")] = Field(
        default="g2-standard-8",
        description="machine: g2-standard-4 to -96 with L4s, e2-standard-2 to -8 without; Google is asked for others",
    )
    provisioning: Literal["standard", "spot"] = Field(
        default="standard", description="machine: standard, or spot: cheaper, and taken away at any time"
    )
    termination_action: Literal["STOP", "DELETE"] = Field(
        default="STOP",
        description="machine: what the cloud does with the VM on preemption and after maxRunSeconds; disks stay billed",
    )
    max_run_seconds: Annotated[int, Field(ge=30, le=120 * 86400)] = Field(
        default=86400, description="machine: the cloud itself ends the VM after so long (86400 is 24 hours)"
    )
    reservation: ReservationName | None = Field(default=None, description="machine: use this reservation (standard only)")
    image: ImageName = Field(
        default=IMAGE, description="machine: boot image by name, or family/NAME for what is newest at creation"
    )
    image_project: ProjectId = Field(default=IMAGE_PROJECT, description="machine: project of the boot image")
    boot_disk_type: DiskType = Field(default="pd-balanced", description="machine: pd-balanced or pd-ssd")
    boot_disk_gib: DiskSize = Field(default=250, description="machine: size of the boot disk; more grows in place, less is refused")
    data_disk_type: DiskType = Field(default="pd-balanced", description="machine: pd-balanced or pd-ssd")
    data_disk_gib: DiskSize = Field(
        default=200, description="machine: size of the data disk; more grows in place, less is a new, empty disk"
    )
    ssh: Literal["iap", "public"] = Field(
        default="iap", description="machine: iap (no external address), or public with sshSourceRanges"
    )
    ssh_source_ranges: Annotated[tuple[SourceRange, ...], BeforeValidator(_list_of_ranges), AfterValidator(_narrow)] = Field(
        default=(),
        description="machine: who may reach port 22 with ssh: public: "
        "pulumi config set --path 'incubator:sshSourceRanges[0]' 203.0.113.7/32",
    )
    ssh_user: UserName | None = Field(default=None, description="machine: with sshPublicKey, instead of OS Login")
    ssh_public_key: PublicKey | None = Field(
        default=None, description="machine: with sshUser, instead of OS Login: the line of a .pub file"
    )
    usd_per_hour: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        default=None, description="machine: your price per hour, where you know it better than the table"
    )

    @property
    def region(self) -> str:
        """The region of the zone."""
        return region_of(self.zone)

    @property
    def spot(self) -> bool:
        """Whether the machine may be taken away at any time."""
        return self.provisioning == "spot"

    @property
    def price(self) -> float | None:
        """What the machine costs while it runs, without disks: as told, or by the table; None where neither knows.

        Units: US dollars an hour.
        """
        return self.usd_per_hour or vm_usd_per_hour(self.machine_type, self.zone, self.spot)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.spot and self.reservation:
            raise ValueError("reservation: a Spot VM cannot use one (accepted: provisioning: standard, or no reservation)")
        if self.ssh == "public" and not self.ssh_source_ranges:
            raise ValueError(f"ssh: public needs sshSourceRanges; accepted: {ACCEPTED}")
        if self.ssh == "iap" and self.ssh_source_ranges:
            raise ValueError("sshSourceRanges has no effect with ssh: iap (accepted: ssh: public, or no ranges)")
        if (self.ssh_user is None) != (self.ssh_public_key is None):
            raise ValueError("sshUser and sshPublicKey only work together: set both (one key), or neither (OS Login)")
        return self


StackSettings: TypeAlias = StorageSettings | MachineSettings
BEGIN = "./fab init --project YOUR-PROJECT --region REGION"
KINDS: dict[str, type[StackSettings]] = {"storage": StorageSettings, "machine": MachineSettings}


def read_settings(stack: str, told: Mapping[str, Any]) -> StackSettings:
    """The settings of a stack, from what Pulumi says of it: the stack's file over the defaults of Pulumi.yaml.

    `told` maps keys as Pulumi writes them (`incubator:zone`, `gcp:project`) to values; lists may be JSON text.

    Raises: UserError with the file, the key, the value and what is accepted.
    """
    file = f"configs/stacks/Pulumi.{stack}.yaml"
    check_stack_name(stack)
    if not told.get("gcp:project"):
        raise UserError(
            f"{file}: gcp:project is not set; run: {BEGIN} (or pulumi config set gcp:project YOUR-PROJECT --stack {stack})"
        )
    values = {key.removeprefix("incubator:"): _plain(value) for key, value in told.items() if key.startswith("incubator:")}
    kind = str(values.pop("kind", None) or "")
    if kind not in KINDS:
        raise UserError(f"{file}: incubator:kind: {kind or 'not set'} (accepted: storage, machine); to fill the file: {BEGIN}")
    unset = {key: entry["default"] for key, entry in project_config().items() if key != "kind"}
    known = {field.alias for field in KINDS[kind].model_fields.values()}
    values = {key: value for key, value in values.items() if key in known or value != _plain(unset.get(key, ...))}
    values = {key: value for key, value in values.items() if value not in ("", None)}
    if "project" in values:
        raise UserError(f"{file}: incubator:project: {values['project']}: the project is told by gcp:project")
    try:
        return KINDS[kind].model_validate({**values, "project": told["gcp:project"]})
    except ValidationError as error:
        raise UserError(_sentence(file, kind, error, values)) from None


def check_stack_name(stack: str) -> None:
    """Refuse a name that the cloud would refuse, or that could not be a stack of ours.

    Raises: UserError.
    """
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", stack):
        raise UserError(
            f"stack {stack}: its name becomes part of names in the cloud (accepted: 1 to 40 of a-z, 0-9 and -, a letter first)"
        )


def project_config() -> dict[str, dict[str, Any]]:
    """The block `config` of Pulumi.yaml, which repeats the schema for `pulumi config` (a test holds them together)."""
    entries: dict[str, dict[str, Any]] = {
        "kind": {"type": "string", "default": "", "description": "what this stack is: storage or machine"}
    }
    for settings in KINDS.values():
        for field in settings.model_fields.values():
            if field.alias and field.alias != "project":
                told = _told_type(field.annotation)
                default = "" if field.default is None or field.is_required() else field.default
                entries[field.alias] = {
                    "type": told,
                    **({"items": {"type": "string"}} if told == "array" else {}),
                    "default": list(default) if told == "array" else default,
                    "description": field.description,
                }
    return entries


def _told_type(annotation: Any) -> str:
    """Pulumi's word for a type. What may be unset is a text: only a text can be empty."""
    if get_origin(annotation) is tuple:
        return "array"
    return {bool: "boolean", int: "integer"}.get(annotation, "string")


def _plain(value: Any) -> Any:
    """Pulumi hands over texts; lists as JSON."""
    if isinstance(value, str):
        if value.startswith("["):
            try:
                return json.loads(value)
            except ValueError:
                return value
        return value
    return value if isinstance(value, list) else str(value).lower() if isinstance(value, bool) else str(value)


def _sentence(file: str, kind: str, error: ValidationError, values: Mapping[str, Any]) -> str:
    first = error.errors(include_url=False)[0]
    key = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "missing":
        return f"{file}: incubator:{key} is not set; run: {BEGIN} (or: pulumi config set incubator:{key} REGION)"
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"{file}: incubator:{key}: a stack of kind {kind} has no such key{_nearest(key, KINDS[kind])}"
    if not key:
        return f"{file}: incubator:{reason}"
    name = "gcp:project" if key == "project" else f"incubator:{key}"
    value = "" if key in ("project", "secrets") else f"{values.get(key, '')}: "  # a secret may stand where its name should
    return f"{file}: {name}: {value}{reason[:1].lower()}{reason[1:]}"


def _nearest(key: str, settings: type[StackSettings]) -> str:
    near = get_close_matches(key, [field.alias or "" for field in settings.model_fields.values()], n=2)
    return f"; did you mean {' or '.join(near)}?" if near else ""
