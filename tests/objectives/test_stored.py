"""Candidates stored in schemes of a database against plain forwards of the decoded checkpoint."""

import pytest
import torch
from scheme_databases import WIDTHS, build_schemes
from tiny import VOCABULARY, tiny_model

from unicuco_plugin.errors import LevelsError, StrategyError
from unicuco_plugin.levels.exchange import Storing
from unicuco_plugin.levels.experts import split_experts
from unicuco_plugin.levels.toolkit_scheme import as_toolkit
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.fused_units import fused_units
from unicuco_plugin.objectives.levelled import LevelEvaluator
from unicuco_plugin.objectives.units import UnitsEvaluator
from unicuco_plugin.schemes import parse_scheme
from unicuco_plugin.spaces.plan import cover, plan_schemes

WINDOWS = torch.randint(3, VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(1))
W8, W4, W3 = WIDTHS


def dense(family="llama"):
    model = tiny_model(family, blocks=3)
    split_experts(model)
    return model


@pytest.fixture(scope="module")
def llama_levels(tmp_path_factory):
    return build_schemes(dense(), tmp_path_factory.mktemp("levels") / "llama", (*WIDTHS, "W8A8", "FP8_DYNAMIC"))


@torch.no_grad()
def plain_divergence(family, levels, plan):
    model = dense(family)
    log_p = model(input_ids=WINDOWS, use_cache=False).logits.double().log_softmax(-1)
    for name, scheme in plan.items():
        linear = model.get_submodule(name)
        linear.weight.copy_(levels.decode(name, scheme))
        if parse_scheme(scheme).inputs < 16:
            linear.register_forward_pre_hook(lambda _, args, scheme=scheme: (per_token(args[0], scheme),))
    log_q = model(input_ids=WINDOWS, use_cache=False).logits.double().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1)


def per_token(x, scheme):
    """Round to the 255 or so numbers of eight bits of each token, written out."""
    if as_toolkit(parse_scheme(scheme)).input_activations.type == "float":
        scale = x.abs().amax(-1, keepdim=True) / 448.0
        return (x / scale).to(torch.float8_e4m3fn).to(x.dtype) * scale
    scale = x.abs().amax(-1, keepdim=True) / 127.5
    return (x / scale).round().clamp(-128, 127) * scale


def test_a_model_in_float32_computes_with_the_weights_of_a_narrower_database(tmp_path):
    levels = build_schemes(dense().bfloat16(), tmp_path / "levels")
    model = dense().bfloat16().float()  # as it is loaded from that checkpoint
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    log_p = model(input_ids=WINDOWS, use_cache=False).logits.double().log_softmax(-1)
    [found] = LevelEvaluator(Storing(find_decoder(model), levels), WINDOWS).evaluate([dict.fromkeys(levels.shapes, W3)])
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())
    for name in levels.shapes:
        assert levels.decode(name, W3).dtype == torch.bfloat16
        model.get_submodule(name).weight.data.copy_(levels.decode(name, W3))
    log_q = model(input_ids=WINDOWS, use_cache=False).logits.double().log_softmax(-1)
    assert found.value == pytest.approx((log_p.exp() * (log_p - log_q)).sum(-1).mean().item(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "phi3", "qwen3_moe"])
def test_candidates_equal_plain_forwards_of_the_decoded_checkpoint(family, tmp_path):
    levels = build_schemes(dense(family), tmp_path / "levels")
    model = dense(family)
    names = list(levels.shapes)
    plans = [
        dict.fromkeys(names, W4),
        {name: WIDTHS[place % 3] for place, name in enumerate(names)},
        {names[-1]: W3},
        {},
        dict.fromkeys(names, W4),
    ]
    evaluator = LevelEvaluator(Storing(find_decoder(model), levels), WINDOWS, batch_windows=2)
    found = evaluator.evaluate(plans)
    for plan, evaluation in zip(plans, found, strict=True):
        expected = plain_divergence(family, levels, plan)
        torch.testing.assert_close(torch.tensor(evaluation.per_window).double(), expected, rtol=1e-3, atol=1e-6)
        assert evaluation.tokens == 60
    assert found[0].value == found[4].value
    assert found[3].value == 0.0


def test_inputs_are_rounded_for_each_token_where_the_scheme_says_so(llama_levels):
    evaluator = LevelEvaluator(Storing(find_decoder(dense()), llama_levels), WINDOWS)
    for scheme in ("W8A8", "FP8_DYNAMIC"):
        plan = dict.fromkeys(list(llama_levels.shapes)[3:9], scheme)
        [found] = evaluator.evaluate([plan])
        expected = plain_divergence("llama", llama_levels, plan)
        torch.testing.assert_close(torch.tensor(found.per_window).double(), expected, rtol=1e-2, atol=1e-6)
        weights_only = {name: llama_levels.decode(name, scheme) for name in plan}
        assert abs(expected.mean().item() - weights_only_divergence(weights_only)) > 0.02 * expected.mean().item()


@torch.no_grad()
def weights_only_divergence(weights):
    model = dense()
    log_p = model(input_ids=WINDOWS, use_cache=False).logits.double().log_softmax(-1)
    for name, weight in weights.items():
        model.get_submodule(name).weight.copy_(weight)
    log_q = model(input_ids=WINDOWS, use_cache=False).logits.double().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean().item()


def test_a_model_is_dense_again_even_after_an_error(llama_levels):
    model = dense()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluator = LevelEvaluator(Storing(find_decoder(model), llama_levels), WINDOWS)
    name = next(iter(llama_levels.shapes))
    with pytest.raises(LevelsError, match="not in 'W5A16'"):
        evaluator.evaluate([{name: W4}, {name: "W5A16"}])
    evaluator.evaluate([{name: "W8A8"}])
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_units_are_measured_by_their_names(llama_levels):
    model = dense()
    decoder = find_decoder(model)
    units = [unit for unit in fused_units(model) if unit.name != "lm_head"]
    found = UnitsEvaluator(decoder, "precision", WINDOWS, levels=llama_levels).evaluate(
        [{unit.name: W4 for unit in units}, {units[0].name: W3}]
    )
    direct = LevelEvaluator(Storing(decoder, llama_levels), WINDOWS).evaluate(
        [dict.fromkeys(llama_levels.shapes, W4), dict.fromkeys(units[0].linears, W3)]
    )
    assert [a.value for a in found] == [b.value for b in direct]


def test_a_space_of_bits_needs_a_database_of_schemes():
    with pytest.raises(LevelsError, match="'precision' is measured on a level database of schemes, got none"):
        UnitsEvaluator(find_decoder(dense()), "precision", WINDOWS)


@pytest.mark.parametrize("family", ["llama", "phi3", "qwen3_moe", "opt"])
def test_the_names_of_units_say_which_linears_they_cover(family):
    model = dense(family)
    names = list(find_decoder(model).all_linears())
    units = [unit for unit in fused_units(tiny_model(family, blocks=3)) if set(unit.linears) <= set(names)]
    assert {name for unit in units for name in unit.linears} == set(names)
    for unit in units:
        assert set(cover(unit.name, names)) == set(unit.linears)


def test_units_that_cover_nothing_or_a_linear_again_are_refused():
    names = ["a.0.q", "a.0.k", "a.0.o"]
    with pytest.raises(StrategyError, match=r"'b\.0\.q' covers none$"):
        plan_schemes({"b.0.q": W4}, names)
    with pytest.raises(StrategyError, match=r"'a.0.k' covers a.0.k again"):
        plan_schemes({"a.0.q+k": W4, "a.0.k": W3}, names)
