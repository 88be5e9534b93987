import pytest

from unicuco_plugin.errors import StrategyError
from unicuco_plugin.spaces.units import group_linears, name_block, name_kind, number_blocks, select_bounds

SIZES = {
    f"model.layers.{i}.{name}": size
    for i in range(2)
    for name, size in (("self_attn.q_proj", 4), ("self_attn.o_proj", 4), ("mlp.up_proj", 8), ("fc1", 6))
}


def test_blocks_take_all_their_linears():
    assert group_linears(SIZES, "block") == {"model.layers.0": 22, "model.layers.1": 22}


def test_experts_are_of_one_kind():
    kinds = {name_kind(f"model.layers.{i}.mlp.experts.{j}.up_proj") for i in range(2) for j in range(3)}
    assert kinds == {".mlp.experts.*.up_proj"}
    assert name_kind("model.layers.3.self_attn.q_proj") == ".self_attn.q_proj"


def test_sublayers_are_the_children_of_a_block_and_a_bare_linear_is_one():
    units = group_linears(SIZES, "sublayer")
    assert units["model.layers.1.self_attn"] == 8
    assert units["model.layers.1.mlp"] == 8
    assert units["model.layers.1.fc1"] == 6
    assert len(units) == 6


def test_linears_are_units_in_the_models_order():
    assert group_linears(SIZES, "linear") == SIZES


@pytest.mark.parametrize(
    ("ignore", "left"),
    [
        (["model.layers.0"], 4),
        (["re:.*up_proj", "re:.*fc1"], 4),
        (["model.layers.0.self_attn.q_proj"], 7),
        (["model.layers.1.self_attn", "model.layers.0"], 2),
    ],
    ids=str,
)
def test_ignored_linears_are_no_units(ignore, left):
    units = group_linears(SIZES, "linear", ignore)
    assert len(units) == left


@pytest.mark.parametrize(
    ("granularity", "ignore", "message"),
    [
        ("linear", ["nope"], r"^ignore 'nope' matches none of 8 names such as model\.layers\.0\.self_attn\.q_proj$"),
        ("linear", ["re:("], r"^ignore 're:\(' is no regular expression"),
        ("linear", ["re:(a+)+$"], r"^ignore 're:\(a\+\)\+\$' backtracks without end on module names"),
        ("linear", ["re:.*"], r"^ignore must leave a unit to prune, got re:\.\*$"),
        ("block", ["re:.*fc1"], r"^ignore must take whole units at granularity 'block', got 1 of the 4 linears of "),
        ("linear", ["model.layers.01"], r"^ignore 'model\.layers\.01' matches none"),
    ],
)
def test_what_cannot_be_ignored_is_refused(granularity, ignore, message):
    with pytest.raises(StrategyError, match=message):
        group_linears(SIZES, granularity, ignore)


def test_bounds_follow_patterns_and_the_last_wins():
    units = tuple(SIZES)
    bounds = select_bounds(units, (0.0, 0.9), {"re:.*q_proj": (0.1, 0.5), "model.layers.1": (0.2, 0.6)})
    assert bounds[0] == (0.1, 0.5)
    assert bounds[1] == (0.0, 0.9)
    assert bounds[4:] == ((0.2, 0.6),) * 4


@pytest.mark.parametrize(
    ("name", "block"),
    [("model.layers.12.mlp.up_proj", "model.layers.12"), ("gpt_neox.layers.0.attention.dense", "gpt_neox.layers.0")],
)
def test_a_blocks_name_ends_with_its_number(name, block):
    assert name_block(name) == block


def test_blocks_are_numbered_as_they_occur():
    names = ["model.layers.7.mlp", "model.layers.7.self_attn", "model.layers.2.mlp", "model.layers.7.norm"]
    assert number_blocks(names) == [0, 0, 1, 0]
    assert number_blocks([]) == []
