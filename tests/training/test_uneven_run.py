"""Profiles of models whose blocks differ, from training to a checkpoint that generates: a hybrid, two MLP widths."""

import itertools

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from tiny_settings import tiny_settings
from transformers import AutoModelForCausalLM

from unicuco_plugin.answering import load_profile
from unicuco_plugin.errors import RequestError, StrategyError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.sizes import measure_sizes
from unicuco_plugin.models.blocks.sublayers import sublayer_params
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.pruning import apply_strategy, removed_parts
from unicuco_plugin.strategy import Strategy
from unicuco_plugin.training import UnitOptions, train_profile

pytestmark = pytest.mark.slow

TINY = tiny_settings(initial=16, pool=16, picks=3, rerank=1)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "hybrid"
    tiny_model("lfm2").save_pretrained(folder)
    tiny_tokenizer(folder)
    return folder


@pytest.fixture(scope="module", params=["depth", "sublayer"])
def profile(request, dense, tmp_path_factory):
    output = tmp_path_factory.mktemp("profiles") / request.param
    trained = train_profile(dense, output, space=request.param, settings=TINY)
    loaded = load_profile(output)
    assert loaded.front() == trained.front()
    return loaded


def parts_of(profile, dense):
    """Parameters of each unit, and the groups of units of which one stays."""
    decoder = find_decoder(load_model(dense))
    if profile.space == "depth":
        return measure_sizes(decoder).block_params, ((2, 5),)
    return tuple(sublayer_params(decoder).values()), ((4, 5, 10, 11),)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4, 0.6, 0.8])
def test_an_answer_has_the_fewest_parameters_that_reach_the_share(profile, dense, share):
    sizes, [group] = parts_of(profile, dense)
    rows = [x for x in itertools.product((0, 1), repeat=len(sizes)) if any(x) and not all(x[i] for i in group)]
    totals = {sum(n for n, gone in zip(sizes, x, strict=True) if gone) for x in rows}
    least = min(total for total in totals if total >= share * sum(sizes))
    strategy = profile.answer(sparsity=share)
    assert strategy.sparsity == pytest.approx(least / sum(sizes), abs=1e-12)


def test_what_an_answer_leaves_generates_as_without_a_cache_and_has_its_parameters(profile, dense, tmp_path):
    for number, strategy in enumerate((profile.front()[0], profile.front()[-1])):
        model = apply_strategy(load_model(dense), strategy)
        assert model.num_parameters() == strategy.params
        model.save_pretrained(tmp_path / str(number))
        model = AutoModelForCausalLM.from_pretrained(tmp_path / str(number)).eval()
        ids = torch.arange(5, 10)[None]
        cached, plain = (
            model.generate(ids, use_cache=cache, max_new_tokens=4, min_new_tokens=4, do_sample=False)
            for cache in (True, False)
        )
        assert torch.equal(cached, plain)


def test_a_share_that_takes_all_attention_is_refused_and_a_strategy_written_by_hand_is_too(profile, dense):
    with pytest.raises(RequestError, match=r"that generation needs has to stay, got 0\.99$"):
        profile.answer(sparsity=0.99)
    units = [unit for unit in profile.units if unit.split(".")[2] in "25"]
    fields = profile.front()[0].to_dict() | {"units": dict.fromkeys(units, 1.0)}
    message = r"^units must leave one of the 2 blocks model\.layers\.2, model\.layers\.5: Transformers' cache counts"
    with pytest.raises(StrategyError, match=message):
        removed_parts(find_decoder(load_model(dense)), Strategy.from_dict(fields))


def test_sizes_are_met_exactly_by_enumeration(profile, dense):
    if profile.space == "sublayer":  # a half that goes alone shrinks no file
        return
    sizes, [group] = parts_of(profile, dense)
    rows = [x for x in itertools.product((0, 1), repeat=len(sizes)) if any(x) and not all(x[i] for i in group)]
    total = profile.record.sizes.total_params
    left = sorted({total - sum(n for n, gone in zip(sizes, x, strict=True) if gone) for x in rows})
    for limit in range(left[0], total, 3001):
        assert profile.answer(max_params=limit).params == max(n for n in left if n <= limit)


def test_head_groups_and_neurons_of_a_hybrid_go_and_what_has_no_parts_stays(dense, tmp_path):
    units = UnitOptions(compensate=False, round_to=8)
    profile = train_profile(dense, tmp_path / "parts", space="structured", units=units, settings=TINY)
    assert [unit for unit in profile.units if "feed_forward" not in unit] == [
        "model.layers.2.self_attn", "model.layers.5.self_attn",
    ]  # fmt: skip
    assert len(profile.units) == 6 + 2
    for share in (0.3, 0.7):
        strategy = profile.answer(sparsity=share)
        assert share <= strategy.sparsity < share + 8 * 3 * 32 / sum(profile.unit_params)
        kept = profile.rank_parts().keep(find_decoder(load_model(dense)), strategy.units)
        model = apply_strategy(load_model(dense), strategy, kept_parts=kept, format="stock")
        assert model.num_parameters() == load_model(dense).num_parameters()
