import pytest
import torch

from training.models.transformer import Backbone, rotary, rotate

SETS, CELLS, WIDTH = 3, 6, 16


@pytest.fixture
def backbone(tiny_config, make_lively):
    def build(attention, **settings):
        torch.manual_seed(1)
        return make_lively(Backbone(tiny_config(attention=attention, **settings)))

    return build


@pytest.fixture
def cells():
    return torch.randn(SETS, CELLS, WIDTH)


@torch.inference_mode()
def test_bidirectional_attention_knows_no_order(backbone, cells):
    model, order = backbone("bidirectional"), torch.randperm(CELLS)
    torch.testing.assert_close(model(cells[:, order]), model(cells)[:, order], rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("attention", ["causal", "causal_rope"])
def test_causal_attention_does_not_look_ahead(backbone, cells, attention):
    model, changed = backbone(attention), cells.clone()
    changed[:, 3] += 1
    before, after = model(cells), model(changed)
    assert torch.equal(after[:, :3], before[:, :3])
    assert ((after - before)[:, 3:].abs().amax(dim=-1) > 1e-3).all()


@torch.inference_mode()
def test_bidirectional_attention_looks_everywhere(backbone, cells):
    model, changed = backbone("bidirectional"), cells.clone()
    changed[:, 3] += 1
    assert ((model(changed) - model(cells)).abs().amax(dim=-1) > 1e-3).all()


@torch.inference_mode()
def test_a_causal_layer_is_a_bidirectional_one_over_the_cells_so_far(backbone, cells):
    causal, bidirectional = backbone("causal", num_layers=1), backbone("bidirectional", num_layers=1)
    so_far = [bidirectional(cells[:, : i + 1])[:, i] for i in range(CELLS)]
    torch.testing.assert_close(causal(cells), torch.stack(so_far, dim=1), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_only_rotary_positions_order_the_past(backbone, cells):
    """In one causal layer the last cell sees the others as a bag, unless they are turned by their positions."""
    swapped = cells[:, [1, 0, 2, 3, 4, 5]]
    plain, rope = backbone("causal", num_layers=1), backbone("causal_rope", num_layers=1)
    torch.testing.assert_close(plain(swapped)[:, -1], plain(cells)[:, -1], rtol=0, atol=1e-5)
    assert ((rope(swapped) - rope(cells))[:, -1].abs().amax(dim=-1) > 1e-3).all()


def test_rotation_tells_distances_of_positions_alone():
    query, key = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64).expand(2, 1, 1, 20, 8)
    turned = rotary(20, 8, torch.device("cpu")).double()
    product = (rotate(query, turned) @ rotate(key, turned).transpose(-1, -2))[0, 0]
    for distance in range(-19, 20):
        diagonal = product.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-5)
    assert product[0].std() > 0.01
    torch.testing.assert_close(product[0, 0], (query[0, 0, 0] * key[0, 0, 0]).sum(), rtol=0, atol=1e-5)


def test_rotation_keeps_the_number_format():
    heads = torch.randn(1, 2, 3, 8, dtype=torch.bfloat16)
    assert rotate(heads, rotary(3, 8, heads.device)).dtype is torch.bfloat16


def test_the_slowest_and_the_fastest_pair_turn_as_published():
    cosine, sine = rotary(3, 8, torch.device("cpu"))
    angle = torch.tensor([[0.0] * 4, [1.0, 0.1, 0.01, 0.001], [2.0, 0.2, 0.02, 0.002]])
    torch.testing.assert_close(cosine, angle.cos().repeat(1, 2))
    torch.testing.assert_close(sine, angle.sin().repeat(1, 2))


def test_fresh_weights(tiny_config):
    model = Backbone(tiny_config(hidden_dim=256, intermediate_dim=512, num_heads=4, head_dim=64))
    for name, parameter in model.state_dict().items():
        if "norm" in name:
            assert torch.equal(parameter, torch.ones_like(parameter))
        else:
            assert parameter.mean().abs() < 1e-3
            assert float(parameter.std()) == pytest.approx(0.02, rel=0.02)


@torch.inference_mode()
def test_the_sum_over_layers_is_kept_in_the_precision_of_the_weights(backbone, cells):
    """Also no warning of mixed formats out of the norms."""
    model = backbone("causal_rope")
    with torch.autocast("cpu", torch.bfloat16):
        assert model(cells.bfloat16()).dtype is torch.float32
    assert model.double()(cells).dtype is torch.float64
