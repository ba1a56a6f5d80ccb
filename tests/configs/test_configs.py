"""What stands in configs/: presets of the right size, runs that load, and the command that it all began with."""

import re
import shlex

import pytest
import torch
import yaml

from tests.tools.perturbation_run import load_config
from training.cells import Sizes
from training.config_loader import load_config as load_any
from training.config_schema import CONFIGS
from training.errors import UserError
from training.models.state_transition import StateTransition

PRESETS = sorted(path.stem for path in (CONFIGS / "models").glob("*.yaml"))
RUNS = sorted(path.stem for path in (CONFIGS / "runs").glob("*.yaml"))
WHOLE = ["data.split=split.toml", "data.control=control"]

# Verbatim from the guide of 2025-08-25.
SEED_COMMAND = r"""
    uv run state tx train \
     data.kwargs.toml_config_path="/home/<your-username>/prepare_instance/starter.toml" \
     data.kwargs.num_workers=4 \
     data.kwargs.embed_key="X_state" \
     data.kwargs.batch_col="batch_var" \
     data.kwargs.pert_col="target_gene" \
     data.kwargs.cell_type_key="cell_type" \
     data.kwargs.control_pert="non-targeting" \
     data.kwargs.perturbation_features_file="/home/<your-username>/SE600M_embedding/protein_embeddings.pt" \
     training.batch_size=24 \
     training.max_steps=40000 \
     +training.accumulate_grad_batches=8 \
     training.ckpt_every_n_steps=4000 \
     model=tahoe_sm \
     use_wandb=false \
     output_dir="/home/<your-username>/competition" \
     name="test"
"""


def seed_words():
    words = shlex.split(SEED_COMMAND.replace("\\\n", " "))
    return words[words.index("train") + 1 :]


# --- presets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_says_all_that_makes_its_shape_and_nothing_else(preset):
    values = yaml.safe_load((CONFIGS / "models" / f"{preset}.yaml").read_text())

    assert list(values) == ["set_size", "hidden_dim", "num_layers", "num_heads", "head_dim", "intermediate_dim", "attention",
        "encoder_layers", "output_layers", "control_encoder", "residual"]  # fmt: skip
    config = load_config(None, [*WHOLE, f"model={preset}"])
    assert config.data.set_size == values.pop("set_size")
    assert {key: getattr(config.model, key) for key in values} == values


def test_the_presets_in_the_readme_are_those_in_the_folder():
    rows = re.findall(
        r"^\| `(\w+)` \| (\d+) \| (\d+) \| (\d+) \| (\d+) x (\d+) \| (\d), (\d) \| ", (CONFIGS / "README.md").read_text(), re.M
    )
    listed = {name: tuple(map(int, numbers)) for name, *numbers in rows}

    assert sorted(listed) == PRESETS
    for preset, numbers in listed.items():
        config = load_config(None, [*WHOLE, f"model={preset}"])
        m = config.model
        sizes = (config.data.set_size, m.hidden_dim, m.num_layers, m.num_heads, m.head_dim, m.encoder_layers, m.output_layers)
        assert sizes == numbers


# Trainable parameters in millions of arc-state 0.11.1: an embedding of 2058 with all 18080 genes and features of 5120 (state_sm has
# no decoder there), 2000 highly variable genes with 1138 perturbations, and all 18080 genes with features of 5120. There the two
# runs on genes hold a gene decoder that nothing trains.
ARC_PARAMETERS = {
    "state": (96.63, 84.11, 218.34),
    "state_sm": (38.89, 35.08, 141.12),
    "state_lg": (253.64, 238.18, 398.43),
    "tahoe_212m": (253.64, 238.18, 398.43),
    "tahoe_best": (155.50, 140.23, 298.75),
    "tahoe_62m": (86.84, 74.62, 206.24),
}


@pytest.mark.parametrize("preset", ARC_PARAMETERS)
def test_a_preset_has_the_parameters_of_its_namesake(preset):
    config = load_config(None, [*WHOLE, f"model={preset}"]).model
    has_decoder = preset != "state_sm"

    def millions(n_inputs, n_features, n_genes, output_space):
        sizes = Sizes(n_inputs, n_features, n_genes if has_decoder else None, 0)
        with torch.device("meta"):
            model = StateTransition(config, sizes, output_space=output_space, input_is_genes=n_inputs != 2058)
        return sum(parameter.numel() for parameter in model.parameters()) / 1e6

    counted = millions(2058, 5120, 18080, "all"), millions(2000, 1138, 2000, "gene"), millions(18080, 5120, 18080, "all")
    assert counted == pytest.approx(ARC_PARAMETERS[preset], abs=0.006)


