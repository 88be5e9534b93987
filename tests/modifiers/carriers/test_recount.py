"""What a strategy's file says of its size, against the checkpoint that its units leave."""

import pytest
from depth_strategies import sublayer_strategy, whole_block_strategy
from loguru import logger
from scheme_strategies import scheme_strategy, scheme_units
from sparsity_strategies import sparsity_strategy
from structured_parts import uniform_parts
from structured_strategies import structured_strategy
from tiny import tiny_model
from tiny_moe import tiny_mixture

from unicuco_plugin.models.fused_units import fused_units
from unicuco_plugin.modifiers.carriers.recount import recount
from unicuco_plugin.pruning import apply_strategy
from unicuco_plugin.request import Request
from unicuco_plugin.strategy import Memory, Strategy

BYTES_OF_A_HEADER = 0.05  # of tiny tensors


@pytest.fixture
def warnings():
    told = []
    handler = logger.add(lambda message: told.append(message.record["message"]), level="WARNING")
    yield told
    logger.remove(handler)


def sized(strategy, **sizes) -> Strategy:
    return strategy.model_copy(update=sizes)


@pytest.mark.parametrize("make", [whole_block_strategy, sublayer_strategy, sparsity_strategy])
def test_sizes_that_cannot_be_are_counted_and_told_once_each(make, warnings):
    model = tiny_model("llama")
    strategy = make(model)
    found = recount(model, strategy)
    pruned = tiny_model("llama")
    if strategy.traits.whole:
        apply_strategy(pruned, strategy)
    assert found.params == pruned.num_parameters()
    assert found.bytes == pytest.approx(4 * found.params, rel=BYTES_OF_A_HEADER)
    assert [line.partition(" says ")[0].rpartition(" ")[2] for line in warnings] == ["params", "bytes"]
    assert warnings[0] == (
        f"strategy of the space '{strategy.space}': params says 1000, its units leave {found.params} of this model; "
        f"{found.params} is reported"
    )
    assert found.model_copy(update={"params": 1000, "bytes": 4000}) == strategy


@pytest.mark.parametrize("make", [whole_block_strategy, sublayer_strategy])
def test_memory_is_counted_anew_whatever_a_file_says(make):
    model = tiny_model("llama")
    asked = Request.of(sparsity=0.5, context=32, batch=2)
    claimed = make(model).model_copy(update={"request": asked, "memory": Memory(weights=1, cache=2, buffers=3)})
    found = recount(model, claimed)
    whole = [unit for unit in claimed.shares if unit.count(".") == 2]
    halves = [unit.rpartition(".")[0] for unit in claimed.shares if unit.count(".") > 2]
    gone = len(whole) + len({block for block in halves if halves.count(block) == 2})
    # Two heads of eight in each of six blocks, keys and values, in float32.
    assert found.memory.cache == (6 - gone) * 2 * 2 * 8 * 2 * 32 * 4
    assert found.memory.weights == found.bytes
    assert recount(model, claimed.model_copy(update={"request": Request.of(sparsity=0.5)})).memory is None


def test_what_is_right_stays_also_in_another_dtype(warnings):
    model = tiny_model("llama")
    right = recount(model, whole_block_strategy(model))
    warnings.clear()
    for size in (right.bytes, right.bytes // 2):
        assert recount(model, sized(right, bytes=size)) == sized(right, bytes=size)
    assert warnings == []


@pytest.mark.slow
def test_a_structured_strategy_may_count_its_biases_or_not_or_all_that_stays(warnings):
    model = tiny_model("llama")
    strategy = structured_strategy(model, uniform_parts())
    found = recount(model, strategy)
    whole = model.num_parameters()
    assert found.params < whole
    for params in (found.params, whole):
        assert recount(model, sized(found, params=params)).params == params
    assert recount(model, sized(found, params=whole - 1)).params == found.params


def test_mean_bits_are_those_of_some_or_all_units(warnings):
    model = tiny_model("llama")
    units = scheme_units(model, "W4A16:channel", None)
    found = recount(model, sized(scheme_strategy(model, units), bits=2.0))
    assert found.params == model.num_parameters()
    assert 5.0 < found.bits < 16.0
    least = recount(model, sized(found, bits=4.6)).bits
    assert least == 4.6  # the scales of rows of 32 and 48 weights, and the other units ignored
    assert recount(model, sized(found, bits=15.9)).bits == found.bits
    assert found.bytes < 4 * found.params


def test_blocks_that_go_beside_schemes_are_counted_too(warnings):
    model = tiny_model("llama")
    gone = "model.layers.1"
    units = {name: scheme for name, scheme in scheme_units(model, "W4A16:channel").items() if f"{gone}." not in name}
    stored = recount(model, scheme_strategy(model, units))
    found = recount(model, scheme_strategy(model, units | {gone: 1.0}, space="compound"))
    block = sum(parameter.numel() for parameter in model.model.layers[1].parameters())
    assert found.params == stored.params - block
    assert found.bytes == pytest.approx(stored.bytes - 4 * block, rel=BYTES_OF_A_HEADER)


def test_experts_count_as_linears_and_the_model_is_not_changed(warnings):
    model = tiny_mixture("mixtral")
    names = [name for name, _ in model.named_parameters()]
    units = {unit.name: "W8A16:channel" for unit in fused_units(model) if unit.name != "lm_head"}
    assert any(name.endswith("experts") for name in units)
    found = recount(model, scheme_strategy(model, units))
    assert found.params == model.num_parameters()
    assert 8.0 < found.bits < 9.5
    assert [name for name, _ in model.named_parameters()] == names


def test_units_that_the_model_lacks_are_left_to_whoever_carries_them_out(warnings):
    model = tiny_model("llama")
    strategy = whole_block_strategy(model, units={"model.layers.99": 1.0})
    assert recount(model, strategy) == strategy
    assert warnings == []
