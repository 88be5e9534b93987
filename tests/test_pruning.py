"""A strategy applied to a model in memory."""

import pytest
import torch
from depth_strategies import whole_block_strategy
from structured_parts import A, M, masked_logits, mixed_parts
from structured_strategies import structured_strategy
from tiny import FAMILIES, tiny_model

from unicuco_plugin.errors import ModelMismatchError, StrategyError
from unicuco_plugin.models.blocks.bypass import bypassed
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.pruning import apply_strategy, check_model, check_parts, dropped_blocks
from unicuco_plugin.strategy import ModelReference

TOKENS = torch.arange(3, 43)[None]


def strategy_for(model, units, **changes):
    return whole_block_strategy(model, units=units, **changes)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_pruned_model_gives_the_logits_of_the_bypassed_one(family):
    model = tiny_model(family)
    decoder = find_decoder(model)
    strategy = strategy_for(model, {decoder.block_names[1]: 1.0, decoder.block_names[4]: 1.0})
    with bypassed(decoder, [1, 4]):
        expected = model(TOKENS, use_cache=False).logits
    assert apply_strategy(model, strategy) is model
    torch.testing.assert_close(model(TOKENS).logits, expected)


def test_blocks_are_listed_in_ascending_order():
    model = tiny_model("llama")
    strategy = strategy_for(model, {"model.layers.4": 1.0, "model.layers.0": 1.0})
    assert dropped_blocks(find_decoder(model), strategy) == (0, 4)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"model.layers.6": 1.0}, "units must be blocks of the model, model.layers.0 to model.layers.5, got model.lay"),
        ({"model.layers.1.mlp": 1.0}, "got model.layers.1.mlp"),
        ({"model.layers.1": 0.5}, r"units\['model.layers.1'\] must be 1.0, since a block goes as a whole, got 0.5"),
        ({f"model.layers.{i}": 1.0 for i in range(6)}, "at least one block must stay"),
    ],
)
def test_units_that_are_not_whole_blocks_are_refused(units, message):
    model = tiny_model("llama")
    with pytest.raises(StrategyError, match=message):
        apply_strategy(model, strategy_for(model, units))
    assert model.config.num_hidden_layers == 6


def test_a_strategy_of_another_space_is_refused():
    model = tiny_model("llama")
    strategy = strategy_for(model, {"model.layers.1": 1.0}, space="sparsity")
    with pytest.raises(StrategyError, match="space must be 'depth' for blocks to be dropped, got 'sparsity'"):
        apply_strategy(model, strategy)


def test_another_structure_is_refused_even_where_other_weights_are_accepted():
    strategy = strategy_for(tiny_model("llama", blocks=7), {"model.layers.1": 1.0})
    with pytest.raises(ModelMismatchError, match="made for 'tiny', whose structure this model does not have"):
        apply_strategy(tiny_model("llama"), strategy, accept_other_weights=True)


def test_other_weights_are_refused_until_they_are_accepted():
    other, model = tiny_model("llama", seed=1), tiny_model("llama")
    reference = ModelReference(name="tiny", fingerprint=str(fingerprint(other)))
    with pytest.raises(ModelMismatchError, match=r"same structure but other weights .* pass --accept-other-weights"):
        check_model(model, reference, accept_other_weights=False)
    assert check_model(model, reference, accept_other_weights=True) is True
    assert check_model(other, reference, accept_other_weights=True) is False


def test_a_refused_model_is_left_as_it_was():
    model = tiny_model("llama")
    before = fingerprint(model)
    strategy = strategy_for(tiny_model("llama", seed=1), {"model.layers.1": 1.0})
    with pytest.raises(ModelMismatchError):
        apply_strategy(model, strategy)
    assert fingerprint(model) == before


@pytest.mark.parametrize("format", ["compact", "stock"])
@torch.no_grad()
def test_a_structured_strategy_is_applied_in_memory(format):
    model, parts = tiny_model("llama"), mixed_parts(biases=True)
    expected = masked_logits(find_decoder(model), parts, TOKENS)
    strategy = structured_strategy(model, parts)
    assert apply_strategy(model, strategy, kept_parts=parts, format=format) is model
    torch.testing.assert_close(model(TOKENS).logits, expected, rtol=1e-4, atol=1e-4)


def test_shares_alone_do_not_say_which_parts_stay():
    model = tiny_model("llama")
    with pytest.raises(StrategyError, match="kept_parts must be given for a strategy that removes parts of modules"):
        apply_strategy(model, structured_strategy(model, mixed_parts(biases=False)))


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({A.format(1): 0.5, M.format(0): 0.5}, r"kept\['model.layers.0.mlp'\] must have 24 of 48 parts"),
        ({A.format(1): 0.5}, r"kept\['model.layers.0.mlp'\] must have 48 of 48 parts, as units says 0; got 32"),
        ({A.format(1): 0.5, M.format(0): 1 / 3, A.format(3): 1.0}, r"kept\['model.layers.3.self_attn'\] must have 0"),
        ({"model.layers.1": 1.0}, "units must be attentions and MLPs of the model, such as model.layers.0.mlp"),
    ],
)
def test_kept_parts_must_be_those_of_the_shares(units, message):
    model = tiny_model("llama")
    parts = KeptParts({A.format(1): (0,), M.format(0): tuple(range(32))} if A.format(1) in units else {})
    with pytest.raises(StrategyError, match=message):
        check_parts(find_decoder(model), structured_strategy(model, parts, units=units), parts)


def test_a_compensation_that_is_not_folded_in_is_said(caplog):
    model = tiny_model("llama")
    strategy = whole_block_strategy(model)
    apply_strategy(tiny_model("llama"), strategy)
    assert not caplog.records
    apply_strategy(model, strategy.model_copy(update={"compensation": "ridge"}))
    assert "divergence is with compensation 'ridge'" in caplog.text
