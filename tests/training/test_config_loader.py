"""From files and overrides to a configuration; each kind of bad input gets one message."""

import re
from pathlib import Path

import pytest

from tests.tools.perturbation_run import load_config
from training.config import RunConfig
from training.config_schema import CONFIGS, schema_of
from training.errors import UserError

FIELDS = schema_of(RunConfig).fields
WHOLE = ["data.split=split.toml", "data.control=control"]
RUN = """\
name: mine
data.split: split.toml
data.control: control
trainer: {max_steps: 10}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file of the working directory."""
    monkeypatch.chdir(tmp_path)

    def written(text: str, name: str = "run.yaml") -> Path:
        Path(name).write_text(text)
        return Path(name)

    return written


def yaml(*settings: str) -> str:
    """`a.b=c` words as lines of a file."""
    return "".join(f"{setting.replace('=', ': ', 1)}\n" for setting in settings)


def value_of(config, key):
    for name in key.split("."):
        config = getattr(config, name)
    return config


# --- layers -----------------------------------------------------------------------------------------------------------


def test_later_layers_win(write):
    write("seed: 1\noutput_dir: below\noptim: {lr: 0.1, weight_decay: 0.1}\n", "below.yaml")
    run = write(RUN + "extends: below.yaml\noptim: {lr: 0.2}\nmodel: {preset: state_sm, num_layers: 3}\n")

    config = load_config(run, ["seed=3", "model.num_heads=2"])

    assert (config.seed, config.output_dir, config.optim.lr, config.optim.weight_decay) == (3, "below", 0.2, 0.1)
    assert (config.model.hidden_dim, config.model.num_layers, config.model.num_heads) == (672, 3, 2)
    assert config.optim.gradient_clip_norm == 1.0


def test_the_extended_file_is_found_beside_the_one_that_names_it(write, tmp_path, monkeypatch):
    write("seed: 1\n", "below.yaml")
    write(RUN + "extends: below.yaml\n")
    monkeypatch.chdir("/")

    assert load_config(tmp_path / "run.yaml").seed == 1


def test_a_preset_takes_the_place_of_all_model_settings_below(write):
    run = write(RUN + "model: {preset: state_sm, num_layers: 3, dropout: 0.5}\n")

    config = load_config(run, ["model=tahoe_best"])

    assert config.model == load_config(None, [*WHOLE, "model=tahoe_best"]).model
    assert config.model.num_layers == 4


def test_lists_are_replaced(write):
    run = write(RUN + "data.embed_key: X_state\nmodel: {decoder_hidden_dims: [7, 8, 9]}\n")

    assert load_config(run).model.decoder_hidden_dims == (7, 8, 9)
    assert load_config(run, ["model.decoder_hidden_dims=[5]"]).model.decoder_hidden_dims == (5,)


def test_a_length_replaces_the_other_of_the_layers_below(write):
    run = write(RUN)

    assert load_config(run, ["trainer.max_epochs=3"]).trainer.max_steps is None
    assert load_config(run, ["trainer.max_steps=3"]).trainer.max_epochs is None
    assert load_config(run, ["trainer.max_epochs=null"]).trainer.max_steps == 10


def test_numbers_text_and_environment(write, monkeypatch):
    monkeypatch.setenv("DATA", "/mnt")
    run = write(RUN.replace("split.toml", '"${oc.env:DATA}/split.toml"') + "optim: {lr: 1e-3}\n")

    config = load_config(run, ["optim.weight_decay=1e-4", "data.control=0", 'data.cell_type_column="no"', "name=2025"])

    assert (config.optim.lr, config.optim.weight_decay) == (1e-3, 1e-4)
    assert (config.data.split, config.data.control, config.data.cell_type_column, config.name) == (
        "/mnt/split.toml",
        "0",
        "no",
        "2025",
    )
    assert load_config(run, ["data.split=${oc.env:DATA}/b.toml"]).data.split == "/mnt/b.toml"


