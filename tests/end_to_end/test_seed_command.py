"""The command that the project began with, pasted after `training fit`: it trains, and nothing in it is ignored."""

import json
import shlex
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch

# Verbatim from "A Guide to Training State Models on Google Cloud Platform", section 5, after `state tx train`.
COMMAND = r"""
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
PATHS = {
    "/home/<your-username>/prepare_instance/starter.toml": "starter.toml",
    "/home/<your-username>/SE600M_embedding/protein_embeddings.pt": "protein_embeddings.pt",
    "/home/<your-username>/competition": "competition",
}
# What a test cannot wait for: 40,000 steps of 49,152 cells.
SMALLER = {
    "training.max_steps=40000": "training.max_steps=2",
    "training.batch_size=24": "training.batch_size=2",
    "training.ckpt_every_n_steps=4000": "training.ckpt_every_n_steps=1",
}


def its_data():
    """The tiny screen under the names of the command."""
    cells = anndata.read_h5ad("cells.h5ad")
    cells.obs["perturbation"] = cells.obs["perturbation"].cat.rename_categories({"control": "non-targeting"})
    cells.obs = cells.obs.rename(columns={"perturbation": "target_gene", "gem_group": "batch_var"})
    cells.write_h5ad("cells.h5ad")
    Path("cells_split.toml").rename("starter.toml")
    features = np.load("cells_features.npz")
    torch.save({name: torch.from_numpy(features[name]) for name in features}, "protein_embeddings.pt")


@pytest.mark.slow
def test_it_trains(training, screen):
    its_data()
    words = shlex.split(COMMAND.replace("\\\n", " "))
    for old, new in (PATHS | SMALLER).items():
        assert sum(old in word for word in words) == 1
        words = [word.replace(old, new) for word in words]

    done = training("fit", *words, "model.kwargs.cell_set_len=16", "+training.log_every_n_steps=1")

    assert done.code == 0, done.err
    run = Path("competition/test")
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"] for line in steps} == {1, 2}
    config = (run / "config.yaml").read_text()
    for meant in (
        "accumulate_micro_steps: 8",
        "hidden_dim: 696",
        "embed_key: X_state",
        "gem_group_column: batch_var",
        "output_space: all",
    ):
        assert meant in config
    assert training("evaluate", run).code == 0


def test_bf16_trains_too(training, screen):
    its_data()
    words = [
        "data.split=starter.toml",
        "data.control=non-targeting",
        "data.perturbation_column=target_gene",
        "data.embed_key=X_state",
    ]
    small = [
        "model=state_sm",
        "model.hidden_dim=32",
        "model.num_layers=1",
        "model.num_heads=2",
        "model.head_dim=16",
        "data.set_size=16",
    ]
    settings = ["trainer.max_steps=2", "trainer.log_every_steps=1", "data.batch_size=2", "data.num_workers=0", "trainer.device=cpu"]
    losses = {}
    for precision in ("32", "bf16"):
        done = training("fit", *words, *small, *settings, f"trainer.precision={precision}", f"name=in_{precision}")
        assert done.code == 0, done.err
        lines = [json.loads(line) for line in Path(f"runs/in_{precision}/metrics.jsonl").read_text().splitlines()]
        losses[precision] = [line["train/loss_total"] for line in lines if "train/loss_total" in line]

    assert losses["32"] != losses["bf16"]
    np.testing.assert_allclose(losses["bf16"], losses["32"], rtol=0.02)
