"""Whole configurations of `state tx train`, as its run directories hold them, and those run directories themselves."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tools.perturbation_run import load_config
from training.arc_run import MARKS, is_arc_run
from training.checkpoints.run_directory import RunDirectory
from training.errors import UserError

# Written from the reference's tables of keys and defaults: what 0.11.1 resolves for `model=state` with an embedding.
DATA: dict[str, Any] = {
    "name": "PerturbationDataModule", "output_dir": None, "debug": True,
    "kwargs": {
        "toml_config_path": "split.toml", "embed_key": "X_state", "output_space": "all", "pert_rep": "onehot",
        "basal_rep": "sample", "num_workers": 12, "pin_memory": True, "n_basal_samples": 1, "downsample": None,
        "downsample_cells": None,
        "additional_obs": [], "basal_mapping_strategy": "random", "should_yield_control_cells": True, "batch_col": "gem_group",
        "pert_col": "gene", "cell_type_key": "cell_type", "control_pert": "DMSO_TF", "map_controls": True,
        "perturbation_features_file": None, "store_raw_basal": False, "int_counts": False, "barcode": True,
        "use_consecutive_loading": False, "val_subsample_fraction": 1.0,
    },
}  # fmt: skip
BACKBONE = {
    "bidirectional_attention": True, "max_position_embeddings": 512, "hidden_size": 768, "intermediate_size": 3072,
    "num_hidden_layers": 8, "num_attention_heads": 12, "num_key_value_heads": 12, "head_dim": 64, "use_cache": False,
    "attention_dropout": 0.0, "hidden_dropout": 0.0, "layer_norm_eps": 1e-6, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "tie_word_embeddings": False, "rotary_dim": 0, "use_rotary_embeddings": False,
}  # fmt: skip
LORA = {
    "enable": False, "r": 16, "alpha": 32, "dropout": 0.05, "bias": "none", "target": "auto", "adapt_mlp": False,
    "task_type": "FEATURE_EXTRACTION", "merge_on_eval": False,
}  # fmt: skip
MODEL: dict[str, Any] = {
    "name": "state", "checkpoint": None, "device": "cuda",
    "kwargs": {
        "cell_set_len": 512, "blur": 0.05, "hidden_dim": 768, "loss": "energy", "confidence_token": False, "n_encoder_layers": 1,
        "n_decoder_layers": 1, "predict_residual": True, "softplus": True, "freeze_pert_backbone": False,
        "transformer_decoder": False, "finetune_vci_decoder": False, "residual_decoder": False, "batch_encoder": False,
        "use_batch_token": False, "mask_attn": False, "use_effect_gating_token": False, "distributional_loss": "energy",
        "init_from": None, "mmd_num_chunks": 1, "randomize_mmd_chunks": False, "llm_name": None,
        "transformer_backbone_key": "llama", "transformer_backbone_kwargs": BACKBONE, "lora": LORA,
    },
}  # fmt: skip
TRAINING: dict[str, Any] = {
    "wandb_track": True, "weight_decay": 0.0005, "batch_size": 16, "lr": 0.0001, "max_steps": 400000, "train_seed": 42,
    "val_freq": 2000, "ckpt_every_n_steps": 2000, "gradient_clip_val": 10, "gradient_accumulation_steps": 1, "loss_fn": "mse",
    "devices": 1, "strategy": "auto", "use_mfu": False, "cumulative_flops_use_backward": True,
    "mfu_kwargs": {"available_flops": 6e13, "use_backward": True, "logging_interval": 10, "window_size": 2},
}  # fmt: skip
WANDB = {"entity": "your_entity_name", "project": "state", "local_wandb_dir": "./wandb_logs", "tags": []}
ROOT = {"name": "mine", "output_dir": "out", "use_wandb": True, "overwrite": False, "return_adatas": False,
        "pred_adata_path": None, "true_adata_path": None}  # fmt: skip
WHOLE: dict[str, Any] = {"data": DATA, "model": MODEL, "training": TRAINING, "wandb": WANDB, **ROOT}

# An earlier release: the preset `pertsets` with its GPT-2 turned into the Llama of a published run; other spellings, other keys.
OLD: dict[str, Any] = {
    "data": {"name": "PerturbationDataModule", "kwargs": {k: v for k, v in DATA["kwargs"].items() if "downsample" not in k}},
    "model": {
        "name": "PertSets", "checkpoint": None, "device": "cuda",
        "kwargs": {
            "cell_set_len": 256, "extra_tokens": 0, "decoder_hidden_dims": [1024, 1024, 512], "blur": 0.05, "hidden_dim": 672,
            "loss": "energy", "n_encoder_layers": 4, "n_decoder_layers": 4, "predict_residual": True, "freeze_pert": False,
            "finetune_vci_decoder": False, "residual_decoder": False, "batch_encoder": False, "nb_decoder": False,
            "decoder_loss_weight": 1.0, "use_basal_projection": False, "mask_attn": False, "distributional_loss": "energy",
            "gene_decoder_bool": False, "regularization": 0.0, "init_from": None, "transformer_backbone_key": "llama",
            "transformer_backbone_kwargs": {
                "max_position_embeddings": 256, "n_positions": 256, "hidden_size": 672, "n_embd": 672, "intermediate_size": 2688,
                "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 84, "resid_pdrop": 0.0,
            },
        },
    },
    "training": {k: v for k, v in TRAINING.items() if "flops" not in k and "mfu" not in k} | {"wandb_track": False},
    "wandb": WANDB, **ROOT, "use_wandb": False,
}  # fmt: skip


def without(content, keys):
    """The configuration with the lines of these keys taken out."""
    content = yaml.safe_load(yaml.safe_dump(content))
    for key in keys:
        *path, last = key.split(".")
        section = content
        for name in path:
            section = section[name]
        del section[last]
    return content


def refusals(path):
    with pytest.raises(UserError) as refusal:
        load_config(path)
    return str(refusal.value).splitlines()


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def written(content, name="config.yaml"):
        Path(name).write_text(yaml.safe_dump(content))
        return Path(name)

    return written


# What is refused of each, and no more: all of it was set by somebody, or would be missed.
REFUSED: dict[str, tuple[dict[str, Any], set[str]]] = {
    "of 0.11.1": (WHOLE, {
        "data.debug", "data.kwargs.barcode", "model.device", "model.kwargs.softplus", "training.wandb_track", "training.loss_fn",
        "training.cumulative_flops_use_backward", "use_wandb", *(f"wandb.{key}" for key in WANDB),
    }),
    "of an earlier release": (OLD, {
        "data.kwargs.barcode", "model.device", "model.kwargs.gene_decoder_bool", "training.loss_fn",
    }),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_one_message_names_every_key_and_without_them_the_configuration_is_taken(case, write):
    content, expected = REFUSED[case]

    lines = refusals(write(content))

    keys = [line.split(": ")[1] for line in lines]
    assert (set(keys), len(keys)) == (expected, len(expected))
    config = load_config(write(without(content, keys)))
    kwargs = content["model"]["kwargs"]
    assert (config.model.hidden_dim, config.data.set_size) == (kwargs["hidden_dim"], kwargs["cell_set_len"])
    assert (config.data.control, config.trainer.max_steps, config.optim.gradient_clip_norm) == ("DMSO_TF", 400000, 10)


def test_a_file_is_judged_by_what_it_says_itself_and_may_be_changed_from_above(write):
    content = without(WHOLE, REFUSED["of 0.11.1"][1])

    config = load_config(write(content), ["model.hidden_dim=32", "data.set_size=16"])
    assert (config.model.hidden_dim, config.data.set_size) == (32, 16)
    assert (
        load_config(write(content), ["model=state_sm"]).model
        == load_config(None, ["data.split=s", "data.control=c", "model=state_sm"]).model
    )

    content["model"]["kwargs"]["transformer_backbone_kwargs"]["hidden_size"] = 512
    assert refusals(write(content)) == [
        "config.yaml: model.kwargs.transformer_backbone_kwargs.hidden_size: 512: one width rules all; set model.hidden_dim "
        "(accepted: 768)"
    ]


def test_a_default_that_is_spelt_out_is_accepted_where_it_has_no_effect_and_another_value_is_not(write):
    content = without(WHOLE, REFUSED["of 0.11.1"][1])
    content["model"]["kwargs"]["blur"] = 0.1

    (line,) = refusals(write(content))

    assert line == (
        "config.yaml: model.kwargs.blur (here objective.blur): 0.1 would have no effect: objective.loss has no Sinkhorn term; "
        "leave it out"
    )


def test_its_run_directory_is_recognised_and_its_settings_are_trained_anew_as_the_message_says(write, tmp_path):
    run = tmp_path / "its run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").write_bytes(b"")
    write(without(WHOLE, REFUSED["of 0.11.1"][1]), "its run/config.yaml")

    for refused in (lambda: RunDirectory(run).config(), lambda: load_config(run)):
        with pytest.raises(
            UserError, match="is a run directory of `state tx train`, whose checkpoints nothing reads here"
        ) as refusal:
            refused()
        assert f"training fit '{run}/config.yaml' name=ANOTHER_NAME" in str(refusal.value)
    assert load_config(run / "config.yaml", ["name=ANOTHER_NAME"]).name == "ANOTHER_NAME"


@pytest.mark.parametrize("mark", MARKS)
def test_a_file_beside_the_configuration_tells_it_too(mark, tmp_path):
    (tmp_path / "config.yaml").write_text("name: mine\n")
    assert not is_arc_run(tmp_path)

    (tmp_path / mark).write_bytes(b"")
    assert is_arc_run(tmp_path)


@pytest.mark.parametrize("text", ["name: [", "- a", "data: 3", "data: {split: a.toml}", "\xff"])
def test_other_folders_are_none_of_its_run_directories(text, tmp_path):
    (tmp_path / "config.yaml").write_text(text, encoding="latin-1")

    assert not is_arc_run(tmp_path)
    assert not is_arc_run(tmp_path / "nowhere")
    assert not is_arc_run(tmp_path / ("a" * 300))