def test_overrides_may_be_nested_dotted_or_theirs(write):
    run = write("name: mine\ndata.split: split.toml\ndata.kwargs: {control_pert: control}\ntraining: {max_steps: 10}\n")

    config = load_config(run, ["optim={lr: 0.5, schedule: cosine}", "+training.accumulate_grad_batches=8"])

    assert (config.data.split, config.data.control, config.trainer.max_steps) == ("split.toml", "control", 10)
    assert (config.optim.lr, config.optim.schedule, config.trainer.accumulate_micro_steps) == (0.5, "cosine", 8)


def test_an_empty_section_changes_nothing(write):
    assert load_config(write(RUN), ["trainer={}"]) == load_config(write(RUN))


# --- bad input --------------------------------------------------------------------------------------------------------

PRESETS = ", ".join(sorted(path.stem for path in (CONFIGS / "models").glob("*.yaml")))
FILES = {
    "unknown key": ("seed: 1\noptim: {learning_rate: 1}\n",
        r"^run.yaml: optim.learning_rate: unknown key \(value 1\).*\(accepted: optim.lr, "),
    "unknown section": ("optimiser: {lr: 1}\n", r"^run.yaml: optimiser.lr: unknown key \(value 1\); did you mean optim.lr\?"),
    "unknown key at the top": ("sed: 1\n",
        r"^run.yaml: sed: unknown key \(value 1\); did you mean seed\? \(accepted: task, name, .*, trainer"),
    "key of no section": ("batch_size: 1\n", r"^run.yaml: batch_size: unknown key \(value 1\); did you mean data.batch_size\?"),
    "key set twice": ("seed: 1\nseed: 2\n", r"^run.yaml: not a readable YAML file: .*found duplicate key seed"),
    "key set twice, nested and dotted": ("seed: 1\noptim: {lr: 1}\noptim.lr: 2\n",
        r"^run.yaml: optim.lr is set twice: optim.lr=1 and optim.lr=2; leave one out"),
    "key set twice, theirs and ours": ("training: {train_seed: 1}\nseed: 1\n",
        r"^run.yaml: seed is set twice: training.train_seed=1 and seed=1; leave one out"),
    "wrong type": ("seed: often\n", r"^run.yaml: seed: often: input should be a valid integer$"),
    "wrong type of theirs": ("training: {train_seed: often}\n",
        r"^run.yaml: training.train_seed \(here seed\): often: input should be a valid integer$"),
    "wrong type in a list": ("model: {decoder_hidden_dims: [1, two]}\n",
        r"^run.yaml: model.decoder_hidden_dims: two: input should be a valid integer$"),
    "wrong word": ("optim: {schedule: cosin}\n",
        r"^run.yaml: optim.schedule: cosin: input should be 'constant' or 'cosine'; did you mean cosine\?$"),
    "out of range": ("optim: {lr: -1}\n", r"^run.yaml: optim.lr: -1: input should be greater than 0$"),
    "value for a section": ("optim: 3\n", r"^run.yaml: optim: 3 is a value, but optim is a section of keys$"),
    "section for a value": ("seed: {a: 1}\n", r"^run.yaml: seed.a: unknown key \(value 1\)"),
    "null where a value is needed": ("seed:\n", r"^run.yaml: seed: null: input should be a valid integer$"),
    "syntax error": ("optim: {lr: 1\n", r"^run.yaml: not a readable YAML file: .*line \d+, column \d+"),
    "tab": ("optim:\n\tlr: 1\n", r"^run.yaml: not a readable YAML file: .*line 6, column 1"),
    "unknown interpolation": ("seed: ${sed}\n", r"^run.yaml: not a readable YAML file: .*'sed' not found"),
    "no such preset": ("model: stat\n", rf"^run.yaml: model: stat: no such preset; did you mean state.* \(accepted: {PRESETS}\)$"),
    "no such preset to change": ("model: {preset: 5}\n", r"^run.yaml: model.preset: 5: no such preset \(accepted: "),
    "no such extended file": ("extends: bse.yaml\n",
        r"^run.yaml: extends: bse.yaml: no such file; did you mean base.yaml or bad.yaml\?$"),
    "chain of extended files": ("extends: middle.yaml\n",
        r"^middle.yaml: extends: base.yaml: a file that is extended \(run.yaml does\) extends no other$"),
    "bad value in the extended file": ("extends: bad.yaml\n", r"^bad.yaml: seed: -1: input should be greater than or equal to 0$"),
    "two lengths": ("trainer.max_epochs: 3\n",
        r"^run.yaml: trainer: max_steps is 10 and max_epochs is 3; set exactly one and make the other null$"),
    "refused key of theirs": ("training: {devices: 2}\n", r"^run.yaml: training.devices: 2: this version trains on one device"),
    "key that their table only refuses": ("use_wandb: true\n", r"^run.yaml: use_wandb: unknown key \(value true\)"),
    "newer format": ("format: 2\n",
        r"^run.yaml: format: 2: a run file of a newer format than 1; update the code \(git pull\)$"),
    "newer format of the extended file": ("extends: format_3.yaml\n", r"^run.yaml: extends: format_3.yaml: format: 3: .*git pull"),
    "no format": ("format: new\n", r"^run.yaml: format: new: no format of a run file \(accepted: 1, or leave it out\)$"),
    "unknown task": ("task: perturbatoin\n",
        r"^run.yaml: task: perturbatoin: no such task; did you mean perturbation\? \(accepted: perturbation.*\)$"),
    "unknown task of the extended file": ("extends: other_task.yaml\n", r"^other_task.yaml: task: null: no such task \(accepted: "),
}  # fmt: skip
OVERRIDES = {
    "unknown key": ("trainer.max_stps=3",
        r"^command line: trainer.max_stps: unknown key \(value 3\); did you mean trainer.max_steps\?"),
    "unknown key of theirs": ("training.max_stps=3",
        r"^command line: training.max_stps: no key of `state tx train`.*training.max_steps"),
    "key set twice": ("seed=1 seed=2", r"^command line: seed is set twice: seed=1 and seed=2; leave one out$"),
    "key set twice, theirs and ours": ("optim.lr=1 +training.lr=2",
        r"^command line: optim.lr is set twice: optim.lr=1 and \+training.lr=2"),
    "key set twice, both theirs": ("+training.accumulate_grad_batches=8 training.gradient_accumulation_steps=4",
        r"set twice: \+training.accumulate_grad_batches=8 and training.gradient_accumulation_steps=4"),
    "preset set twice": ("model=state model.preset=state_sm",
        r"^command line: model.preset is set twice: model=state and model.preset=state_sm"),
    "wrong type of theirs": ("+training.lr=fast",
        r"^command line: \+training.lr \(here optim.lr\): fast: input should be a valid number$"),
    "a word is no override": ("seed", r"^command line: seed: an override is KEY=VALUE$"),
    "no YAML": ("optim.lr=*", r"^command line: optim.lr=\*: not a YAML value: while scanning an alias"),
    "unknown interpolation": ("data.split=${sed}/split.toml",
        r"^command line: data.split=\$\{sed\}/split.toml: not a value: Interpolation key 'sed' not found"),
    "wrong section, right key": ("trainer.lr=1", r"^command line: trainer.lr: unknown key \(value 1\); did you mean optim.lr\?"),
    "near in its section": ("model.lyaers=1", r"unknown key \(value 1\); did you mean model.num_layers\?"),
    "in another spelling": ("data.BatchSize=1", r"unknown key \(value 1\); did you mean data.batch_size\?"),
    "no number at all": ("optim.lr=", r"^command line: optim.lr: null: input should be a valid number$"),
    "two lengths": ("trainer.max_steps=3 trainer.max_epochs=3", r"^command line: trainer: max_steps is 3 and max_epochs is 3"),
    "no length": ("trainer.max_steps=null", r"^command line: trainer: max_steps is null and max_epochs is null"),
    "unknown task": ("task=tables", r"^command line: task: tables: no such task; did you mean tabular\? \(accepted: perturbation"),
    "deleted key": ("~optim.lr", r"^command line: ~optim.lr: settings are not deleted here"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_bad_file_gets_one_message(case, write):
    write("seed: 1\n", "base.yaml")
    write("extends: base.yaml\n", "middle.yaml")
    write("seed: -1\n", "bad.yaml")
    write("format: 3\n", "format_3.yaml")
    write("task:\n", "other_task.yaml")
    added, message = FILES[case]

    with pytest.raises(UserError, match=message) as refusal:
        load_config(write(RUN + added))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("case", OVERRIDES)
def test_a_bad_override_gets_one_message(case, write):
    words, message = OVERRIDES[case]

    with pytest.raises(UserError, match=message) as refusal:
        load_config(write(RUN), words.split())
    assert "\n" not in str(refusal.value)


def test_a_bad_key_is_refused_even_where_a_preset_above_replaces_it(write):
    with pytest.raises(UserError, match=r"^run.yaml: model.hiden_dim: unknown key \(value 3\); did you mean model.hidden_dim\?"):
        load_config(write(RUN + "model: {hiden_dim: 3}\n"), ["model=state"])


def test_a_missing_file_is_refused_with_the_nearest(write):
    write(RUN, "mine.yaml")

    with pytest.raises(UserError, match=r"^mien.yaml: no such file; did you mean mine.yaml\?$"):
        load_config(Path("mien.yaml"))


def test_what_is_no_file_of_settings_is_refused(write, tmp_path):
    with pytest.raises(UserError, match=r"not a readable YAML file: .*Is a directory"):
        load_config(tmp_path)
    with pytest.raises(UserError, match=r"^run.yaml: a run file is a mapping of keys to values, this one is a list$"):
        load_config(write("- seed\n"))
    Path("run.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match=r"^run.yaml: not a readable YAML file"):
        load_config(Path("run.yaml"))


def test_a_run_directory_is_no_run_file(write, tmp_path):
    (tmp_path / "out").mkdir()
    write(RUN, "out/config.yaml")

    with pytest.raises(UserError, match=r"^out: is a folder, and a run file is wanted; did you mean out/config.yaml\?$"):
        load_config(Path("out"))
    assert load_config(Path("out/config.yaml")).name == "mine"
    with pytest.raises(UserError, match=r"^a+: not a readable YAML file: .*File name too long"):
        load_config(Path("a" * 300))


def test_missing_keys_are_named_with_their_sentences(write):
    with pytest.raises(
        UserError, match=r"^run.yaml: data.split is missing: TOML file.*\nrun.yaml: data.control is missing: Label of"
    ):
        load_config(write("name: mine\ntrainer: {max_steps: 1}\n"))
    with pytest.raises(
        UserError, match=r"^run.yaml: name is missing: .*\nrun.yaml: trainer: max_steps is null and max_epochs is null"
    ):
        load_config(write("data: {split: a, control: b}\n"))


# --- settings without effect, and contradictions ----------------------------------------------------------------------

# Key -> a value for it, settings with which it has no effect, settings with which it acts.
NO_EFFECT_CASES = {
    "early_stopping.min_delta": ("0.5", "early_stopping.patience=null", "early_stopping.patience=3"),
    "data.missing_features": ("zeros", "data.perturbation_features_file=null", "data.perturbation_features_file=f.npz"),
    "data.values": ("counts", "data={embed_key: X_state, output_space: embedding}", "data={embed_key: X_state, output_space: all}"),
    "data.gene_name_column": (
        "symbol",
        "data={embed_key: X_state, output_space: embedding}",
        "data={embed_key: X_state, output_space: all}",
    ),
    "data.gene_alignment": (
        "by_name",
        "data={embed_key: X_state, output_space: embedding}",
        "data={embed_key: X_state, output_space: all}",
    ),
    "data.prefetch_batches": ("7", "data.num_workers=0", "data.num_workers=1"),
    "data.max_validation_sets": ("7", "data.validation=none", "data.validation=test"),
    "trainer.val_every_steps": ("7", "data.validation=none", "data.validation=split"),
    "optim.min_lr_fraction": ("0.7", "optim.schedule=constant", "optim.schedule=cosine"),
    "objective.blur": ("0.7", "objective.loss=energy", "objective.loss=sinkhorn"),
    "objective.sinkhorn_weight": ("0.7", "objective.loss=sinkhorn", "objective.loss=energy_sinkhorn"),
    "model.dropout": ("0.7", "model.output_layers=1", "model.output_layers=2"),
    "model.control_encoder": ("linear", "model.encoder_layers=1", "model.encoder_layers=2"),
    "objective.decoder_weight": ("0.7", "data.embed_key=null", "data.embed_key=X_state"),
    "objective.detach_decoder": ("true", "data.embed_key=null", "data.embed_key=X_hvg"),
    "model.decoder_hidden_dims": ("[7]", "data.embed_key=null", "data.embed_key=X_state"),
    "model.decoder_dropout": ("0.7", "data.embed_key=null", "data.embed_key=X_state"),
}


@pytest.mark.parametrize(
    ("key", "why"), [(key, why) for key, _, why in RunConfig.NO_EFFECT], ids=[key for key, *_ in RunConfig.NO_EFFECT]
)
class TestNoEffect:
    def test_is_refused_on_the_command_line(self, key, why):
        value, without, _ = NO_EFFECT_CASES[key]

        message = rf"^command line: {key}: {re.escape(value)} would have no effect: {re.escape(why)}; leave it out$"
        with pytest.raises(UserError, match=message):
            load_config(None, [*WHOLE, without, f"{key}={value}"])

    def test_is_refused_in_the_run_file_even_if_the_command_line_has_to_complete_it(self, key, why, write):
        value, without, _ = NO_EFFECT_CASES[key]
        run = write(yaml(without, f"{key}={value}"))

        with pytest.raises(UserError, match=rf"^run.yaml: {key}: .* would have no effect: {re.escape(why)}; leave it out$"):
            load_config(run, [*WHOLE, "name=mine", "trainer.max_epochs=1"])

    def test_acts_otherwise(self, key, why):
        value, _, acting = NO_EFFECT_CASES[key]

        assert value_of(load_config(None, [*WHOLE, acting, f"{key}={value}"]), key) != FIELDS[key].default

    def test_may_lose_its_effect_by_the_command_line_and_then_has_its_default(self, key, why, write):
        value, without, acting = NO_EFFECT_CASES[key]
        run = write(RUN + yaml(acting, f"{key}={value}"))

        assert value_of(load_config(run), key) != FIELDS[key].default
        assert value_of(load_config(run, [without]), key) == FIELDS[key].default

    def test_may_stand_in_the_extended_file_that_others_share(self, key, why, write):
        value, without, acting = NO_EFFECT_CASES[key]
        write(yaml(f"{key}={value}"), "below.yaml")
        run = write(RUN + "extends: below.yaml\n")

        assert value_of(load_config(run, [acting]), key) != FIELDS[key].default
        assert load_config(run, [without]) == load_config(write(RUN), [without])


def test_a_run_file_that_the_command_line_has_to_mend_is_judged_as_mended(write):
    run = write(RUN + "seed: often\nobjective: {blur: 0.7}\n")

    assert load_config(run, ["seed=1", "objective.loss=sinkhorn"]).objective.blur == 0.7
    with pytest.raises(
        UserError, match=r"^run.yaml: objective.blur: 0.7 would have no effect: objective.loss has no Sinkhorn term"
    ):
        load_config(run, ["seed=1"])


CONTRADICTION_CASES = {
    "early_stopping.patience": (["early_stopping.patience=2", "data.validation=none"],
        "command line: early_stopping.patience: 2: data.validation is none"),
    "data.output_space": (["data.output_space=embedding"],
        "command line: data.output_space: embedding: embedding needs data.embed_key"),
    "data.control_matching": (["data.kwargs.basal_mapping_strategy=batch"],
        "command line: data.kwargs.basal_mapping_strategy (here data.control_matching): gem_group: needs data.gem_group_column"),
    "model.gem_group_embedding": (["model.gem_group_embedding=true"],
        "command line: model.gem_group_embedding: true: needs data.gem_group_column"),
    "model.head_dim": (["model.attention=causal_rope", "model.head_dim=7"],
        "command line: model.head_dim: 7: rotary positions need an even width"),
    "output_dir": (["output_dir=gs://bucket/runs"],
        "command line: output_dir: gs://bucket/runs: a folder of this machine is wanted"),
    "resume": (["resume=true", "overwrite=true"], "command line: resume: true: resume and overwrite exclude each other"),
}  # fmt: skip


@pytest.mark.parametrize("key", [key for key, *_ in RunConfig.CONTRADICTIONS])
def test_contradictions_are_refused_whoever_wrote_them(key):
    settings, message = CONTRADICTION_CASES[key]

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        load_config(None, [*WHOLE, *settings])
