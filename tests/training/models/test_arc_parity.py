"""Our forward pass against recorded outputs of arc-state 0.11.1; tests/tools/record_arc_parity.py makes the fixture."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from training.cells import Sizes
from training.config import StateTransitionConfig
from training.models.state_transition import StateTransition

FIXTURE = Path(__file__).parents[2] / "fixtures" / "arc_parity.safetensors"
TENSORS = load_file(FIXTURE)
with safe_open(FIXTURE, framework="pt") as file:
    CASES = {case["name"]: case for case in json.loads(file.metadata()["cases"])}


@pytest.mark.parametrize("perturbation", ["onehot", "features"])
@pytest.mark.parametrize("name", CASES)
def test_the_forward_pass_is_that_of_arc_state(name, perturbation):
    case = CASES[name]
    config = StateTransitionConfig.model_validate({key: value for key, value in case["config"].items() if key != "set_size"})
    sizes = Sizes(**case["sizes"])
    model = StateTransition(config, sizes, output_space=case["output_space"], input_is_genes=case["input_is_genes"]).eval()
    weights = model.state_dict()
    model.load_state_dict({key: TENSORS[f"weights/{key}/{tuple(tensor.shape)}"] for key, tensor in weights.items()})
    given = f"inputs/{sizes.input_dim}"
    with torch.inference_mode():
        found = model(TENSORS[f"{given}/control"], TENSORS[f"{given}/perturbation/{perturbation}"], TENSORS[f"{given}/gem_group"])
    torch.testing.assert_close(found.cells, TENSORS[f"{name}/{perturbation}/cells"], rtol=0, atol=1e-5)
    assert (found.genes is None) == (sizes.num_decoder_genes is None)
    if found.genes is not None:
        torch.testing.assert_close(found.genes, TENSORS[f"{name}/{perturbation}/genes"], rtol=0, atol=1e-5)


def test_the_recording_covers_what_users_of_arc_state_have():
    wanted = {
        (preset, output_space, attention)
        for preset in ("state", "state_sm", "tahoe_best")
        for output_space in ("gene", "all", "embedding")
        for attention in ("bidirectional", "causal_rope", "causal")
    }
    assert {(name.split("/")[0], case["output_space"], case["config"]["attention"]) for name, case in CASES.items()} == wanted
    assert {case["config"]["residual"] for case in CASES.values()} == {"state", "none"}
    assert {case["config"]["gem_group_embedding"] for case in CASES.values()} == {False, True}
    assert {case["input_is_genes"] for case in CASES.values()} == {False, True}
    assert {case["config"]["control_encoder"] for case in CASES.values()} == {"mlp", "linear"}
