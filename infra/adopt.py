"""`fab adopt`: bring what Google still has of a storage stack back into Pulumi's state, after that state was lost.

The engine says what the state lacks, Google which of that exists, and `pulumi import` writes it down. In the cloud nothing changes.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from infra.engine import Engine, Lacking
from infra.gcloud import ApiDisabled, NotFound, all_at_once, gcloud
from infra.policy import ACCOUNT, BUCKET, BUCKET_GRANT, BUDGET, PROJECT_GRANT, SECRET_GRANT, SERVICE
from infra.stack_config import BUCKET_LABEL, STACK_LABEL, StorageSettings
from training.errors import RunError, UserError

# How the provider wants to be told what to import (terraform-provider-google: iamMemberImport, and the Importer of each resource).
# A budget alert has an id of Google's making: it is found by its name.
GRANT = "{role} serviceAccount:{account} {title}"
IMPORT_IDS = {
    ACCOUNT: "projects/{project}/serviceAccounts/{account}",
    BUCKET: "{name}",
    BUCKET_GRANT: f"b/{{bucket}} {GRANT}",
    BUDGET: "{displayName}",
    PROJECT_GRANT: f"{{project}} {GRANT}",
    SECRET_GRANT: f"projects/{{project}}/secrets/{{secretId}} {GRANT}",
    SERVICE: "{project}/{service}",
}


def adopt(engine: Engine) -> None:
    """Import what exists of a storage stack into its state, and print what `pulumi up` would then change.

    Raises: UserError for a stack of a machine, and for what is another installation's; RunError where Google or the engine failed.
    """
    engine.make_sure_it_exists()
    settings, stack = engine.settings(), engine.stack
    if not isinstance(settings, StorageSettings):
        raise UserError(
            f"stack {stack} is a machine, which needs no state to be found: ./fab down --stack {stack} brings its results and "
            "removes it (accepted: a stack of kind storage)"
        )
    file, lacking = engine.lacking()
    if lacking:
        _import(engine, settings, file, lacking)
    else:
        print(f"the state of stack {stack} lacks nothing")
    _say_what_up_would_change(engine)


def _import(engine: Engine, settings: StorageSettings, file: dict[str, Any], lacking: Sequence[Lacking]) -> None:
    existing = import_ids(settings, engine.stack)
    ids = {each.name: found for each in lacking if (found := _import_id(each, settings, existing))}
    missing = [each.name for each in lacking if each.type in IMPORT_IDS and each.name not in ids]
    print(f"in project {settings.project}, and not in the state of stack {engine.stack}: {', '.join(ids) or 'nothing'}")
    if missing:
        print(f"neither there nor in the state: {', '.join(missing)}")
    named = [{**each, "id": ids.get(each["name"])} for each in file["resources"] if each.get("component") or each["name"] in ids]
    for protect in (True, False):
        names = {each.name for each in lacking if each.protect == protect}
        parents = {each.name: each.urn for each in lacking if each.name not in names}
        if some := [each for each in named if each["name"] in names]:
            engine.take_in({**file, "nameTable": parents | file.get("nameTable", {}), "resources": some}, protect)


def import_ids(settings: StorageSettings, stack: str) -> dict[str, str]:
    """What exists of the stack in the cloud: the id by which the provider imports it, or for a budget alert its name, to that id.

    Raises: UserError if the bucket, its account or the budget alert is not this stack's; RunError where Google cannot say.
    """
    _refuse_another_bucket(settings, stack)
    bucket, project, account = settings.bucket_name, settings.project, settings.account
    questions: dict[str, Callable[[], Any]] = {
        "services": partial(gcloud, "services", "list", "--enabled", f"--project={project}"),
        "account": partial(gcloud, "iam", "service-accounts", "describe", account, f"--project={project}"),
        f"b/{bucket}": partial(gcloud, "storage", "buckets", "get-iam-policy", f"gs://{bucket}"),
        project: partial(gcloud, "projects", "get-iam-policy", project),
    }
    for secret in settings.secrets:
        name = f"projects/{project}/secrets/{secret}"
        questions[name] = partial(gcloud, "secrets", "get-iam-policy", secret, f"--project={project}")
    answers = _answers(questions)
    found = [bucket, *(f"{project}/{service['config']['name']}" for service in answers.pop("services") or [])]
    exists = answers.pop("account") is not None
    grants = [id for where, policy in answers.items() for id in _grants(where, policy or {}, f"serviceAccount:{account}")]
    if exists:
        _refuse_another_account(settings, any(grant.startswith(f"b/{bucket} ") for grant in grants))
        found += [f"projects/{project}/serviceAccounts/{account}", *grants]
    return {id: id for id in found} | _budget(settings)


def _answers(questions: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Each answer; None where there is no such thing."""
    answers = dict[str, Any]()
    for name, answer in all_at_once(questions).items():
        if isinstance(answer, RunError) and not isinstance(answer, ApiDisabled | NotFound):
            raise answer
        answers[name] = None if isinstance(answer, RunError) else answer
    return answers


