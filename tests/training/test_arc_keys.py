"""Every row of the table, every key of the reference, and the ways in which a key may be typed."""

import re

import pytest
import yaml

from tests.tools.perturbation_run import load_config
from training import arc_keys
from training.arc_table import TABLE
from training.config import RunConfig
from training.config_schema import schema_of
from training.errors import UserError

SCHEMA = schema_of(RunConfig)
FIELDS = SCHEMA.fields
WHOLE = load_config(None, ["data.split=split.toml", "data.control=control"])
ROWS = {row.arc: row for row in TABLE}

# What `state tx train --help` of 0.11.1 prints, the keys that its code reads besides, those of its model presets and of earlier
# releases, and the `+` keys that people add.
KEYS = """
    name output_dir use_wandb overwrite return_adatas pred_adata_path true_adata_path
    data.name data.output_dir data.debug
    data.kwargs: toml_config_path embed_key output_space pert_rep basal_rep num_workers pin_memory n_basal_samples downsample
        downsample_cells additional_obs basal_mapping_strategy should_yield_control_cells batch_col pert_col cell_type_key
        control_pert map_controls perturbation_features_file store_raw_basal int_counts barcode use_consecutive_loading
        val_subsample_fraction drop_last is_log1p random_seed cache_perturbation_control_pairs exp_counts h5_open_kwargs.x
        persistent_workers prefetch_factor
    training: wandb_track weight_decay batch_size lr max_steps train_seed val_freq ckpt_every_n_steps gradient_clip_val
        gradient_accumulation_steps loss_fn devices strategy use_mfu mfu_kwargs.available_flops mfu_kwargs.use_backward
        mfu_kwargs.logging_interval mfu_kwargs.window_size cumulative_flops_use_backward log_every_n_steps precision
        accumulate_grad_batches warmup_ratio lr_scheduler min_lr_ratio lr_num_cycles log_lr
    wandb: entity project local_wandb_dir tags
    model.name model.checkpoint model.device model.cell_set_len
    model.kwargs: cell_set_len hidden_dim loss blur n_encoder_layers n_decoder_layers use_basal_projection gene_decoder_bool
        predict_residual distributional_loss init_from freeze_pert_backbone freeze_pert mmd_num_chunks randomize_mmd_chunks
        use_batch_token confidence_token llm_name decoder_loss_weight decoder_hidden_dims extra_tokens regularization
        decoder_weight detach_decoder decoder_dropout dropout activation batch_token_weight confidence_weight
        confidence_target_scale sinkhorn_weight energy_weight batch_encoder batch_predictor residual_decoder nb_decoder mask_attn
        finetune_vci_decoder softplus transformer_decoder use_effect_gating_token confidence_head transformer_backbone_key
        lora lora.enable lora.r lora.alpha lora.dropout lora.bias lora.target lora.adapt_mlp lora.task_type lora.merge_on_eval
    model.kwargs.transformer_backbone_kwargs: bidirectional_attention max_position_embeddings n_positions hidden_size
        intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim use_cache attention_dropout
        hidden_dropout layer_norm_eps pad_token_id bos_token_id eos_token_id tie_word_embeddings rotary_dim
        use_rotary_embeddings vocab_size n_embd n_layer n_head resid_pdrop embd_pdrop attn_pdrop
"""
CHOICES = """
    data=perturbation data=default training=default training=cpa training=scvi training=scgpt wandb=default
    model=tahoe_llama_62089464 model=tahoe_llama_212693232 model=pertsets model=neuralot model=old_neuralot model=pseudobulk
    model=embedsum model=decoder_only model=context_mean model=celltypemean model=perturb_mean model=globalsimplesum model=cpa
    model=scvi model=scgpt-chemical model=scgpt-genetic
""".split()


def reference_keys():
    section = ""
    for word in KEYS.split():
        if word.endswith(":"):
            section = word.removesuffix(":") + "."
        elif word.startswith(("data.", "model.")):
            section = ""
            yield word
        else:
            yield section + word


