"""Compares our transition model with arc-state 0.11.1 and records what the parity test needs to live without it.

arc-state (CC BY-NC-SA) is no dependency of this project; it is installed aside and only called. Its own weights are not used: both
models get the same random ones. From the root of the repository:

    python3 -m venv ../arc && ../arc/bin/pip install arc-state==0.11.1
    PYTHONPATH=. ../arc/bin/python tests/tools/record_arc_parity.py            # tiny models; rewrites the fixture
    PYTHONPATH=. ../arc/bin/python tests/tools/record_arc_parity.py --full     # two presets at full size; only prints

How Arc's switches become ours: `n_encoder_layers` and `n_decoder_layers` are `encoder_layers` and `output_layers`;
`use_basal_projection: false` is `control_encoder: linear`; `batch_encoder` is `gem_group_embedding`; `predict_residual` true or
false is `residual` state or none; `bidirectional_attention: true` is `attention: bidirectional`, the key false or absent is
`causal_rope`. `causal` without positions is what Arc's releases up to 0.9.27 did with transformers 4.53 to 4.57; here their
rotary angles are set to 0. Arc clamps its output at 0 where the input is genes and where it has no gene decoder
(`output_activation: relu` does the same).
"""

import argparse
import contextlib
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from training.cells import Sizes
from training.config import StateTransitionConfig
from training.models.state_transition import OutputSpace, Prediction, StateTransition

FIXTURE = Path(__file__).parents[1] / "fixtures" / "arc_parity.safetensors"
TOLERANCE = 1e-5

FULL = {
    "state": StateTransitionConfig(),
    "state_sm": StateTransitionConfig(
        hidden_dim=672, num_layers=4, num_heads=8, head_dim=84, intermediate_dim=2688,
        encoder_layers=4, output_layers=4, control_encoder="linear",
    ),
    "tahoe_best": StateTransitionConfig(
        hidden_dim=1440, num_layers=4, head_dim=120, intermediate_dim=4416, encoder_layers=4, output_layers=4
    ),
}  # fmt: skip
TINY_WIDTHS = {
    "hidden_dim": 12, "num_layers": 2, "num_heads": 2, "head_dim": 8, "intermediate_dim": 20,
    "decoder_hidden_dims": (10, 10, 6),
}  # fmt: skip
WITHOUT_GENE_DECODER = {"state_sm"}


@dataclass(frozen=True)
class Case:
    """One model in one use."""

    preset: str
    config: StateTransitionConfig
    sizes: Sizes
    output_space: OutputSpace
    input_is_genes: bool
    set_size: int = 4

    @property
    def name(self) -> str:
        used = [self.preset, "genes" if self.input_is_genes else "embedding", self.output_space, self.config.attention]
        return "/".join(used + ["gem_group"] * self.config.gem_group_embedding + ["plain"] * (self.config.residual == "none"))

    def build(self) -> StateTransition:
        model = StateTransition(self.config, self.sizes, output_space=self.output_space, input_is_genes=self.input_is_genes)
        return randomise(model).eval()


def cases(presets: dict[str, StateTransitionConfig], sizes: Sizes, *, num_hvg: int, num_genes: int) -> Iterator[Case]:
    """Every preset in each mode of attention and with each kind of output; `sizes` are those of an embedding alone."""
    for preset, config in presets.items():
        for attention in ("bidirectional", "causal_rope", "causal"):
            with_mode = config.model_copy(update={"attention": attention})
            clamped = with_mode.model_copy(update={"output_activation": "relu"})
            if preset in WITHOUT_GENE_DECODER:
                yield Case(preset, clamped, sizes, "all", False)
                yield Case(preset, clamped, sizes, "gene", False)
            else:
                yield Case(preset, with_mode, replace(sizes, num_decoder_genes=num_genes), "all", False)
                yield Case(preset, with_mode, replace(sizes, num_decoder_genes=num_hvg), "gene", False)
            yield Case(preset, clamped, sizes, "embedding", False)
            yield Case(preset, with_mode, replace(sizes, input_dim=num_hvg), "gene", True)
            yield Case(preset, with_mode, replace(sizes, input_dim=num_genes), "all", True)


def randomise(model: StateTransition) -> StateTransition:
    """Weights of a size at which every part of the model matters, a function of the parameter's name and shape."""
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {tuple(parameter.shape)}".encode()))
        noise = torch.randn(parameter.shape, generator=generator)
        is_norm = parameter.ndim == 1 and name.endswith("weight")
        parameter.data = noise * parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.2 * noise + float(is_norm)
    return model


