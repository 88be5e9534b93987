"""EvoPress's files in their published format, there and back."""

import pytest

from unicuco_plugin.errors import StrategyError
from unicuco_plugin.peers.evopress_files import (
    drops_to_units,
    levels_to_units,
    read_drops,
    read_levels,
    units_to_drops,
    units_to_levels,
    write_drops,
    write_levels,
)
from unicuco_plugin.spaces.plan import plan_counts

DROPS = "none\nmlp\nattn+mlp\nattn\n"
LEVELS = """model.layers.0.self_attn.q_proj: 7
model.layers.0.self_attn.k_proj: 0
model.layers.0.mlp.down_proj: -7"""
SIZES = {
    "model.layers.0.self_attn.q_proj": 4096 * 4096,
    "model.layers.0.self_attn.k_proj": 4096 * 1024,
    "model.layers.0.mlp.down_proj": 4096 * 14336,
}


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "file.txt"
        path.write_text(text, encoding="utf8")
        return path

    return write


def test_a_drop_file_comes_back_byte_for_byte(file, tmp_path, decoder):
    drops = read_drops(file(DROPS))
    assert drops == ("none", "mlp", "attn+mlp", "attn")
    units = drops_to_units(drops, decoder)
    assert units == {"model.layers.1.mlp": 1.0, "model.layers.2": 1.0, "model.layers.3.self_attn": 1.0}
    write_drops(tmp_path / "again.txt", units_to_drops(units, decoder))
    assert (tmp_path / "again.txt").read_bytes() == DROPS.encode()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.txt", "file.txt"]


def test_a_block_may_be_given_as_its_two_halves(decoder):
    units = {"model.layers.2.self_attn": 1.0, "model.layers.2.mlp": 1.0}
    assert units_to_drops(units, decoder) == ("none", "none", "attn+mlp", "none")


def test_a_level_file_comes_back_byte_for_byte(file, tmp_path):
    levels = read_levels(file(LEVELS))
    units = levels_to_units(levels, SIZES, 0.5)
    assert units["model.layers.0.self_attn.q_proj"] == pytest.approx(0.5 + 7e6 / 4096**2)
    assert units["model.layers.0.self_attn.k_proj"] == 0.5
    total = sum(SIZES.values())
    assert sum(plan_counts(units, SIZES).values()) == pytest.approx(0.5 * total, abs=1)
    write_levels(tmp_path / "again.txt", units_to_levels(units, SIZES, 0.5))
    assert (tmp_path / "again.txt").read_bytes() == LEVELS.encode()


def test_another_step_reads_a_smaller_model():
    sizes = {"a": 1000, "b": 3000}
    units = levels_to_units({"a": -5, "b": 5}, sizes, 0.5, step=100)
    assert units == {"b": pytest.approx(0.5 + 500 / 3000)}
    assert units_to_levels(units, sizes, 0.5, step=100) == {"a": -5, "b": 5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("none\nmpl\n", r"line 2: must be one of none, attn, mlp, attn\+mlp, got 'mpl'"),
        ("\n", "is empty"),
    ],
)
def test_a_broken_drop_file_is_refused(file, text, message):
    with pytest.raises(StrategyError, match=message):
        read_drops(file(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb 2\n", "line 2: must be 'module.name: level', got 'b 2'"),
        ("a: 1\na: -1\n", "line 2: a comes twice"),
        ("a: 1.5\n", "line 1: must be"),
        ("", "is empty"),
    ],
)
def test_a_broken_level_file_is_refused(file, text, message):
    with pytest.raises(StrategyError, match=message):
        read_levels(file(text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StrategyError, match=r"^EvoPress file .*none.txt cannot be read"):
        read_levels(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"a": 0}, "the file lacks b$"),
        ({"a": 0, "b": 0, "c": 0}, "the model lacks c$"),
        ({"a": 1, "b": 0}, "must sum to 0, so that the mean is the sparsity, got 1$"),
        ({"a": 6, "b": -6}, "a at 6 has share 1.1, which must be in"),
    ],
)
def test_levels_that_are_not_the_models_are_refused(levels, message):
    with pytest.raises(StrategyError, match=message):
        levels_to_units(levels, {"a": 1000, "b": 3000}, 0.5, step=100)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"a": 0.55, "b": 0.5}, "must be 0.5 and whole levels of 100 weights, got 0.55"),
        ({"z": 0.5}, "must be prunable linears of the model, got 'z'"),
        ({"a": 0.6, "b": 0.5}, "must sum to 0, so that the mean is the sparsity, got 1"),
    ],
)
def test_shares_between_levels_are_refused(units, message):
    with pytest.raises(StrategyError, match=message):
        units_to_levels(units, {"a": 1000, "b": 3000}, 0.5, step=100)


def test_drops_of_another_model_and_partial_units_are_refused(decoder):
    with pytest.raises(StrategyError, match=r"^drops must be one line for each of 4 blocks, got 2$"):
        drops_to_units(("none", "none"), decoder)
    for units in ({"model.layers.1": 0.5}, {"model.layers.9": 1.0}):
        with pytest.raises(StrategyError, match=r"^units must be blocks or sub-layers with share 1, got"):
            units_to_drops(units, decoder)
