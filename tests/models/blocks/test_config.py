"""Configurations with fewer blocks."""

import pytest
import transformers as tf
from tiny import tiny_model

from unicuco_plugin.errors import StrategyError
from unicuco_plugin.models.blocks.config import block_overrides, shrink_config

KEPT = [0, 2, 3, 5]


def test_layer_types_are_subset_not_regenerated():
    config = tiny_model("gemma3").config
    small = shrink_config(config, KEPT)
    assert small.layer_types == ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    assert small.num_hidden_layers == 4
    assert config.num_hidden_layers == len(config.layer_types) == 6
    assert type(config)(**small.to_dict()).layer_types == small.layer_types


def test_rope_flags_are_subset():
    config = tiny_model("smollm3").config
    assert config.no_rope_layers == [1, 1, 0, 1, 1, 0]
    assert shrink_config(config, KEPT).no_rope_layers == [1, 0, 1, 0]


def test_window_layers_are_recounted():
    small = shrink_config(tiny_model("qwen2").config, KEPT)
    assert small.max_window_layers == 2
    assert small.layer_types == ["full_attention", "full_attention", "sliding_attention", "sliding_attention"]


def test_index_lists_are_remapped():
    config = tiny_model("qwen3_moe").config
    config.mlp_only_layers = [1, 2, 5]
    assert shrink_config(config, KEPT).mlp_only_layers == [1, 3]


def test_a_sparse_step_is_written_out_by_index():
    config = tiny_model("qwen3_moe").config
    config.decoder_sparse_step = 2
    config.mlp_only_layers = [5]
    small = shrink_config(config, KEPT)
    # Sparse before: blocks 1 and 3 (5 is made dense by name). Block 3 is now third.
    assert (small.decoder_sparse_step, small.mlp_only_layers) == (1, [0, 1, 3])


def test_dense_first_blocks_are_recounted():
    config = tf.DeepseekV3Config(num_hidden_layers=6, first_k_dense_replace=3)
    assert shrink_config(config, KEPT).first_k_dense_replace == 2


@pytest.mark.parametrize(
    ("first", "last", "step", "expected"),
    [
        (1, 5, 1, (1, 3, 1)),  # of 0, 2, 3, 5: all but block 0
        (3, 3, 1, (2, 2, 1)),
        (4, 4, 1, (4, 3, 1)),  # the only sparse block went
        (1, 5, 2, (2, 3, 1)),  # every second one: 1, 3 and 5
        (0, 5, 3, (0, 5, 3)),  # 2 and 5, with a dense one between them: no range says so, and nothing is claimed
    ],
)
def test_a_range_of_sparse_blocks_is_recounted(first, last, step, expected):
    config = tf.Ernie4_5_MoeConfig(
        num_hidden_layers=6, moe_layer_start_index=first, moe_layer_end_index=last, moe_layer_interval=step
    )
    small = shrink_config(config, KEPT)
    assert (small.moe_layer_start_index, small.moe_layer_end_index, small.moe_layer_interval) == expected


def test_sizes_of_single_blocks_are_remapped():
    config = tiny_model("gemma4", blocks=4).config
    assert block_overrides(config) == {0: {"head_dim": 16}, 3: {"head_dim": 16}}
    assert block_overrides(shrink_config(config, [1, 2, 3])) == {2: {"head_dim": 16}}
    assert block_overrides(tiny_model("llama").config) == {}


def test_a_scale_that_hangs_on_the_number_of_blocks_stays_what_it_was():
    config = tf.MiniCPM3Config(num_hidden_layers=6, scale_depth=1.4)
    small = shrink_config(config, KEPT)
    assert small.scale_depth / 4**0.5 == pytest.approx(config.scale_depth / 6**0.5, rel=1e-15)
    assert config.scale_depth == 1.4


def test_a_draft_head_behind_the_last_block_goes_with_its_place():
    config = tf.Glm4MoeConfig(num_hidden_layers=6)
    config.num_nextn_predict_layers = 1
    assert shrink_config(config, KEPT).num_nextn_predict_layers == 0
    assert config.num_nextn_predict_layers == 1


def test_other_names_for_the_block_count_are_followed():
    assert shrink_config(tf.GPT2Config(n_layer=6), KEPT).n_layer == 4


def test_the_text_part_of_a_wrapper_shrinks():
    config = tf.Gemma3Config(text_config={"num_hidden_layers": 6, "sliding_window_pattern": 3})
    small = shrink_config(config, KEPT)
    assert small.text_config.num_hidden_layers == 4
    assert len(small.text_config.layer_types) == 4
    assert config.text_config.num_hidden_layers == 6


def test_lists_that_only_happen_to_be_as_long_stay():
    config = tiny_model("llama").config
    config.eos_token_id = [1, 2, 3, 4, 5, 6]
    assert shrink_config(config, KEPT).eos_token_id == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("kept", [[], [1, 0], [0, 0], [6], [-1]], ids=str)
def test_kept_blocks_must_be_ascending_and_in_range(kept):
    with pytest.raises(StrategyError, match=r"^kept blocks must be ascending indices in \[0, 6\), got "):
        shrink_config(tiny_model("llama").config, kept)