def translate(pairs):
    return arc_keys.translate(pairs, SCHEMA.has)


def ours(*pairs):
    """Our settings for theirs; none of them is refused."""
    translation = translate(pairs)
    assert translation.refusals == []
    return [(setting.key, setting.value) for setting in translation.settings]


def why_not(key, value):
    """The one line that refuses a setting."""
    translation = translate([(key, value)])
    assert (translation.settings, translation.claims) == ([], [])
    (line,) = translation.refusals
    return line


def outcome(key, value):
    """What becomes of a setting, whatever it was typed like."""
    translation = translate([(key, value)])
    settings = [(setting.key, setting.value) for setting in translation.settings]
    claims = [(claim.row, claim.value) for claim in translation.claims]
    return settings, claims, [line.removeprefix(key) for line in translation.refusals], translation.is_misread


def key_of(row):
    return row.arc.partition("=")[0].replace("*", "anything")


def test_the_table_has_every_key_and_every_preset_of_the_reference_once():
    keys = list(reference_keys())

    assert len(keys) > 150
    assert [key for key in keys if key not in ROWS and f"{key.rpartition('.')[0]}.*" not in ROWS] == []
    assert sorted(row.arc for row in TABLE if "=" in row.arc) == sorted(CHOICES)
    assert len(ROWS) == len(TABLE)


def test_each_row_says_what_becomes_of_every_value():
    assert [row for row in TABLE if not (row.ours or row.reason or row.holds) or (row.words and not row.ours)] == []


def test_rows_set_keys_of_ours_to_values_that_these_accept():
    for row in TABLE:
        if row.ours not in (None, "model"):
            section, _, name = row.ours.rpartition(".")
            part = getattr(WHOLE, section) if section else WHOLE
            for word in row.words.values():
                assert getattr(type(part).model_validate(dict(part) | {name: word}), name) == word


def test_reasons_send_people_to_keys_of_ours_that_exist():
    named = [word.partition("=")[0] for row in TABLE for word in re.findall(r"\w+\.[\w.=]+", row.reason)]
    named = [key for key in named if key.partition(".")[0] in SCHEMA.sections]

    assert len(named) > 20
    assert [key for key in named if key not in FIELDS] == []


