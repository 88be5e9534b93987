"""Gradients by blocks, against backward passes of the whole model."""

import pytest
import torch
from compressed_tensors.offload.cache import DiskCache
from tiny import VOCABULARY, tiny_model
from torch.nn.functional import cross_entropy
from zoo.families import build

from unicuco_plugin.models.blocks import backward
from unicuco_plugin.models.blocks.backward import backpropagate, next_token_loss
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.models.tensors.gradients import gradients_inside
from unicuco_plugin.models.tensors.storage import kept_tensors

WINDOWS = torch.randint(3, VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(0))


def by_blocks(decoder, *, of_inputs=False, **options):
    """Inputs of all linears and gradients at them, one of each for each window."""
    found = {name: [] for name in decoder.all_linears()}

    def note(name, x, gradient):
        found[name].append((x, gradient.clone()))

    loss = next_token_loss(WINDOWS)
    backpropagate(
        BlockRunner(decoder, WINDOWS.shape[1]),
        WINDOWS,
        loss,
        decoder.all_linears(),
        note,
        of_inputs=of_inputs,
        **options,
    )
    return found


def whole(decoder, *, of_inputs=False):
    """The same from the whole model at once."""
    found = {name: [] for name in decoder.all_linears()}

    def watch(name, args, output):
        x = args[0].detach()
        (args[0] if of_inputs else output).register_hook(lambda gradient: found[name].append((x, gradient.clone())))

    hooks = [
        linear.register_forward_hook(lambda _, args, output, name=name: watch(name, args, output))
        for name, linear in decoder.all_linears().items()
    ]
    with gradients_inside(decoder.model):
        for window in WINDOWS:
            logits = decoder.model(input_ids=window[None], use_cache=False).logits[0, :-1].float()
            cross_entropy(logits, window[1:], reduction="sum").backward()
    for hook in hooks:
        hook.remove()
    return found


def same(one, other):
    rows = [(*here, *there) for name in one for here, there in zip(one[name], other[name], strict=True)]
    assert len(rows) == len(one) * len(WINDOWS)
    return all(torch.equal(x, there) and torch.equal(g, other) for x, g, there, other in rows)


@pytest.mark.parametrize("of_inputs", [False, True])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "bloom", "cohere2"])
def test_gradients_are_the_very_numbers_of_the_whole_model(family, of_inputs):
    decoder = find_decoder(tiny_model(family, blocks=3))
    assert same(by_blocks(decoder, of_inputs=of_inputs), whole(decoder, of_inputs=of_inputs))


def test_so_they_are_in_a_narrow_dtype(monkeypatch):
    decoder = find_decoder(tiny_model("llama", blocks=3).bfloat16())
    expected = whole(decoder)
    assert same(by_blocks(decoder), expected)
    monkeypatch.setattr(backward, "spare_memory", lambda _: 0)
    assert same(by_blocks(decoder), expected)


def test_one_block_is_in_memory_at_a_time(tmp_path, monkeypatch):
    tiny_model("llama", blocks=4).save_pretrained(tmp_path)
    expected = by_blocks(find_decoder(load_model(tmp_path)))
    decoder = find_decoder(load_model(tmp_path, offload="disk"))
    with kept_tensors():
        owner = {id(kept): index for index, block in enumerate(decoder.blocks) for kept in block.parameters()}
        weights = [id(block.mlp.down_proj.weight) for block in decoder.blocks]
    read, beside = [], set()
    onload = DiskCache.onload

    def noting(cache, offloaded):
        read.append(id(offloaded))
        beside.update(owner[id(held)] - owner[id(offloaded)] for held in DiskCache.keep_onloaded_values)
        return onload(cache, offloaded)

    monkeypatch.setattr(DiskCache, "onload", noting)
    assert same(by_blocks(decoder), expected)
    assert beside == {0}
    # The first look at a model, forwards, and backwards, for all windows.
    assert [owner[one] for one in read if one in weights] == [0, 1, 2, 3, 0, 1, 2, 3, 3, 2, 1, 0]


def test_states_that_are_changed_inside_reach_the_loss(tmp_path):
    decoder = find_decoder(tiny_model("llama", blocks=2))
    seen = []

    def loss(index, logits, dense):
        seen.append((index, logits.detach(), dense()))
        return logits.sum()

    class Halved:
        def __init__(self, index):
            self.weight = decoder.blocks[index].mlp.down_proj.weight

        def __enter__(self):
            self.weight.data /= 2

        def __exit__(self, *_):
            self.weight.data *= 2

    backpropagate(BlockRunner(decoder, WINDOWS.shape[1]), WINDOWS, loss, {}, print, inside=Halved)
    with torch.no_grad():
        dense = decoder.model(WINDOWS, use_cache=False).logits
        for block in decoder.blocks:
            block.mlp.down_proj.weight.data /= 2
        halved = decoder.model(WINDOWS, use_cache=False).logits
    assert [index for index, _, _ in seen] == [0, 1, 2]
    torch.testing.assert_close(torch.stack([found for _, found, _ in seen]), halved)
    torch.testing.assert_close(torch.stack([found for _, _, found in seen]), dense)


def test_the_model_is_left_as_it_was():
    decoder = find_decoder(tiny_model("llama", blocks=2))
    runner = BlockRunner(decoder, WINDOWS.shape[1])

    def fails(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        backpropagate(runner, WINDOWS, next_token_loss(WINDOWS), decoder.all_linears(), fails)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in decoder.model.parameters())
    assert not any(module._forward_hooks for module in decoder.model.modules())


def test_what_a_family_runs_without_gradients_has_none():
    decoder = find_decoder(build("deepseek_v32"))
    found = by_blocks(decoder)
    unseen = {name for name, calls in found.items() if not calls}
    assert unseen
    assert all("indexer" in name for name in unseen)