def arc_name(name: str, config: StateTransitionConfig) -> str:
    """Arc's name of one of our parameters."""
    if config.control_encoder == "linear":
        name = re.sub(r"^control_encoder\.0\.", "basal_encoder.", name)
    for ours, arc in (
        (r"^control_encoder\.", "basal_encoder."),
        (r"^perturbation_encoder\.", "pert_encoder."),
        (r"^gem_group_embedding\.", "batch_encoder."),
        (r"^backbone\.", "transformer_backbone."),
        (r"\.attention\.", ".self_attn."),
        (r"\.attention_norm\.", ".input_layernorm."),
        (r"\.mlp_norm\.", ".post_attention_layernorm."),
        (r"^bottleneck\.", "final_down_then_up."),
        (r"^gene_decoder\.", "gene_decoder.decoder."),
    ):
        name = re.sub(ours, arc, name)
    return name


def build_arc(case: Case) -> Any:
    """Arc's model as its command line builds it for the case."""
    from state.tx.models.state_transition import StateTransitionPerturbationModel  # type: ignore[import-not-found]

    config, sizes = case.config, case.sizes
    backbone = {
        "max_position_embeddings": case.set_size, "n_positions": case.set_size, "hidden_size": config.hidden_dim,
        "intermediate_size": config.intermediate_dim, "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads, "num_key_value_heads": config.num_heads, "head_dim": config.head_dim,
        "use_cache": False, "attention_dropout": 0.0, "hidden_dropout": 0.0,
    }  # fmt: skip
    if config.attention == "bidirectional":
        backbone["bidirectional_attention"] = True
    num_genes = sizes.num_decoder_genes or sizes.input_dim
    decoder = {
        "latent_dim": sizes.input_dim, "gene_dim": num_genes, "hidden_dims": list(config.decoder_hidden_dims),
        "dropout": config.decoder_dropout, "residual_decoder": False,
    }  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):  # the constructor prints the model
        arc = StateTransitionPerturbationModel(
            input_dim=sizes.input_dim, hidden_dim=config.hidden_dim, output_dim=sizes.input_dim, pert_dim=sizes.perturbation_dim,
            batch_dim=sizes.num_gem_groups, batch_encoder=config.gem_group_embedding,
            predict_residual=config.residual == "state", output_space=case.output_space,
            embed_key=("X_hvg" if case.output_space == "gene" else None) if case.input_is_genes else "X_state",
            gene_decoder_bool=case.preset not in WITHOUT_GENE_DECODER,
            decoder_cfg=None if case.output_space == "embedding" else decoder, gene_dim=num_genes, hvg_dim=num_genes,
            cell_set_len=case.set_size, n_encoder_layers=config.encoder_layers, n_decoder_layers=config.output_layers,
            use_basal_projection=config.control_encoder == "mlp",
            transformer_backbone_key="llama", transformer_backbone_kwargs=backbone,
        )  # fmt: skip
    if config.attention == "causal":
        arc.transformer_backbone.rotary_emb = NoRotation(config.head_dim)
    return arc.eval()


class NoRotation(nn.Module):
    """Rotary angles of 0."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, x.shape[1], self.head_dim)
        return torch.ones(shape), torch.zeros(shape)


def copy_weights(ours: StateTransition, arc: Any, case: Case) -> None:
    """Ours into Arc's; what only Arc has must be what it never uses."""
    weights = {arc_name(name, case.config): tensor for name, tensor in ours.state_dict().items()}
    result = arc.load_state_dict(weights, strict=False)
    assert not result.unexpected_keys, result.unexpected_keys
    dead = ["transformer_backbone.embed_tokens."]
    dead += ["gene_decoder."] * case.input_is_genes + ["final_down_then_up."] * (case.config.residual == "none")
    left = [name for name in result.missing_keys if not name.startswith(tuple(dead))]
    assert not left, left


@torch.inference_mode()
def arc_prediction(arc: Any, case: Case, control: Tensor, perturbation: Tensor, gem_group: Tensor) -> Prediction:
    """What Arc's model says of the same sets."""
    size = control.shape[1]
    batch = {
        "ctrl_cell_emb": control.flatten(0, 1),
        "pert_emb": perturbation.repeat_interleave(size, dim=0),
        "batch": gem_group.flatten(),
    }
    cells = arc.forward(batch).unflatten(0, (-1, size))
    return Prediction(cells, None if case.sizes.num_decoder_genes is None else arc.gene_decoder(cells))