@pytest.mark.parametrize(("theirs", "ours"), [("tahoe_llama_62089464", "tahoe_62m"), ("tahoe_llama_212693232", "tahoe_212m")])
def test_their_names_of_presets_are_ours(theirs, ours):
    assert load_config(None, [*WHOLE, f"model={theirs}"]) == load_config(None, [*WHOLE, f"model={ours}"])


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", RUNS)
def test_a_run_file_needs_at_most_what_only_the_user_knows(run):
    path = CONFIGS / "runs" / f"{run}.yaml"
    if run == "base":
        with pytest.raises(UserError, match=r"base.yaml: name is missing"):
            load_config(path)
    elif run == "transition":
        with pytest.raises(UserError, match=r"data.split is missing: .*\n.*data.control is missing"):
            load_config(path)
        assert load_config(path, WHOLE) == load_config(None, WHOLE)
    else:
        assert load_any(path).name == run


def test_transition_has_the_settings_of_arc_state_0_11_1():
    defaults = """
        model=state data.kwargs.embed_key=null data.kwargs.output_space=all data.kwargs.basal_mapping_strategy=random
        data.kwargs.should_yield_control_cells=true data.kwargs.perturbation_features_file=null
        training.weight_decay=0.0005 training.batch_size=16 training.lr=1e-4 training.train_seed=42 training.val_freq=2000
        training.ckpt_every_n_steps=2000 training.gradient_clip_val=10 training.gradient_accumulation_steps=1
        model.kwargs.cell_set_len=512 model.kwargs.hidden_dim=768 model.kwargs.loss=energy model.kwargs.distributional_loss=energy
        model.kwargs.n_encoder_layers=1 model.kwargs.n_decoder_layers=1 model.kwargs.predict_residual=true
        model.kwargs.gene_decoder_bool=true
        model.kwargs.transformer_backbone_key=llama model.kwargs.transformer_backbone_kwargs.bidirectional_attention=true
        model.kwargs.transformer_backbone_kwargs.num_hidden_layers=8
        model.kwargs.transformer_backbone_kwargs.num_attention_heads=12
        model.kwargs.transformer_backbone_kwargs.head_dim=64
        model.kwargs.transformer_backbone_kwargs.intermediate_size=3072
    """

    config = load_config(None, [*WHOLE, *defaults.split()])

    assert config == load_config(None, WHOLE)
    assert config.trainer.max_steps == 40000


def test_the_seeds_command_is_a_run():
    config = load_config(None, seed_words())

    data, home = config.data, "/home/<your-username>"
    assert (config.name, config.output_dir, config.directory.name) == ("test", f"{home}/competition", "test")
    assert (data.split, data.num_workers, data.embed_key) == (f"{home}/prepare_instance/starter.toml", 4, "X_state")
    assert (data.gem_group_column, data.perturbation_column, data.cell_type_column) == ("batch_var", "target_gene", "cell_type")
    assert (data.control, data.output_space, data.batch_size) == ("non-targeting", "all", 24)
    assert data.perturbation_features_file == f"{home}/SE600M_embedding/protein_embeddings.pt"
    assert (config.trainer.max_steps, config.trainer.accumulate_micro_steps, config.checkpoints.every_steps) == (40000, 8, 4000)
    assert (config.data.set_size, config.model.hidden_dim, config.model.num_layers) == (256, 696, 4)
    assert config.data.has_gene_decoder


def test_the_seeds_run_file_is_the_seeds_command():
    replaced = {
        "data.kwargs.toml_config_path": "data/starter.toml",
        "data.kwargs.perturbation_features_file": "data/protein_embeddings.pt",
        "output_dir": "runs",
        "name": "seed_000",
    }
    words = [f"{key}={replaced.get(key, value)}" for key, _, value in (word.partition("=") for word in seed_words())]

    assert load_config(CONFIGS / "runs" / "seed_000.yaml") == load_config(None, words)


def test_the_seeds_run_file_lists_every_word_of_the_command():
    header = (CONFIGS / "runs" / "seed_000.yaml").read_text().partition("extends:")[0]

    assert [word for word in seed_words() if f" {word.partition('=')[0]}=" not in header] == []