def _refuse_another_bucket(settings: StorageSettings, stack: str) -> None:
    """The bucket decides whose all of it is: its name is the world's only one, and labels say which stack made it."""
    name, project = settings.bucket_name, settings.project
    told = {bucket["name"]: bucket for bucket in gcloud("storage", "buckets", "list", f"--project={project}")}
    if name not in told:
        ours = [other for other, bucket in told.items() if (bucket.get("labels") or {}).get(BUCKET_LABEL) == other]
        raise UserError(
            f"stack {stack}: there is no bucket {name} in project {project}, so nothing there is known to be of this installation. "
            f"To make a new one: ./fab up --stack {stack}. If yours is another (in the project: {', '.join(ours) or 'none'}): "
            f"pulumi config set incubator:bucket NAME --stack {stack}, then again"
        )
    labels = told[name].get("labels") or {}
    if (labels.get(BUCKET_LABEL), labels.get(STACK_LABEL)) != (name, stack):
        raise UserError(
            f"gs://{name} is not labelled as the bucket of stack {stack}: {STACK_LABEL} is {labels.get(STACK_LABEL) or 'missing'}, "
            f"{BUCKET_LABEL} is {labels.get(BUCKET_LABEL) or 'missing'}. If it is another installation's: pulumi config set "
            f"incubator:bucket NAME --stack {stack}. If it is yours: gcloud storage buckets update gs://{name} "
            f"--update-labels={BUCKET_LABEL}={name},{STACK_LABEL}={stack}, then again"
        )
    location = str(told[name]["location"]).lower()
    if location != settings.location:
        raise UserError(
            f"configs/stacks/Pulumi.{stack}.yaml: incubator:location: {settings.location}: gs://{name} lies in {location}, and a "
            f"bucket cannot move: pulumi config set incubator:location {location} --stack {stack}, then again"
        )


def _refuse_another_account(settings: StorageSettings, reads_the_bucket: bool) -> None:
    """Every installation in a project would call its account alike; what it may read says whose it is."""
    if not reads_the_bucket:
        bucket, account = settings.bucket_name, settings.account
        raise UserError(
            f"{account} has no role on gs://{bucket}, so it may be another installation's of project {settings.project} (accepted: "
            f"one installation a project). If it is yours: gcloud storage buckets add-iam-policy-binding gs://{bucket} "
            f"--member=serviceAccount:{account} --role=roles/storage.objectViewer, then again"
        )


def _grants(where: str, policy: Mapping[str, Any], member: str) -> list[str]:
    """The import ids of what a policy grants to a member: RESOURCE ROLE MEMBER, and the title of a condition."""
    return [
        " ".join((where, binding["role"], member, *filter(None, [(binding.get("condition") or {}).get("title")])))
        for binding in policy.get("bindings") or []
        if member in binding.get("members", [])
    ]


def _budget(settings: StorageSettings) -> dict[str, str]:
    """The budget alert: Google makes up its id, and it can have no label."""
    if settings.billing_account is None:
        return {}
    account, name = settings.billing_account, settings.budget_name
    words = ("billing", "budgets", "list", f"--billing-account={account}", f"--billing-project={settings.project}")
    found = [budget["name"] for budget in _answers({"": partial(gcloud, *words)})[""] or [] if budget.get("displayName") == name]
    if len(found) > 1:
        delete = "; ".join(f"gcloud billing budgets delete {each}" for each in found[1:])
        raise UserError(f"billing account {account} has {len(found)} budget alerts called {name}; keep one: {delete}; then again")
    return {name: found[0]} if found else {}


def _import_id(lacking: Lacking, settings: StorageSettings, existing: Mapping[str, str]) -> str | None:
    if lacking.type not in IMPORT_IDS:  # a component, or a provider: the engine makes them itself
        return None
    condition = lacking.inputs.get("condition") or {}
    # The plan does not know the account yet that everything is granted to.
    inputs = {**lacking.inputs, "account": settings.account, "title": condition.get("title", "")}
    return existing.get(IMPORT_IDS[lacking.type].format_map(inputs).rstrip())


def _say_what_up_would_change(engine: Engine) -> None:
    plan = engine.plan()
    named = {"create": plan.created, "change": plan.updated, "replace": plan.replaced, "delete": plan.deleted}
    changes = [f"{verb} {', '.join(names)}" for verb, names in named.items() if names]
    if changes:
        print(f"./fab up --stack {engine.stack} would {'; '.join(changes)} (pulumi preview --diff --stack {engine.stack} shows it)")
    else:
        print(f"nothing is left to create or change in the cloud; ./fab up --stack {engine.stack} writes what machines read of it")
