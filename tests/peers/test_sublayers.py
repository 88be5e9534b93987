"""Sub-layers that add nothing, against output projections that are zero and blocks that are bypassed."""

import pytest
import torch
from tiny import tiny_model

from unicuco_plugin.errors import RequestError
from unicuco_plugin.models.decoder import find_decoder
from unicuco_plugin.objectives.comparison import compare_models
from unicuco_plugin.objectives.evaluator import BlockEvaluator
from unicuco_plugin.peers.sublayers import SublayerEvaluator, sublayer_names


def test_names_are_those_of_the_two_halves(decoder):
    attentions, mlps = sublayer_names(decoder)
    assert attentions[2] == "model.layers.2.self_attn"
    assert mlps[0] == "model.layers.0.mlp"


def test_a_family_without_such_modules_is_refused():
    with pytest.raises(RequestError, match=r"^space sublayer needs each mlp as one module"):
        sublayer_names(find_decoder(tiny_model("opt", blocks=2)))


@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3"])
def test_a_removed_half_is_as_good_as_a_zero_output_projection(family, windows):
    decoder = find_decoder(tiny_model(family, blocks=3))
    [found] = SublayerEvaluator(decoder, windows, batch_windows=4).divergences([(0, 1, 0, 1, 0, 0)])
    zeroed = tiny_model(family, blocks=3)
    zeroed.model.layers[1].self_attn.o_proj.weight.data.zero_()
    zeroed.model.layers[0].mlp.down_proj.weight.data.zero_()
    assert found == pytest.approx(compare_models(decoder.model, zeroed, windows).divergence.mean, rel=1e-4)


def test_both_halves_are_the_block_and_nothing_removed_is_zero(decoder, windows):
    found = SublayerEvaluator(decoder, windows).divergences([(0, 1, 0, 0) * 2, (0,) * 8])
    [block] = BlockEvaluator(decoder, windows).evaluate([[1]])
    assert found == pytest.approx([block.value, 0.0], rel=1e-5)
    assert not any(module._forward_hooks for module in decoder.model.modules())


def test_the_model_is_left_alone_when_it_breaks(decoder, windows):
    evaluator = SublayerEvaluator(decoder, windows)
    with pytest.raises(ValueError, match="zip"):
        evaluator.divergences([(1,)])
    assert not any(module._forward_hooks for module in decoder.model.modules())
    assert torch.isfinite(decoder.model(input_ids=windows[:1]).logits).all()
