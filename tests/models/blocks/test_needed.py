"""Which blocks generation needs, against models that really lost them."""

import pytest
import torch
from tiny import tiny_model

from unicuco_plugin.errors import StrategyError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.needed import check_needed, needed_blocks
from unicuco_plugin.models.blocks.surgery import dropped

# Six blocks: family -> the groups of which one has to stay.
HYBRIDS = {
    "lfm2": ((2, 5),),
    "qwen3_5": ((2, 5),),
    "bamba": ((1, 3),),
    "nemotron_h": ((1, 4),),
    "olmo_hybrid": ((2, 5), (0, 1, 3, 4)),
}


def generate(model):
    ids = torch.arange(5, 10)[None]
    fields = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    return [model.generate(ids, use_cache=cache, **fields).tolist() for cache in (True, False)]


@pytest.mark.parametrize("family", HYBRIDS)
def test_hybrids_need_one_block_of_each_group_and_generate_with_any_one(family):
    model = tiny_model(family)
    decoder = find_decoder(model)
    groups = needed_blocks(decoder)
    assert groups == HYBRIDS[family]
    for group in groups:
        # Transformers' own: its cache's, or its configuration's when somebody loads it.
        with (
            pytest.raises(Exception, match=r"`get_seq_length` can only be|expects at least one"),
            dropped(model, group),
        ):
            generate(type(model)._from_config(type(model.config).from_dict(model.config.to_dict())))
        for stays in group:
            gone = [index for index in group if index != stays]
            check_needed(decoder, gone)
            with dropped(model, gone):
                cached, plain = generate(model)
            assert cached == plain


def test_a_last_block_whose_kind_the_configuration_insists_on_stays():
    assert needed_blocks(find_decoder(tiny_model("gemma4", blocks=4))) == ((3,),)


@pytest.mark.parametrize("family", ["llama", "gemma3", "falcon_h1", "mamba"])
def test_models_that_count_everywhere_or_in_a_way_of_their_own_need_none(family):
    assert needed_blocks(find_decoder(tiny_model(family, blocks=3))) == ()


@pytest.mark.parametrize(
    ("group", "whose"),
    [((2, 5), "Transformers' cache counts tokens in these alone"),
     ((0, 1, 3, 4), "Transformers' configuration asks for one of these alone")],
)  # fmt: skip
def test_all_of_a_group_are_refused_with_the_rule(group, whose):
    with pytest.raises(StrategyError) as caught:
        check_needed(find_decoder(tiny_model("olmo_hybrid")), group)
    assert whose in str(caught.value)
    assert f"one of the {len(group)} blocks model.layers.{group[0]}, " in str(caught.value)
    assert len(str(caught.value)) <= 300
