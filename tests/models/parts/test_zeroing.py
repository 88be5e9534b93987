"""Parts zeroed in their full shape: the masked model, for stock tools."""

import pytest
import torch
from structured_parts import FAMILIES, A, draw, masked_logits, mixed_parts
from tiny import tiny_model
from transformers import AutoModelForCausalLM

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.parts.formats import apply_parts
from unicuco_plugin.models.parts.kept_parts import KeptParts

IDS = torch.randint(4, 128, (2, 24), generator=torch.Generator().manual_seed(1))
# Whose configuration can be told of biases on attentions, and on MLPs.
ROOM = {"llama": (True, True), "smollm3": (True, True), "granite": (True, True)}
HALF_ROOM = ["qwen3", "gemma2", "gemma3"]


@torch.no_grad()
def check(family, parts, tmp_path):
    model = tiny_model(family)
    expected, before = masked_logits(find_decoder(model), parts, IDS), model.num_parameters()
    fields = apply_parts(model, parts, format="stock")
    torch.testing.assert_close(model(IDS).logits, expected, rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is type(tiny_model(family))
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    assert model.num_parameters() >= before
    return fields


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_classes_give_the_masked_model_also_behind_norms(family, tmp_path):
    assert check(family, mixed_parts(biases=False), tmp_path) == frozenset()


@pytest.mark.parametrize("family", ROOM)
def test_biases_are_told_to_families_that_have_room(family, tmp_path):
    assert check(family, mixed_parts(biases=True), tmp_path) == {"attention_bias", "mlp_bias"}


@pytest.mark.parametrize("family", HALF_ROOM)
def test_room_in_attentions_alone_is_used_alone(family, tmp_path):
    parts = KeptParts(mixed_parts(biases=False).kept, {A.format(1): draw(32, 0)})
    assert check(family, parts, tmp_path) == {"attention_bias"}


@pytest.mark.parametrize("family", ["mistral", "qwen2", *HALF_ROOM])
@torch.no_grad()
def test_families_without_room_are_refused_and_left_alone(family):
    model = tiny_model(family)
    before = model(IDS).logits
    with pytest.raises(UnsupportedModelError, match="stock tools would read a bias for: take --format compact"):
        apply_parts(model, mixed_parts(biases=True), format="stock")
    assert torch.equal(model(IDS).logits, before)


@torch.no_grad()
def test_every_weight_that_leaves_the_compact_model_is_zero_in_the_stock_one():
    stock, compact = tiny_model("llama"), tiny_model("llama")
    parts = mixed_parts(biases=False)
    apply_parts(stock, parts, format="stock")
    apply_parts(compact, parts)
    zeros = sum(int((p == 0).sum()) for name, p in stock.named_parameters() if "embed" not in name)
    norms = 2 * 32  # of the block that goes whole: they stay in the stock one
    assert stock.num_parameters() - compact.num_parameters() == zeros + norms