# Their key and value, our key, and our value where it is another. Written from the reference, not from the table.
TRANSLATIONS = """
    name a name
    output_dir a output_dir
    overwrite true overwrite
    data.kwargs.toml_config_path a data.split
    data.kwargs.embed_key X_state data.embed_key
    data.kwargs.output_space gene data.output_space
    data.kwargs.num_workers 3 data.num_workers
    data.kwargs.batch_col a data.gem_group_column
    data.kwargs.pert_col a data.perturbation_column
    data.kwargs.cell_type_key a data.cell_type_column
    data.kwargs.control_pert a data.control
    data.kwargs.perturbation_features_file a data.perturbation_features_file
    data.kwargs.should_yield_control_cells false data.include_controls
    data.kwargs.basal_mapping_strategy random data.control_matching cell_type
    data.kwargs.basal_mapping_strategy batch data.control_matching gem_group
    data.kwargs.is_log1p false data.values counts
    data.kwargs.prefetch_factor 3 data.prefetch_batches
    training.batch_size 3 data.batch_size
    training.max_steps 3 trainer.max_steps
    training.train_seed 3 seed
    training.lr 3 optim.lr
    training.weight_decay 3 optim.weight_decay
    training.gradient_clip_val 3 optim.gradient_clip_norm
    training.gradient_clip_val null optim.gradient_clip_norm 0
    training.val_freq 3 trainer.val_every_steps
    training.ckpt_every_n_steps 3 checkpoints.every_steps
    training.log_every_n_steps 3 trainer.log_every_steps
    training.gradient_accumulation_steps 3 trainer.accumulate_micro_steps
    training.accumulate_grad_batches 3 trainer.accumulate_micro_steps
    training.precision 32 trainer.precision "32"
    training.precision bf16-mixed trainer.precision bf16
    training.lr_scheduler cosine optim.schedule
    training.warmup_ratio 0.3 optim.warmup_fraction
    training.min_lr_ratio 0.3 optim.min_lr_fraction
    model.cell_set_len 3 data.set_size
    model.kwargs.cell_set_len 3 data.set_size
    model.kwargs.hidden_dim 3 model.hidden_dim
    model.kwargs.n_encoder_layers 3 model.encoder_layers
    model.kwargs.n_decoder_layers 3 model.output_layers
    model.kwargs.use_basal_projection true model.control_encoder mlp
    model.kwargs.use_basal_projection false model.control_encoder linear
    model.kwargs.predict_residual true model.residual state
    model.kwargs.predict_residual false model.residual none
    model.kwargs.dropout 0.3 model.dropout
    model.kwargs.batch_encoder true model.gem_group_embedding
    model.kwargs.decoder_hidden_dims [3] model.decoder_hidden_dims
    model.kwargs.decoder_dropout 0.3 model.decoder_dropout
    model.kwargs.transformer_backbone_kwargs.bidirectional_attention true model.attention bidirectional
    model.kwargs.transformer_backbone_kwargs.bidirectional_attention false model.attention causal_rope
    model.kwargs.transformer_backbone_kwargs.num_hidden_layers 3 model.num_layers
    model.kwargs.transformer_backbone_kwargs.num_attention_heads 3 model.num_heads
    model.kwargs.transformer_backbone_kwargs.head_dim 3 model.head_dim
    model.kwargs.transformer_backbone_kwargs.intermediate_size 3 model.intermediate_dim
    model.kwargs.loss se objective.loss energy_sinkhorn
    model.kwargs.loss mse objective.loss
    model.kwargs.distributional_loss sinkhorn objective.loss
    model.kwargs.blur 3 objective.blur
    model.kwargs.sinkhorn_weight 3 objective.sinkhorn_weight
    model.kwargs.decoder_weight 3 objective.decoder_weight
    model.kwargs.detach_decoder true objective.detach_decoder
    model.kwargs.regularization 3 objective.shift_penalty
    model tahoe_llama_62089464 model tahoe_62m
    model tahoe_llama_212693232 model tahoe_212m
"""


def test_their_keys_mean_what_they_meant():
    lines = [line.split() for line in TRANSLATIONS.split("\n") if line.strip()]
    for key, value, our_key, *our_value in lines:
        assert ours((key, yaml.safe_load(value))) == [(our_key, yaml.safe_load((our_value or [value])[0]))]

    translated = {line[0] for line in lines}
    assert {row.arc.partition("=")[0] for row in TABLE if row.ours} == translated


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.arc)
def test_a_row_replaces_accepts_takes_or_refuses(row):
    for theirs, our_word in row.words.items():
        assert ours((key_of(row), theirs)) == [(row.ours, our_word)]
    for value in row.holds:
        assert ours((key_of(row), value)) == []
    for value in [row.arc.partition("=")[2]] if "=" in row.arc else ["quokka", 977, True, False, None, [5]]:
        if value in (*row.words, *row.holds):
            continue
        if row.same_as is not None:
            if value == row.same_as(WHOLE):
                continue
            (claim,) = translate([(key_of(row), value)]).claims
            assert re.match(f"{re.escape(key_of(row))}: .*{re.escape(row.reason)} .accepted: ", claim.refusal(WHOLE))
        elif row.reason:
            assert re.match(f"{re.escape(key_of(row))}: .*{re.escape(row.reason)}", why_not(key_of(row), value))
        else:
            assert ours((key_of(row), value)) == [(row.ours, value)]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.arc)
