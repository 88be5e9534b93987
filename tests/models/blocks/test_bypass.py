"""Bypassed blocks."""

import pytest
import torch
from compressed_tensors.offload import remove_dispatch, set_onload_device
from tiny import FAMILIES, tiny_model

from unicuco_plugin.errors import StrategyError
from unicuco_plugin.models.blocks.bypass import bypass_blocks, bypassed
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.surgery import dropped

IDS = torch.randint(4, 128, (2, 24), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model, **options):
    return model(input_ids=IDS, use_cache=False, **options).logits


@pytest.mark.parametrize("indices", [[0], [1, 4], [5], [0, 1, 2, 4, 5]], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_bypassed_logits_equal_dropped_logits(family, indices):
    model = tiny_model(family)
    dense = logits(model)
    with bypassed(find_decoder(model), indices):
        switched_off = logits(model)
    with dropped(model, indices):
        taken_out = logits(model)
    assert torch.equal(switched_off, taken_out)
    assert (switched_off - dense).abs().max() > 0.1
    assert torch.equal(logits(model), dense)


def test_blocks_are_restored_after_an_exception():
    model = tiny_model("llama")
    dense = logits(model)
    with pytest.raises(RuntimeError, match="boom"), bypassed(find_decoder(model), [1, 3]):
        raise RuntimeError("boom")
    assert torch.equal(logits(model), dense)
    assert not any("forward" in vars(block) for block in model.model.layers)


def test_undo_restores_another_tools_forward_and_may_be_called_twice():
    model = tiny_model("llama")
    other = model.model.layers[2].forward
    model.model.layers[2].forward = other
    undo = bypass_blocks(find_decoder(model), [2])
    assert model.model.layers[2].forward is not other
    undo()
    undo()
    assert model.model.layers[2].forward is other


def test_bypasses_nest():
    model = tiny_model("qwen3")
    decoder = find_decoder(model)
    with bypassed(decoder, [0]), bypassed(decoder, [3]):
        nested = logits(model)
    with bypassed(decoder, [0, 3]):
        assert torch.equal(logits(model), nested)


def test_blocks_that_return_tuples_are_bypassed_with_tuples():
    model = tiny_model("llama")
    decoder = find_decoder(model)
    block = type(decoder.blocks[0])

    class TupleBlock(block):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs), "weights"

    for one in decoder.blocks:
        one.__class__ = TupleBlock
    with bypassed(decoder, [1]):
        hidden = torch.ones(1, 2, 32)
        assert decoder.blocks[1](hidden_states=hidden) == (hidden, None)


def test_bypassing_nothing_runs_nothing():
    decoder = find_decoder(tiny_model("llama"))
    bypass_blocks(decoder, [])()


def test_indices_are_checked_first():
    with pytest.raises(StrategyError, match="block index must be an integer"):
        bypass_blocks(find_decoder(tiny_model("llama")), [9])


# How the toolkit's offloading may come and go around a bypass; each ends with the model as it was.
WALKS = {
    "offloaded meanwhile": ("bypass", "offload", "restore", "release"),
    "offloaded and released meanwhile": ("bypass", "offload", "release", "restore"),
    "offloaded all along": ("offload", "bypass", "restore", "release"),
    "released meanwhile": ("offload", "bypass", "release", "restore"),
}


@pytest.mark.parametrize("walk", WALKS.values(), ids=WALKS)
def test_no_removal_of_the_toolkits_offloading_brings_a_bypass_back(walk):
    model = tiny_model("llama")
    dense, decoder, undo = logits(model), find_decoder(model), []

    def restore():
        undo.pop()()

    with dropped(model, [1, 3]):
        taken_out = logits(model)
    steps = {
        "bypass": lambda: undo.append(bypass_blocks(decoder, [1, 3])),
        "offload": lambda: set_onload_device(model, "cpu"),
        "restore": restore,
        "release": lambda: remove_dispatch(model),
    }
    for step in walk:
        steps[step]()
        assert torch.equal(logits(model), taken_out if undo else dense), step
