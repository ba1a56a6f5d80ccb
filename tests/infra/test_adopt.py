"""A storage stack whose state is lost, taken back by `fab adopt`: real engine and real gcloud over one stand-in cloud."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from infra.adopt import import_ids
from infra.engine import Engine
from infra.policy import ACCOUNT, BUCKET, BUCKET_GRANT, BUDGET
from infra.stack_config import StorageSettings
from tests.infra.test_tasks import fab
from tests.tools.stand_in_cloud.place import Place, sure
from training.errors import UserError

BILLING = "0123AB-4567CD-89EF01"
NAME = "demo-project-incubator"
READER = "serviceAccount:incubator-training@demo-project.iam.gserviceaccount.com"


def lose_state(place: Place) -> None:
    """The laptop's folder with Pulumi's state is gone; the project's files are not."""
    shutil.rmtree(place.folder / "home" / "state")
    (place.folder / "home" / "state").mkdir()


def protection(place: Place) -> dict[str, bool]:
    state = json.loads(sure(place.engine.run("stack", "export", "--stack", "storage")).stdout)["deployment"]["resources"]
    return {one["urn"].split("::")[-1]: one.get("protect", False) for one in state if "default" not in one["urn"]}


@pytest.fixture
def complete(stored, cloud_of, tmp_path, monkeypatch) -> Place:
    """Storage with everything that it may have: a secret, and a budget alert."""
    place = cloud_of(stored)
    with place.world.edit() as state:
        state["secrets"] = ["hf-token"]
    place.set("storage", secrets=["hf-token"], billingAccount=BILLING, monthlyBudget=100)
    sure(place.engine.up("storage"))
    budgets_by_hand(place, tmp_path / "bin", monkeypatch)
    return place


def budgets_by_hand(place: Place, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real gcloud, but for `billing budgets list`: gcloud 528 cannot be told another address of that one API."""
    folder.mkdir()
    real = shutil.which("gcloud")
    (folder / "gcloud").write_text(
        f"""#!{sys.executable}
import json, os, sys
if sys.argv[3:6] != ["billing", "budgets", "list"]:
    os.execv({real!r}, sys.argv)
resources = json.load(open({str(place.world.path)!r}))["resources"].values()
budgets = [one for one in resources if one["type"] == {BUDGET!r}]
assert sys.argv[6:] == ["--billing-account={BILLING}", "--billing-project=demo-project"], sys.argv
print(json.dumps([{{"name": one["id"], "displayName": one["inputs"]["displayName"]}} for one in budgets]))
"""
    )
    (folder / "gcloud").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_a_lost_state_is_taken_back_as_it_was_and_nothing_in_the_cloud_changes(complete):
    place = complete
    before, protected = place.world.read()["resources"], protection(place)
    lose_state(place)

    adopted = fab("adopt")

    assert adopted.returncode == 0, adopted.stdout + adopted.stderr
    assert protection(place) == protected
    assert place.world.read()["resources"] == before
    # The provider does not read labels that it was not told of: the bucket has them.
    assert "\n./fab up --stack storage would change bucket (labels) (pulumi preview --diff --stack storage" in adopted.stdout

    up = fab("up", "--stack", "storage")

    assert up.returncode == 0, up.stdout + up.stderr
    assert place.world.read()["resources"] == before
    sure(place.engine.run("up", "--stack", "storage", "--yes", "--expect-no-changes"))
    assert "nothing is left to create or change in the cloud" in fab("adopt").stdout
    assert "holds the bucket with your results, and is protected" in fab("down", "--stack", "storage").stderr
    assert place.engine.run("destroy", "--yes", "--stack", "storage").returncode != 0
    assert place.world.read()["resources"] == before
    assert place.engine.outputs("storage")["bucket"] == NAME


def test_the_up_that_a_lost_state_refuses_names_the_way_back_and_what_is_gone_is_named(stored, cloud_of):
    place = cloud_of(stored)
    lose_state(place)
    with place.world.edit() as state:
        (gone,) = [key for key, one in state["resources"].items() if one["inputs"].get("role") == "roles/storage.objectUser"]
        del state["resources"][gone]

    refused = fab("up", "--stack", "storage")
    adopted = fab("adopt")

    assert refused.returncode == 1
    assert "of a state that is lost: ./fab adopt --stack storage" in refused.stderr
    assert adopted.returncode == 0, adopted.stdout + adopted.stderr
    assert "neither there nor in the state: training-runs-write\n" in adopted.stdout
    assert "./fab up --stack storage would create training-runs-write; change bucket (labels) (pulumi preview" in adopted.stdout
    done = fab("up", "--stack", "storage")
    assert done.returncode == 0, done.stdout + done.stderr
    assert gone in place.world.read()["resources"]


def test_what_is_another_installations_is_refused_with_a_way_out(stored, cloud_of):
    place = cloud_of(stored)
    settings = Engine("storage").settings()
    assert isinstance(settings, StorageSettings)
    whole = place.world.read()

    def refusal(type_: str, change: dict[str, object] | None, role: str | None = None) -> str:
        with place.world.edit() as state:
            state["resources"] = {key: json.loads(json.dumps(one)) for key, one in whole["resources"].items()}
            for key, one in [*state["resources"].items()]:
                if one["type"] == type_ and role in (None, one["inputs"].get("role")):
                    one["inputs"] |= change or {}
                    if change is None:
                        del state["resources"][key]
        with pytest.raises(UserError) as told:
            import_ids(settings, "storage")
        return str(told.value)

    other = refusal(BUCKET, {"labels": {"incubator-bucket": "their-bucket", "incubator-stack": "storage"}})
    assert "incubator-bucket is their-bucket" in other
    assert "pulumi config set incubator:bucket NAME --stack storage" in other
    assert f"gcloud storage buckets update gs://{NAME} --update-labels=incubator-bucket={NAME},incubator-stack=storage" in other
    elsewhere = refusal(BUCKET, {"location": "EUROPE-WEST4"})
    assert "pulumi config set incubator:location europe-west4 --stack storage" in elsewhere
    assert "there is no bucket demo-project-incubator in project demo-project" in refusal(BUCKET, None)
    stranger = refusal(BUCKET_GRANT, {"member": "serviceAccount:somebody@demo-project.iam.gserviceaccount.com"})
    assert f"gcloud storage buckets add-iam-policy-binding gs://{NAME} --member={READER}" in stranger
    assert place.world.read()["resources"].keys() == whole["resources"].keys()
    assert ACCOUNT in {one["type"] for one in whole["resources"].values()}


def test_two_budget_alerts_of_one_name_are_not_guessed_among(complete):
    place = complete
    with place.world.edit() as state:
        (budget,) = [one for one in state["resources"].values() if one["type"] == BUDGET]
        state["resources"]["billingAccounts/X/budgets/2"] = {**budget, "id": "billingAccounts/X/budgets/2"}
    lose_state(place)

    refused = fab("adopt")

    assert refused.returncode == 2
    assert "gcloud billing budgets delete billingAccounts/X/budgets/2; then again" in refused.stderr


def test_a_machine_is_found_without_any_state(stored, at):
    at(stored)

    refused = fab("adopt", "--stack", "l4")

    assert refused.returncode == 2
    assert "./fab down --stack l4 brings its results and removes it" in refused.stderr