def test_a_row_is_found_with_plus_signs_and_without_its_prefix(row):
    key, values = key_of(row), [row.arc.partition("=")[2] or "quokka", True, None]
    section, _, last = key.partition(".kwargs.")
    short = [f"{section}.{last}", last] if last else []
    for typed in (f"+{key}", f"++{key}", *short):
        assert [outcome(typed, value) for value in values] == [outcome(key, value) for value in values]


def test_our_own_keys_pass_unchanged():
    for key in FIELDS:
        for value in ("quokka", 3, True, None):
            assert ours((key, value)) == [(key, value)]


def test_what_is_nobodys_key_is_left_to_the_schema():
    assert ours(("optim.leraning_rate", 3), ("model", "state"), ("model.preset", "state_sm"), ("extra", {})) == [
        ("optim.leraning_rate", 3),
        ("model", "state"),
        ("model.preset", "state_sm"),
        ("extra", {}),
    ]


def test_a_preset_with_changes_is_translated_too():
    assert ours(("model.preset", "tahoe_llama_62089464")) == [("model", "tahoe_62m")]


def test_a_setting_remembers_how_it_was_typed():
    assert [setting.typed for setting in translate([("+training.lr", 1), ("pert_col", "x"), ("seed", 1)]).settings] == [
        "+training.lr",
        "pert_col",
        "seed",
    ]


def test_true_is_not_1():
    assert ours(("training.devices", 1)) == []
    assert why_not("training.devices", True).startswith("training.devices: true: this version trains on one device")


@pytest.mark.parametrize(
    ("loss", "distributional", "expected"),
    [
        ("energy", "energy", "energy"),
        ("energy", "sinkhorn", "sinkhorn"),
        (None, "sinkhorn", "sinkhorn"),
        ("sinkhorn", None, "sinkhorn"),
        ("mse", None, "mse"),
        ("se", None, "energy_sinkhorn"),
    ],
)
def test_two_words_for_the_loss_become_one(loss, distributional, expected):
    pairs = [("model.kwargs.loss", loss), ("model.kwargs.distributional_loss", distributional)]
    given = [pair for pair in pairs if pair[1] is not None]

    assert ours(*given) == ours(*reversed(given)) == [("objective.loss", expected)]


@pytest.mark.parametrize("loss", ["mse", "sinkhorn", "se"])
def test_a_distributional_loss_that_nothing_asks_is_refused(loss):
    translation = translate([("model.loss", loss), ("model.distributional_loss", "energy")])

    why = f"model.loss: {loss}: only the loss energy asks distributional_loss; leave distributional_loss out"
    assert translation.refusals == [why]
    assert ours(("model.loss", loss)) != []


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("training.max_stps", "did you mean training.max_steps .here trainer.max_steps."),
        ("+data.kwargs.pert_column", "did you mean data.kwargs.pert_col .here data.perturbation_column."),
        ("training.decoder_weight", "did you mean model.kwargs.decoder_weight .here objective.decoder_weight."),
        ("model.kwargs.freeze_backbone", "did you mean model.kwargs.freeze_pert_backbone.$"),
        ("training.xyz", r"\(accepted: training.batch_size, training.max_steps, .*training.min_lr_ratio\)$"),
    ],
)
def test_an_unknown_key_of_theirs_is_refused_with_the_nearest(key, message):
    said = rf"{key.replace('+', '[+]')}: no key of `state tx train`, nor one of ours \(value 7\).*{message}"
    assert re.match(said, why_not(key, 7))


@pytest.mark.parametrize("key", ["~training.lr", "~seed"])
def test_deleting_a_key_is_refused(key):
    assert why_not(key, None) == f"{key}: settings are not deleted here; leave it out, or set it to what you want"


