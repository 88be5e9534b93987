"""The head's states and logits are the same bits whether the model makes masks that nobody reads or not."""

from contextlib import nullcontext

import pytest
import torch
from tiny import tiny_model

from unicuco_plugin.models.blocks import runner as running
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.masks import without_masks
from unicuco_plugin.models.blocks.runner import BlockRunner


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3_moe", "bamba", "gpt_oss", "falcon_alibi", "bloom", "mpt"])
def test_nothing_else_is_different(family, monkeypatch):
    states = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    found = []
    for masks in (without_masks, lambda _: nullcontext()):
        monkeypatch.setattr(running, "without_masks", masks)
        runner = BlockRunner(find_decoder(tiny_model(family, blocks=4)), 16)
        found.append((runner.logits(states), runner.normed(states)))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_the_configuration_is_as_it_was_however_it_ends():
    config = tiny_model("llama").config
    before = config._attn_implementation
    with pytest.raises(KeyError), without_masks(config):
        assert config._attn_implementation != before
        raise KeyError
    assert config._attn_implementation == before
