"""Parts in order: rankings by formula, shares to whole parts, biases that make up for the mean."""

from dataclasses import replace

import pytest
import torch
from tiny import VOCABULARY, tiny_model

from unicuco_plugin.errors import CalibrationError, StrategyError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.parts.channels import measure_channels
from unicuco_plugin.models.parts.parts import find_parts
from unicuco_plugin.models.parts.reduction import reduced
from unicuco_plugin.scores.ranked_parts import RankedParts, rank_parts
from unicuco_plugin.scores.ranking import RANKINGS, taylor

WINDOWS = torch.randint(3, VOCABULARY, (5, 16), generator=torch.Generator().manual_seed(0))
ATTENTION, MLP = "model.layers.0.self_attn", "model.layers.1.mlp"


@pytest.fixture(scope="module")
def decoder():
    return find_decoder(tiny_model("llama", blocks=3))


@pytest.fixture(scope="module")
def ranked(decoder):
    return rank_parts(decoder, WINDOWS, RANKINGS["flap"])


def test_the_fluctuation_is_the_mean_squared_error_that_a_bias_leaves(decoder, ranked):
    part = find_parts(decoder)[MLP]
    inputs = []
    hook = decoder.model.get_submodule(part.output).register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with torch.no_grad():
        decoder.model(WINDOWS, use_cache=False)
    hook.remove()
    x, W = inputs[0].flatten(0, -2).double(), decoder.model.get_submodule(part.output).weight.double()
    lost = ((x - x.mean(0))[:, :, None] * W.T[None]).square().sum(-1).mean(0)
    torch.testing.assert_close(ranked.scores[MLP].double(), lost, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", sorted(RANKINGS))
def test_every_ranking_scores_every_part_and_head_groups_sum_their_channels(decoder, name):
    found = rank_parts(decoder, WINDOWS, RANKINGS[name])
    assert found.tokens == WINDOWS.numel() * (4 if name == "taylor" else 1)
    assert {n: len(s) for n, s in found.scores.items()} == {n: p.count for n, p in find_parts(decoder).items()}
    assert all(bool((score >= 0).all()) and bool(score.any()) for score in found.scores.values())
    W = decoder.model.get_submodule(ATTENTION).o_proj.weight.detach()
    if name == "magnitude":
        torch.testing.assert_close(found.scores[ATTENTION], W.view(32, 2, 16).square().sum((0, 2)))


def test_shares_take_whole_parts_the_lowest_first(decoder, ranked):
    kept = ranked.keep(decoder, {ATTENTION: 0.5, MLP: 0.25, "model.layers.2.mlp": 1.0, "model.layers.2.self_attn": 0.0})
    kept.check(decoder)
    assert {name: len(indices) for name, indices in kept.kept.items()} == {
        ATTENTION: 1,
        MLP: 36,
        "model.layers.2.mlp": 0,
    }
    scores = ranked.scores[MLP]
    stays = torch.zeros(48, dtype=torch.bool)
    stays[list(kept.kept[MLP])] = True
    assert scores[stays].min() >= scores[~stays].max()
    assert kept.biases.keys() == {ATTENTION, MLP}  # what goes whole leaves nothing
    assert not replace(ranked, compensate=False).keep(decoder, {MLP: 0.25}).biases


def test_a_bias_keeps_the_mean_of_what_a_module_gives(decoder, ranked):
    kept = ranked.keep(decoder, {ATTENTION: 0.5})
    outputs = []
    hook = decoder.model.get_submodule(ATTENTION).register_forward_hook(lambda _, __, out: outputs.append(out[0]))
    with torch.no_grad():
        decoder.model(WINDOWS, use_cache=False)
        with reduced(decoder, kept, [find_parts(decoder)[ATTENTION]]):
            decoder.model(WINDOWS, use_cache=False)
    hook.remove()
    # Our hook runs before the one that adds the bias.
    dense, pruned = (out.flatten(0, -2).mean(0) for out in outputs)
    torch.testing.assert_close(pruned + kept.biases[ATTENTION], dense, rtol=1e-4, atol=1e-5)
    assert (pruned - dense).abs().max() > 1e-3


def test_tensors_come_back(decoder, ranked):
    again = RankedParts.from_tensors(ranked.to_tensors())
    units = {ATTENTION: 0.5, MLP: 0.5}
    assert again.keep(decoder, units).kept == ranked.keep(decoder, units).kept
    assert again.compensate
    assert not RankedParts.from_tensors(replace(ranked, compensate=False).to_tensors()).compensate
    tensors = ranked.to_tensors()
    del tensors[f"mean.{MLP}"]
    with pytest.raises(ValueError, match="scores and means of the same modules"):
        RankedParts.from_tensors(tensors)


def test_a_payload_comes_back_with_what_it_took_and_another_one_is_refused(decoder, ranked):
    payload = ranked.to_payload()
    again, units = RankedParts.of(payload), {ATTENTION: 0.5, MLP: 0.5}
    assert again.keep(decoder, units).kept == ranked.keep(decoder, units).kept
    assert again.tokens == ranked.tokens > 0
    with pytest.raises(StrategyError, match=r"^payload must be 'parts', got 'scales'$"):
        RankedParts.of(replace(payload, name="scales"))


@pytest.mark.parametrize("units", [{"lm_head": 0.5}, {MLP: 1.2}])
def test_units_that_are_none_are_refused(decoder, ranked, units):
    with pytest.raises(StrategyError, match="must be an attention or MLP with a share in"):
        ranked.keep(decoder, units)


def test_taylor_without_effects_says_what_it_needs(decoder):
    statistics = measure_channels(decoder, WINDOWS)[MLP]
    with pytest.raises(CalibrationError, match="needs measured effects"):
        taylor(torch.ones(32, 48), statistics)
