"""The resolved configuration as text: it reads back equal, and says all there is to say."""

import random
import re

import pytest

from tests.tools.perturbation_run import load_config
from training.config import RunConfig
from training.config_loader import load_config as load_any
from training.config_schema import CONFIGS, schema_of
from training.config_text import commented_yaml

FIELDS = schema_of(RunConfig).fields
WHOLE = ["data.split=split.toml", "data.control=control"]
# Together they change every field.
RUNS = {
    "defaults": [],
    "genes": ["data.output_space=gene", "model=identity_sm", "trainer.precision=bf16", "trainer.max_epochs=7", "overwrite=true"],
    "embedding": ["data.embed_key=X_state", "model.decoder_hidden_dims=[7]", "model.decoder_dropout=0",
        "objective.decoder_weight=2", "objective.detach_decoder=true",
        "resume=true", "name=other", "output_dir=elsewhere", "seed=7", "trainer.max_steps=7"],
    "sinkhorn": ["objective.loss=energy_sinkhorn", "objective.blur=1e-5", "objective.sinkhorn_weight=7e10",
        "objective.shift_penalty=1e-3"],
    "optimizer": ["optim.lr=1e-7", "optim.weight_decay=0", "optim.schedule=cosine", "optim.warmup_fraction=0.1",
        "optim.min_lr_fraction=0", "optim.gradient_clip_norm=0", "trainer.accumulate_micro_steps=7", "trainer.device=cpu",
        "trainer.val_every_steps=7", "trainer.log_every_steps=7", "checkpoints.every_steps=7", "checkpoints.keep_last=7",
        "early_stopping.patience=7", "early_stopping.min_delta=0.1"],
    "data": ["data.perturbation_column=a", "data.cell_type_column=b", "data.gem_group_column=c", "data.control_matching=gem_group",
        "data.gene_name_column=d", "data.gene_alignment=by_name", "data.values=counts", "data.perturbation_features_file=e.npz",
        "data.missing_features=drop", "data.include_controls=false", "data.validation=test", "data.max_validation_sets=7",
        "data.batch_size=7", "data.num_workers=7", "data.prefetch_batches=7", "data.separator=_", "evaluation.seed=7",
        "evaluation.control_fraction=0.5"],
    "model": ["data.set_size=7", "model.hidden_dim=7", "model.num_layers=7", "model.num_heads=7", "model.head_dim=8",
        "model.intermediate_dim=7", "model.attention=causal_rope", "model.encoder_layers=2", "model.output_layers=2",
        "model.control_encoder=linear", "model.output_activation=none", "model.dropout=0", "model.gem_group_embedding=true",
        "data.gem_group_column=g"],
    "no effect": ["data.validation=none", "data.num_workers=0", "evaluation.control_fraction=null", "data.separator=null"],
}  # fmt: skip


@pytest.fixture
def reread(tmp_path):
    """A configuration through its text and back."""

    def through(config):
        path = tmp_path / "config.yaml"
        path.write_text(commented_yaml(config))
        return load_any(path)

    return through


def value_of(config, key):
    for name in key.split("."):
        config = getattr(config, name)
    return config


@pytest.mark.parametrize("run", RUNS)
def test_the_text_reads_back_equal(run, reread):
    config = load_config(None, [*WHOLE, *RUNS[run]])

    assert reread(config) == config


def test_the_runs_change_every_field():
    configs = [load_config(None, [*WHOLE, *settings]) for settings in RUNS.values()]

    assert [key for key in FIELDS if len({value_of(config, key) for config in configs}) == 1] == [
        "task",
        "data.kind",
        "data.split",
        "data.control",
        "model.kind",
        "objective.kind",
    ]


@pytest.mark.parametrize("run", sorted((CONFIGS / "runs").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_text_of_every_run_file_reads_back_equal(run, reread):
    text = run.read_text()
    words = [] if "task: tabular" in text else [*WHOLE, *([] if "max_" in text else ["trainer.max_steps=1"])]
    config = load_any(run, ["name=run", *words])

    assert reread(config) == config


@pytest.mark.parametrize(
    "text",
    ["2025", "1e-4", "0x1F", "1_0", "1:30", "true", "no", "null", "~", "", " a ", "a b", "a, b", "a: b", "a #b", "#a", "-", "- a",
     "?", "=", "[a]", "{a}", "*a", "&a", "!a", "@a", "%a", "`a`", "|", ">", "'", '"', "\\", "a\\b", "a\nb", "a\tb", "\x7f",
     "é", "😀",
     "${seed}", "\\${seed}", "$HOME", "C:\\cells\\*.h5ad", "[('DMSO_TF', 0.0, 'uM')]", "2025-11-21", ".nan",
     "x: " * 200],
)  # fmt: skip
def test_any_text_reads_back_equal_and_takes_one_line(text, reread):
    config = load_config(None, WHOLE)
    data = config.data.model_copy(update={"control": text, "cell_type_column": text})
    changed = config.model_copy(update={"data": data})

    assert reread(changed).data == data
    assert commented_yaml(changed).count("\n") == commented_yaml(config).count("\n")


def test_random_text_reads_back_equal(reread):
    config = load_config(None, WHOLE)
    for seed in range(30):
        text = "".join(random.Random(seed).choices(" \"#$%&'()*+,-./0189:;<=>?@AZ[]^_`az{|}~\n", k=12))
        data = config.data.model_copy(update={"control": text})

        assert reread(config.model_copy(update={"data": data})).data.control == text


@pytest.mark.parametrize("run", RUNS)
def test_every_field_stands_once_below_its_sentence(run):
    lines = commented_yaml(load_config(None, [*WHOLE, *RUNS[run]])).splitlines()

    for key, field in FIELDS.items():
        section, _, name = key.rpartition(".")
        start = lines.index(f"{section}:") if section else 0
        at = lines.index(("  " if section else "") + f"# {field.description}", start)
        assert re.match(rf"\s*(# )?{name}: ", lines[at + 1])
    names = [key.rpartition(".")[2] for key in FIELDS]
    assert sorted(name for line in lines for name in re.findall(r"^\s*(?:# )?([a-z_]+): ", line)) == sorted(names)


@pytest.mark.parametrize("run", RUNS)
def test_settings_without_effect_are_comments_that_say_why(run):
    config = load_config(None, [*WHOLE, *RUNS[run]])
    text = commented_yaml(config)

    for key, has_none, why in RunConfig.NO_EFFECT:
        name = key.rpartition(".")[2]
        commented = re.search(rf"^  # {name}: .*  # no effect here: {re.escape(why)}$", text, re.MULTILINE)
        assert bool(commented) == has_none(config)


def test_sections_have_their_docstring_as_a_header():
    text = commented_yaml(load_config(None, WHOLE))

    assert "\n\n# Which cells, as sets of one (cell type, perturbation).\ndata:\n" in text
    assert "\n\n# What is kept on disk.\ncheckpoints:\n" in text