def test_a_refusal_shows_key_value_reason_and_what_is_accepted():
    assert re.match(
        r"\+training.precision: 16-mixed: fp16 overflows.*bf16.* \(accepted: 32, 32-true, bf16, bf16-mixed\)$",
        why_not("+training.precision", "16-mixed"),
    )
    assert why_not("training.strategy", "ddp") == (
        "training.strategy: ddp: this version trains on one device; leave it out (accepted: auto)"
    )
    assert re.match(
        r"use_wandb: true: this version has no tracker; .*TensorBoard.* \(accepted: false\)$", why_not("use_wandb", True)
    )


def test_every_refused_key_gets_its_line():
    translation = translate([("use_wandb", True), ("training.lr", 1), ("training.max_stps", 7), ("training.strategy", "ddp")])

    assert [line.partition(":")[0] for line in translation.refusals] == ["use_wandb", "training.max_stps", "training.strategy"]
    assert translation.is_misread, "training.max_stps was meant to say something"
    assert not translate([("use_wandb", True)]).is_misread


def test_what_is_switched_off_says_nothing():
    rank = ("model.kwargs.lora.r", 16)

    assert ours(rank, ("model.kwargs.lora.enable", False)) == []
    assert why_not(*rank).startswith("model.kwargs.lora.r: 16: this version does not fine-tune")
    assert len(translate([rank, ("model.kwargs.lora.enable", True)]).refusals) == 2
    switches = {row.unless for row in TABLE if row.unless}
    assert switches <= ROWS.keys()
    assert all(False in ROWS[switch].holds for switch in switches)


@pytest.mark.parametrize("section", ["wandb", "training", "model.kwargs", "model.kwargs.lora", "data"])
@pytest.mark.parametrize("value", [None, {}])
def test_a_section_of_theirs_without_keys_says_nothing(section, value):
    assert ours((section, value)) == []


# Key there, settings of ours, the value that only says what the run has anyway, and one that does not.
CLAIMS = {
    "model.kwargs.transformer_backbone_kwargs.hidden_size": ("model.hidden_dim=24", 24, 768),
    "model.kwargs.transformer_backbone_kwargs.num_key_value_heads": ("model.num_heads=3", 3, 12),
    "model.kwargs.transformer_backbone_kwargs.max_position_embeddings": ("data.set_size=7", 7, 512),
    "model.kwargs.transformer_backbone_kwargs.n_positions": ("data.set_size=7", 7, 512),
    "model.kwargs.transformer_backbone_kwargs.n_embd": ("model.hidden_dim=24", 24, 768),
    "model.kwargs.transformer_backbone_kwargs.n_layer": ("model.num_layers=3", 3, 8),
    "model.kwargs.transformer_backbone_kwargs.n_head": ("model.num_heads=3", 3, 12),
    "model.kwargs.gene_decoder_bool": ("data.embed_key=null", False, None),
    "model.kwargs.decoder_loss_weight": ("data={embed_key: X_state} objective.decoder_weight=0.1", 0.1, 1.0),
    "model.device": ("trainer.device=gpu", "cuda", "cpu"),
    "data.kwargs.pert_rep": ("data.perturbation_features_file=f.pt", "features", "onehot"),
    "data.kwargs.random_seed": ("seed=5", 5, 42),
    "training.loss_fn": ("objective.loss=mse", "mse", "energy"),
}


@pytest.mark.parametrize("key", [row.arc for row in TABLE if row.same_as])
def test_a_value_that_the_run_has_anyway_is_accepted_and_no_other(key):
    settings, true, false = CLAIMS[key]
    words = ["data.split=s.toml", "data.control=c", "training.lr=0.1", *re.split(r" (?=\w+\.)", settings)]

    assert load_config(None, [*words, f"{key}={true}".lower()]) == load_config(None, words)
    with pytest.raises(
        UserError, match=rf"^command line: {key}: .*{re.escape(ROWS[key].reason)} \(accepted: {str(true).lower()}\)$"
    ):
        load_config(None, [*words, f"{key}={'null' if false is None else false}"])
