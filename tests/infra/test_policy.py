"""Each rule of the policy refuses the program that breaks it: under mocks, and through a plain `pulumi preview`."""

from typing import NamedTuple

import pulumi
import pytest

from infra.engine import Engine
from infra.policy import BUCKET, BUCKET_GRANT, DISK, FIREWALL, INSTANCE, NOT_KNOWN, SECRET_GRANT, SERVICE, Planned, violations
from training.errors import UserError

PROJECT_GRANT = "gcp:projects/iAMMember:IAMMember"
LABELS = "incubator-bucket, incubator-stack, owner, run"
MUTATION = """
import pulumi


def _break(args):
    props, opts = args.props, args.opts
    if args.type_ == {type_!r}:
        {line}
    return pulumi.ResourceTransformationResult(props, opts)


pulumi.runtime.register_stack_transformation(_break)
"""


class Broken(NamedTuple):
    """A line that somebody writes: over the inputs of each resource of a type, or (no type) at the end of the program."""

    stack: str
    type: str
    line: str
    words: str

    @property
    def text(self) -> dict[str, str]:
        return {"before": MUTATION.format(type_=self.type, line=self.line)} if self.type else {"after": f"\n{self.line}\n"}


BROKEN = [
    Broken("storage", BUCKET, 'props["force_destroy"] = True', "bucket: could be deleted with what is in it"),
    Broken("storage", BUCKET, "opts.protect = False", "bucket: could be deleted with what is in it"),
    Broken("storage", BUCKET, 'props["public_access_prevention"] = "inherited"', "bucket: could be made public"),
    Broken("storage", BUCKET, 'props["uniform_bucket_level_access"] = False', "bucket: could be made public"),
    Broken("storage", BUCKET, 'del props["soft_delete_policy"]', "bucket: deleted checkpoints would be paid for a week"),
    Broken("storage", BUCKET, 'del props["lifecycle_rules"][0]', "bucket: parts of broken uploads would stay"),
    Broken("storage", BUCKET, 'props["versioning"].enabled = False', "bucket: what is deleted or overwritten could not be"),
    Broken("storage", BUCKET, 'del props["versioning"]', "bucket: what is deleted or overwritten could not be restored"),
    Broken("storage", BUCKET, 'del props["lifecycle_rules"][3]', "bucket: earlier versions would be paid for ever"),
    Broken(
        "storage",
        BUCKET,
        'props["lifecycle_rules"][3].condition.days_since_noncurrent_time = 0',
        "bucket: earlier versions would go before they are missed",
    ),
    Broken(
        "storage",
        BUCKET,
        'props["lifecycle_rules"][1].condition.matches_suffixes = None',
        "bucket: a lifecycle rule would delete results",
    ),
    Broken(
        "storage",
        BUCKET,
        'props["lifecycle_rules"][3].condition.with_state = "ANY"',
        "bucket: a lifecycle rule would delete results",
    ),
    Broken("storage", BUCKET, 'del props["labels"]["owner"]', "bucket: no label owner"),
    Broken("storage", BUCKET, 'props["labels"] = pulumi.Output.from_input({})', f"bucket: no label {LABELS}"),
    Broken("storage", SERVICE, 'props["disable_on_destroy"] = True', "would take an API from everyone in the project"),
    Broken("storage", PROJECT_GRANT, 'props["role"] = "roles/editor"', "role roles/editor is broader than training needs"),
    Broken("storage", PROJECT_GRANT, 'props["role"] = "roles/storage.objectUser"', "broader than training needs"),
    Broken("storage", BUCKET_GRANT, 'props["role"] = "roles/storage.admin"', "accepted on it: roles/storage.objectUser"),
    Broken("storage", BUCKET_GRANT, 'props.pop("condition", None)', "training-runs-write: every machine could delete data/"),
    Broken("storage", BUCKET_GRANT, 'props["member"] = "allUsers"', "allUsers is not the account of training"),
    Broken(
        "storage",
        "",
        'gcp = __import__("pulumi_gcp"); gcp.serviceaccount.Key("key", service_account_id="x")',
        "key: no rule judges a gcp:serviceaccount/key:Key (accepted: Account, Bucket,",
    ),
    Broken("l4", DISK, 'del props["type"]', "data-disk: disk type None: g2 machines refuse the slow default"),
    Broken("l4", DISK, 'del props["labels"]', f"data-disk: no label {LABELS}"),
    Broken("l4", FIREWALL, 'props["source_ranges"] = ["0.0.0.0/0"]', "ssh: lets in 0.0.0.0/0 (accepted: IPv4 ranges of your own"),
    Broken("l4", FIREWALL, 'props["source_ranges"] = ["10.0.0.0/16", "10.1.0.0/16"]', "ssh: lets in 10.0.0.0/16, 10.1.0.0/16"),
    Broken("l4", FIREWALL, 'props["source_ranges"] = ["::ffff:0:0/96"]', "ssh: lets in ::ffff:0:0/96"),
    Broken("l4", FIREWALL, 'props["source_ranges"] = pulumi.Output.from_input(["203.0.113.7/32"])', f"ssh: lets in {NOT_KNOWN}"),
    Broken("l4", FIREWALL, 'del props["source_ranges"]', "ssh: lets in 0.0.0.0/0"),
    Broken("l4", FIREWALL, 'props["allows"].append({"protocol": "all"})', "ssh: opens more than port 22"),
    Broken("l4", FIREWALL, 'props["allows"][0].ports = ["22-80"]', "ssh: opens more than port 22"),
    Broken("l4", FIREWALL, 'del props["target_tags"]', "ssh: applies to every machine"),
    Broken("l4", INSTANCE, 'props["scheduling"].max_run_duration = None', "vm: nothing ends it"),
    Broken("l4", INSTANCE, 'props["scheduling"].instance_termination_action = None', "vm: what happens at its end is not set"),
    Broken("l4", INSTANCE, 'props["scheduling"].on_host_maintenance = "MIGRATE"', "vm: a GPU cannot move"),
    Broken("cpu", INSTANCE, 'props["scheduling"].on_host_maintenance = "TERMINATE"', "vm: without a GPU it would stop for"),
    Broken("cpu", INSTANCE, 'props["scheduling"].provisioning_model = "SPOT"', "vm: a Spot VM does not move to another host"),
    Broken("l4", INSTANCE, 'del props["service_account"]', "vm: runs as the project's default account"),
    Broken("l4", INSTANCE, 'props["boot_disk"].initialize_params.type = None', "vm: disk type None of the boot disk"),
    Broken("l4", INSTANCE, 'props["boot_disk"].initialize_params.labels = None', "vm: the boot disk has no labels"),
    Broken("l4", INSTANCE, 'props["guest_accelerators"] = [{"type": "l4"}]', "vm: guestAccelerators would replace the VM"),
    Broken("l4", INSTANCE, 'props["metadata_startup_script"] = "x"', "vm: metadataStartupScript would replace the VM"),
    Broken("l4", INSTANCE, 'props["attached_disks"][0].device_name = None', "vm: a disk without a device name"),
    Broken("l4", INSTANCE, 'props["network_interfaces"][0].access_configs = [{}]', "vm: an external address with ssh: iap"),
    Broken("l4", INSTANCE, 'del props["metadata"]["block-project-ssh-keys"]', "vm: SSH keys of the whole project would open it"),
    Broken("l4", INSTANCE, 'props["metadata"]["serial-port-enable"] = "1"', "vm: its serial port would be a console"),
    Broken("l4", INSTANCE, "opts.protect = True", "vm: a machine stack holds nothing protected"),
    Broken(
        "l4",
        "",
        'gcp = __import__("pulumi_gcp"); gcp.storage.BucketIAMMember("grant", bucket="b", role="r", member="allUsers")',
        "grant: a machine stack holds nothing protected, and nothing of storage",
    ),
]  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.line)
def test_a_program_that_breaks_a_rule_is_refused(program, broken):
    with pytest.raises(pulumi.RunError) as refusal:
        program(broken.stack, **broken.text)

    assert str(refusal.value).startswith(f"stack {broken.stack}: the program breaks the rules of infra/policy.py: ")
    assert broken.words in str(refusal.value)


