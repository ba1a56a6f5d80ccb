import pytest

from infra.outputs import StorageOutputs
from training.errors import UserError

UP = {"project": "p", "region": "r", "bucket": "b", "service_account": "s", "secrets": ["hf"], "more": 1}


def test_what_the_engine_says_becomes_a_record():
    assert StorageOutputs.of(UP, "storage") == StorageOutputs("p", "r", "b", "s", ("hf",))


@pytest.mark.parametrize("missing", ["project", "bucket", "secrets"])
def test_a_stack_that_is_not_up_is_refused_with_what_to_run(missing):
    values = {key: value for key, value in UP.items() if key != missing}

    with pytest.raises(UserError, match=f"stack storage has no output {missing}: .*; run: pulumi up --stack storage"):
        StorageOutputs.of(values, "storage")
