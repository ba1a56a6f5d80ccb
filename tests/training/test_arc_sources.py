"""The table of STATE's keys acts on the sources that were written for `state tx train`, and on no other."""

import pytest

from tests.tools.perturbation_run import load_config
from training import arc_keys
from training.config import RunConfig
from training.config_schema import CONFIGS, schema_of
from training.errors import UserError

SCHEMA = schema_of(RunConfig)
FIELDS = SCHEMA.fields

# Keys that the table does no more than refuse: alone, they are nobody's, or ours to come.
REFUSED_ALONE = [
    "model.lora.rank=8", "model.init_from=runs/x", "wandb.project=y", "model.softplus=true", "model.name=x", "use_wandb=false",
    "init_from=x", "model.device=cuda", "data.random_seed=42", "return_adatas=true",
]  # fmt: skip


@pytest.mark.parametrize("word", REFUSED_ALONE)
def test_a_key_that_the_table_only_refuses_is_answered_by_our_schema(word, tmp_path):
    key, _, value = word.partition("=")
    run = tmp_path / "run.yaml"
    run.write_text(f"name: mine\ntrainer: {{max_steps: 1}}\n{key}: {value}\n")
    message = rf"{key}: unknown key \(value {value}\).* \(accepted: "

    with pytest.raises(UserError, match=f"^command line: {message}"):
        load_config(None, ["data.split=s.toml", "data.control=c", word])
    with pytest.raises(UserError, match=f"^{run}: {message}"):
        load_config(run, ["data.split=s.toml", "data.control=c"])


@pytest.mark.parametrize("theirs", ["training.lr=0.1", "control_pert=c", "data.pert_col=p", "model=tahoe_llama_62089464"])
def test_beside_a_key_of_theirs_it_gets_the_reason_of_the_table(theirs):
    words = ["data.split=s.toml", *([] if "control" in theirs else ["data.control=c"]), theirs]
    assert load_config(None, [*words, "use_wandb=false"]) == load_config(None, words)

    with pytest.raises(UserError, match=r"^command line: model.lora.rank: 8: this version does not fine-tune"):
        load_config(None, [*words, "model.lora.rank=8"])


def test_each_source_is_judged_by_itself():
    with pytest.raises(UserError, match=r"^command line: use_wandb: unknown key"):
        load_config(CONFIGS / "runs" / "seed_000.yaml", ["use_wandb=false"])


@pytest.mark.parametrize("word", ["model=pertsets", "data=default"])
def test_a_choice_of_theirs_alone_is_answered_by_our_schema(word):
    with pytest.raises(UserError, match=r"no such preset|data is a section of keys"):
        load_config(None, ["data.split=s.toml", "data.control=c", word])


def test_a_key_of_ours_is_never_refused_whatever_stands_beside_it():
    new = {"model.lora.rank", "wandb.project", "use_wandb"}
    pairs = [("training.lr", 0.1), ("model.lora.rank", 8), ("wandb.project", "x"), ("use_wandb", True)]

    translation = arc_keys.translate(pairs, lambda key, value: key in new or SCHEMA.has(key, value))
    assert translation.refusals == []
    assert [setting.key for setting in translation.settings] == ["optim.lr", "model.lora.rank", "wandb.project", "use_wandb"]


def test_our_own_keys_make_no_source_theirs():
    assert not arc_keys.has_keys_of_state([(key, value) for key in FIELDS for value in ("x", 3, None)], SCHEMA.has)
    assert not arc_keys.has_keys_of_state([("model", "state_sm"), ("+model.preset", "state"), ("optim", {})], SCHEMA.has)
