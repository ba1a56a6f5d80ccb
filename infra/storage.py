"""The stack that stays.

- the APIs that everything needs (left enabled when the stack goes)
- the bucket: data/ and runs/, protected, never emptied by a program; earlier versions of its objects are kept for some days
- the service account of training: it reads the bucket, writes below runs/, writes logs and metrics, reads the named secrets
- optionally, a budget alert
"""

import pulumi
import pulumi_gcp as gcp

from infra.stack_config import ACCOUNT_ID, CHECKPOINT_UNDO_DAYS, UNDO_DAYS, StorageSettings

APIS = (
    "cloudresourcemanager",
    "compute",
    "iam",
    "iap",
    "logging",
    "monitoring",
    "oslogin",
    "serviceusage",
    "storage",
)
# The files of a checkpoint: a rule's prefix knows no wildcards, and a run's name stands between runs/ and checkpoints/.
CHECKPOINT_FILES = ("trainer.ckpt", "MANIFEST.json")


class Storage(pulumi.ComponentResource):
    """Bucket, service account and APIs."""

    bucket: pulumi.Output[str]
    service_account: pulumi.Output[str]

    def __init__(self, name: str, settings: StorageSettings, labels: dict[str, str]) -> None:
        # All of it, not the bucket alone: otherwise a destroy that is refused would have taken the account away by then.
        super().__init__("incubator:storage:Storage", name, None, pulumi.ResourceOptions(protect=True))
        self._settings, self._inside = settings, pulumi.ResourceOptions(parent=self)
        after = self._enable_apis()
        bucket = self._make_bucket(labels, after)
        account = gcp.serviceaccount.Account(
            "training",
            account_id=ACCOUNT_ID,
            display_name="Incubator: training",
            description="What a training machine may do: its bucket, logs, metrics, named secrets",
            project=settings.project,
            opts=self._opts(after),
        )
        self._grant(account, bucket, after)
        if settings.billing_account is not None:
            self._alert(settings.billing_account, after)
        self.bucket, self.service_account = bucket.name, account.email
        self.register_outputs({"bucket": self.bucket, "service_account": self.service_account})

    def _opts(self, after: list[pulumi.Resource], protect: bool = True) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(parent=self, depends_on=after, protect=protect)

    def _enable_apis(self) -> list[pulumi.Resource]:
        wanted = [*APIS]
        wanted += ["secretmanager"] if self._settings.secrets else []
        wanted += ["billingbudgets"] if self._settings.billing_account else []
        return [
            gcp.projects.Service(
                f"api-{api}",
                service=f"{api}.googleapis.com",
                project=self._settings.project,
                disable_on_destroy=False,
                opts=self._opts([], protect=api in APIS),  # the others go when the setting goes; they stay enabled
            )
            for api in wanted
        ]

    def _make_bucket(self, labels: dict[str, str], after: list[pulumi.Resource]) -> gcp.storage.Bucket:
        return gcp.storage.Bucket(
            "bucket",
            name=self._settings.bucket_name,
            project=self._settings.project,
            location=self._settings.location.upper(),  # as GCS writes it: otherwise every plan shows a change
            uniform_bucket_level_access=True,
            public_access_prevention="enforced",
            force_destroy=False,
            # 7 days by default: rotated checkpoints would be paid for a week, whatever the rules say of them.
            soft_delete_policy=gcp.storage.BucketSoftDeletePolicyArgs(retention_duration_seconds=0),
            versioning=gcp.storage.BucketVersioningArgs(enabled=True),
            lifecycle_rules=_lifecycle_rules(self._settings.checkpoint_days),
            labels=labels,
            opts=self._opts(after),
        )

    def _grant(self, account: gcp.serviceaccount.Account, bucket: gcp.storage.Bucket, after: list[pulumi.Resource]) -> None:
        member = account.email.apply("serviceAccount:{}".format)
        gcp.storage.BucketIAMMember(
            "training-bucket-read", bucket=bucket.name, role="roles/storage.objectViewer", member=member, opts=self._inside
        )
        gcp.storage.BucketIAMMember(
            "training-runs-write",
            bucket=bucket.name,
            role="roles/storage.objectUser",
            member=member,
            condition=gcp.storage.BucketIAMMemberConditionArgs(
                title="runs only",
                description="data/ is read only: no machine overwrites or deletes what the runs are trained on",
                expression=f"resource.name.startsWith('projects/_/buckets/{self._settings.bucket_name}/objects/runs/')",
            ),
            opts=self._inside,
        )
        for name, role in (("logs", "roles/logging.logWriter"), ("metrics", "roles/monitoring.metricWriter")):
            gcp.projects.IAMMember(f"training-{name}", project=self._settings.project, role=role, member=member, opts=self._inside)
        for secret in self._settings.secrets:
            gcp.secretmanager.SecretIamMember(
                f"training-secret-{secret}",
                project=self._settings.project,
                secret_id=secret,
                role="roles/secretmanager.secretAccessor",
                member=member,
                opts=self._opts(after, protect=False),  # may be taken back by a setting
            )

    def _alert(self, billing_account: str, after: list[pulumi.Resource]) -> None:
        # Without both, a person's own credentials get a 403 from this one API.
        billing = gcp.Provider(
            "billing",
            project=self._settings.project,
            billing_project=self._settings.project,
            user_project_override=True,
            opts=self._opts([], protect=False),  # goes with the alert, when the setting goes
        )
        project = gcp.organizations.get_project_output(project_id=self._settings.project)
        gcp.billing.Budget(
            "budget",
            billing_account=billing_account,
            display_name=self._settings.budget_name,
            budget_filter=gcp.billing.BudgetBudgetFilterArgs(projects=[project.number.apply("projects/{}".format)]),
            amount=gcp.billing.BudgetAmountArgs(  # in the account's own currency: another one is refused
                specified_amount=gcp.billing.BudgetAmountSpecifiedAmountArgs(units=str(self._settings.monthly_budget))
            ),
            threshold_rules=[gcp.billing.BudgetThresholdRuleArgs(threshold_percent=share) for share in (0.5, 0.9, 1.0)],
            opts=pulumi.ResourceOptions.merge(self._opts(after, protect=False), pulumi.ResourceOptions(provider=billing)),
        )


def _lifecycle_rules(checkpoint_days: int) -> list[gcp.storage.BucketLifecycleRuleArgs]:
    """What the bucket deletes by itself: parts of broken uploads, old checkpoints, and earlier versions of everything.

    Each rule that deletes names the state (LIVE or ARCHIVED) besides the days: the provider does not send a number that is 0, and
    a rule without its days would match every object (terraform-provider-google#17990).
    """
    below, files = ["runs/"], [*CHECKPOINT_FILES]
    condition = gcp.storage.BucketLifecycleRuleConditionArgs
    rules = [
        ("AbortIncompleteMultipartUpload", condition(age=1)),
        ("Delete", condition(age=checkpoint_days, with_state="LIVE", matches_prefixes=below, matches_suffixes=files)),
        (
            "Delete",
            condition(
                days_since_noncurrent_time=CHECKPOINT_UNDO_DAYS,
                with_state="ARCHIVED",
                matches_prefixes=below,
                matches_suffixes=files,
            ),
        ),
        ("Delete", condition(days_since_noncurrent_time=UNDO_DAYS, with_state="ARCHIVED")),
    ]
    return [
        gcp.storage.BucketLifecycleRuleArgs(action=gcp.storage.BucketLifecycleRuleActionArgs(type=action), condition=when)
        for action, when in rules
    ]