@pytest.mark.slow
@pytest.mark.parametrize("broken", {broken.words[:20]: broken for broken in BROKEN}.values(), ids=lambda broken: broken.line)
def test_a_plain_preview_of_it_is_refused_in_the_same_words(stored, empty, at, broken):
    place = at(empty if broken.stack == "storage" else stored)
    place.write(**broken.text)

    refused = place.engine.run("preview", "--stack", broken.stack)

    printed = " ".join((refused.stdout + refused.stderr).split())
    assert refused.returncode != 0
    assert f"error: stack {broken.stack}: the program breaks the rules of infra/policy.py: " in printed
    assert broken.words in printed
    assert "Traceback" not in printed


def test_up_is_refused_too_and_fab_up_says_it_once(stored, at):
    place = at(stored)
    place.write(**next(broken for broken in BROKEN if broken.line == 'props["source_ranges"] = ["0.0.0.0/0"]').text)

    refused = place.engine.up("l4")

    assert refused.returncode != 0
    assert "ssh: lets in 0.0.0.0/0" in refused.stdout
    assert [name for name in place.ids() if "firewall" in name or "instances" in name] == []
    with pytest.raises(UserError, match=r"rules of infra/policy\.py: ssh: lets in 0\.0\.0\.0/0") as refusal:
        Engine("l4").plan()
    assert str(refusal.value).count("lets in") == 1


def test_a_secret_is_read_by_training_alone():
    grant = {"role": "roles/secretmanager.secretAccessor", "member": "allAuthenticatedUsers"}

    (found,) = violations("storage", "iap", Planned(SECRET_GRANT, "x", grant))

    assert "allAuthenticatedUsers is not the account of training" in found