def difference(ours: Prediction, arc: Prediction) -> float:
    """Largest absolute difference."""
    pairs = [(ours.cells, arc.cells)]
    if ours.genes is not None and arc.genes is not None:
        pairs.append((ours.genes, arc.genes))
    return max(float((a - b).abs().max()) for a, b in pairs)


def inputs(case: Case) -> dict[str, Tensor]:
    """Two sets: control cells, GEM groups, and one-hot and feature vectors of two perturbations."""
    generator = torch.Generator().manual_seed(1)
    width, set_size = case.sizes.perturbation_dim, case.set_size
    return {
        "control": torch.randn(2, set_size, case.sizes.input_dim, generator=generator),
        "gem_group": torch.randint(case.sizes.num_gem_groups, (2, set_size), generator=generator),
        "perturbation/onehot": torch.eye(width)[[0, width - 1]],
        "perturbation/features": torch.randn(2, width, generator=generator),
    }


def compare(case: Case, kinds: tuple[str, ...]) -> dict[str, Tensor]:
    """Print the difference for each kind of perturbation; returns Arc's outputs by name."""
    ours = case.build()
    arc = build_arc(case)
    copy_weights(ours, arc, case)
    given = inputs(case)
    recorded = {}
    for kind in kinds:
        sets = given["control"], given[f"perturbation/{kind}"], given["gem_group"]
        expected = arc_prediction(arc, case, *sets)
        with torch.inference_mode():
            found = ours(*sets)
        error = difference(found, expected)
        positive = float((expected.cells > 0).float().mean())
        scale = float(expected.cells.abs().max())
        print(
            f"{case.name:55s} {kind:9s} max abs error {error:.1e}  largest output {scale:.2f}, {positive:.0%} positive", flush=True
        )
        assert error <= TOLERANCE, case.name
        recorded[f"{case.name}/{kind}/cells"] = expected.cells
        if expected.genes is not None:
            recorded[f"{case.name}/{kind}/genes"] = expected.genes
    return recorded


def record_tiny() -> None:
    """Compare tiny models of the presets' structure and write the fixture."""
    presets = {name: config.model_copy(update=TINY_WIDTHS) for name, config in FULL.items()}
    sizes = Sizes(input_dim=16, perturbation_dim=5, num_decoder_genes=None, num_gem_groups=3)
    chosen = list(cases(presets, sizes, num_hvg=11, num_genes=18))
    for preset, config in presets.items():  # the two switches that no preset has on
        extra = {"gem_group_embedding": True, "residual": "none"}
        clamped = config.model_copy(update=extra | {"output_activation": "relu"})
        chosen.append(Case(preset, clamped, sizes, "embedding", False))
    tensors: dict[str, Tensor] = {}
    for case in chosen:
        tensors |= compare(case, ("onehot", "features"))
        tensors |= {f"weights/{name}/{tuple(tensor.shape)}": tensor for name, tensor in case.build().state_dict().items()}
        tensors |= {f"inputs/{case.sizes.input_dim}/{name}": tensor for name, tensor in inputs(case).items()}
    described = [
        {
            "name": case.name,
            "config": case.config.model_dump(mode="json"),
            "sizes": asdict(case.sizes),
            "output_space": case.output_space,
            "input_is_genes": case.input_is_genes,
        }
        for case in chosen
    ]
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, FIXTURE, metadata={"cases": json.dumps(described)})
    print(f"{FIXTURE}: {len(chosen)} cases, {FIXTURE.stat().st_size / 1000:.0f} kB")


def compare_full() -> None:
    """Compare the presets as they are, with the widths of SE-600M embeddings and ESM2 features."""
    for kind, width in (("onehot", 1138), ("features", 5120)):
        sizes = Sizes(input_dim=2058, perturbation_dim=width, num_decoder_genes=None, num_gem_groups=1)
        for case in cases({name: FULL[name] for name in ("state_sm", "tahoe_best")}, sizes, num_hvg=2000, num_genes=18080):
            compare(replace(case, set_size=512), (kind,))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="two presets at full size")
    compare_full() if parser.parse_args().full else record_tiny()
