import pytest
import torch
from tiny import FAMILIES, VOCABULARY, tiny_model

from unicuco_plugin.models.decoder import find_decoder
from unicuco_plugin.models.runner import BlockRunner

WINDOWS = torch.randint(3, VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(0))


def fingerprint_of(model):
    """Everything that running could change: weights, buffers, the modules' own attributes and hooks."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    places = {
        name: (sorted(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks), module.training)
        for name, module in model.named_modules()
    }
    return state | buffers, places, model.config.to_dict()


def assert_unchanged(model, before):
    tensors, places, config = before
    now = fingerprint_of(model)
    assert now[0].keys() == tensors.keys()
    assert all(torch.equal(now[0][name], value) for name, value in tensors.items())
    assert now[1:] == (places, config)


class BoomError(Exception):
    """Raised inside a block."""


@pytest.mark.parametrize("family", FAMILIES)
def test_embedding_then_every_block_then_the_head_is_the_models_own_forward(family):
    model = tiny_model(family)
    before = fingerprint_of(model)
    runner = BlockRunner(find_decoder(model), WINDOWS.shape[1])
    states = runner.embed(WINDOWS)
    for index in range(6):
        states = runner.run(index, states)
    with torch.inference_mode():
        expected = model(input_ids=WINDOWS, use_cache=False).logits
    torch.testing.assert_close(runner.logits(states), expected, rtol=1e-5, atol=1e-5)
    assert_unchanged(model, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_needs_no_neighbouring_positions(family):
    model = tiny_model(family)
    runner = BlockRunner(find_decoder(model), WINDOWS.shape[1])
    states = runner.embed(WINDOWS)
    parts = torch.cat([runner.logits(part) for part in states.split(5, dim=1)], dim=1)
    torch.testing.assert_close(parts, runner.logits(states), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("moment", ["record", "embed", "logits", "run"])
def test_an_exception_leaves_the_model_as_it_was(moment, monkeypatch):
    model = tiny_model("llama")
    decoder = find_decoder(model)
    broken = model.model.norm if moment in {"embed", "logits"} else decoder.blocks[2].mlp
    runner = None if moment == "record" else BlockRunner(decoder, WINDOWS.shape[1])
    states = None if runner is None else runner.embed(WINDOWS)
    before = fingerprint_of(model)

    def boom(*_, **__):
        raise BoomError

    with monkeypatch.context() as patch:
        patch.setattr(type(broken), "forward", boom)
        with pytest.raises(BoomError):
            match moment:
                case "record":
                    BlockRunner(decoder, WINDOWS.shape[1])
                case "embed":
                    runner.embed(WINDOWS)
                case "logits":
                    runner.logits(states)
                case _:
                    runner.run(2, states)
    assert_unchanged(model, before)


def test_a_forward_that_somebody_else_put_on_a_block_is_there_afterwards():
    model = tiny_model("llama")
    block = model.model.layers[3]
    own, calls = block.forward, []

    def counting(*args, **kwargs):
        calls.append(1)
        return own(*args, **kwargs)

    block.forward = counting
    runner = BlockRunner(find_decoder(model), WINDOWS.shape[1])
    states = runner.embed(WINDOWS)
    assert block.__dict__["forward"] is counting
    runner.run(3, states)
    assert len(calls) == 2  # once recorded, once run; never for the embedding
