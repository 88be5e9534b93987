"""Candidates measured with corrections: the bits of the model that they are folded into, whoever else is measured."""

import contextlib

import pytest
import torch
from structured_parts import masked_logits, mixed_parts
from tiny import VOCABULARY, tiny_model

from unicuco_plugin.compensation.corrections import Corrections
from unicuco_plugin.compensation.dense_states import DenseStates
from unicuco_plugin.compensation.methods import METHODS
from unicuco_plugin.compensation.parts import compensate_parts
from unicuco_plugin.errors import StrategyError, UnsupportedModelError
from unicuco_plugin.models.blocks.bypass import bypassed
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.halves import HalfRunner
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.blocks.sublayers import silenced
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.tensors.storage import exchanged
from unicuco_plugin.objectives.evaluator import BlockEvaluator
from unicuco_plugin.objectives.reduced import ReducedEvaluator
from unicuco_plugin.objectives.units import UnitsEvaluator
from unicuco_plugin.scores.ranked_parts import rank_parts
from unicuco_plugin.scores.ranking import RANKINGS

DRAW = torch.Generator().manual_seed(1)
WINDOWS = torch.randint(3, VOCABULARY, (3, 20), generator=DRAW)
CALIBRATION = torch.randint(3, VOCABULARY, (16, 32), generator=DRAW)
# Nothing, cuts in the middle, at the beginning and the end, and two that begin or end alike.
CANDIDATES = [[], [2], [1, 3, 4], [1, 3], [0], [5], [0, 2, 3], [1, 2, 3, 4, 5], [3, 4]]


def corrections_of(decoder, method="ridge", **fields):
    dense = DenseStates(BlockRunner(decoder, CALIBRATION.shape[1]), CALIBRATION, keep=True)
    return Corrections(dense, method, METHODS[method], **fields)


def cuts(drop, blocks=6):
    kept = [index for index in range(blocks) if index not in drop]
    return [(one, next_) for one, next_ in zip(kept, [*kept[1:], blocks], strict=True) if next_ > one + 1]


@torch.no_grad()
def plain_divergence(model, drop, corrections):
    """``m`` mean divergences per token of a plain forward in which the corrected projections compute."""
    log_p = model(WINDOWS, use_cache=False).logits.log_softmax(-1).double()
    found = [corrections.at(*cut) for cut in cuts(drop)]
    with bypassed(find_decoder(model), drop), contextlib.ExitStack() as stack:
        for one in found:
            stack.enter_context(exchanged(one.projection.module, one.values))
        log_q = model(WINDOWS, use_cache=False).logits.log_softmax(-1).double()
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1)


@pytest.mark.parametrize(("family", "method"), [("llama", "ridge"), ("granite", "linear"), ("phi3", "ridge")])
def test_a_candidate_is_measured_as_the_model_that_its_corrections_are_folded_into(family, method):
    model = tiny_model(family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    decoder = find_decoder(model)
    corrections = corrections_of(decoder, method)
    found = BlockEvaluator(decoder, WINDOWS, corrections=corrections).evaluate(CANDIDATES)
    for drop, one in zip(CANDIDATES, found, strict=True):
        expected = plain_divergence(model, drop, corrections)
        torch.testing.assert_close(torch.tensor(one.per_window).double(), expected, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    plain = BlockEvaluator(decoder, WINDOWS).evaluate(CANDIDATES)
    differ = [one.value != other.value for one, other in zip(found, plain, strict=True)]
    assert differ == [bool(cuts(drop)) for drop in CANDIDATES]


def test_a_factor_multiplies_the_states_behind_a_cut():
    decoder = find_decoder(tiny_model("llama"))
    corrections = corrections_of(decoder, "scale")
    [found] = BlockEvaluator(decoder, WINDOWS, corrections=corrections).evaluate([[1, 3, 4]])
    gains = {index: corrections.at(index, following).gain for index, following in [(0, 2), (2, 5)]}
    assert all(gain != 1.0 for gain in gains.values())
    hooks = [
        decoder.blocks[index].register_forward_hook(lambda _, __, out, gain=gain: out * gain)
        for index, gain in gains.items()
    ]
    with torch.no_grad():
        with bypassed(decoder, [1, 3, 4]):
            log_q = decoder.model(WINDOWS, use_cache=False).logits.log_softmax(-1).double()
        for hook in hooks:
            hook.remove()
        log_p = decoder.model(WINDOWS, use_cache=False).logits.log_softmax(-1).double()
    assert found.value == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum(-1).mean()), rel=1e-4)


@pytest.mark.parametrize("method", ["ridge", "scale"])
def test_values_are_the_same_bits_alone_in_company_and_where_corrections_are_solved_again(method):
    decoder = find_decoder(tiny_model("llama"))
    together = BlockEvaluator(decoder, WINDOWS, corrections=corrections_of(decoder, method)).evaluate(CANDIDATES)
    forgetful = corrections_of(decoder, method, cache_bytes=0)
    alone = [BlockEvaluator(decoder, WINDOWS, corrections=forgetful).evaluate([one])[0] for one in CANDIDATES[::-1]]
    assert [one.per_window for one in together] == [one.per_window for one in alone[::-1]]


def test_none_measures_what_is_measured_without():
    decoder = find_decoder(tiny_model("llama"))
    one = BlockEvaluator(decoder, WINDOWS, corrections=corrections_of(decoder, "none")).evaluate(CANDIDATES)
    other = BlockEvaluator(decoder, WINDOWS).evaluate(CANDIDATES)
    assert [row.per_window for row in one] == [row.per_window for row in other]


# A half behind its own other half, cuts over several halves, at the beginning and the end, a whole block.
HALVES = [[], [3], [2], [3, 4, 5], [4, 5, 6], [0, 1], [0], [10, 11], [1, 2, 3, 4, 8]]


@pytest.mark.parametrize("family", ["llama", "granite"])
def test_halves_are_measured_as_the_model_that_their_corrections_are_folded_into(family):
    model = tiny_model(family)
    decoder = find_decoder(model)
    runner = HalfRunner(decoder, CALIBRATION.shape[1])
    corrections = Corrections(DenseStates(runner, CALIBRATION, keep=True), "ridge", METHODS["ridge"])
    units = [{runner.halves[place]: 1.0 for place in drop} for drop in HALVES]
    measured = UnitsEvaluator(decoder, "sublayer", WINDOWS, corrections=corrections).evaluate(units)
    plain = UnitsEvaluator(decoder, "sublayer", WINDOWS).evaluate(units)
    for drop, names, one, other in zip(HALVES, units, measured, plain, strict=True):
        found = [corrections.at(*cut) for cut in cuts(drop, 12)]
        parents = [one.projection.name.rpartition(".")[0] for one in found]
        assert parents == [runner.halves[place] for place, _ in cuts(drop, 12)]
        with torch.no_grad(), contextlib.ExitStack() as stack:
            log_p = model(WINDOWS, use_cache=False).logits.log_softmax(-1).double()
            stack.enter_context(silenced(decoder, names))
            for correction in found:
                stack.enter_context(exchanged(correction.projection.module, correction.values))
            log_q = model(WINDOWS, use_cache=False).logits.log_softmax(-1).double()
        expected = (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1)
        torch.testing.assert_close(torch.tensor(one.per_window).double(), expected, rtol=1e-4, atol=1e-6)
        assert (one.value != other.value) == bool(found)


def test_halves_beside_each_other_and_factors_are_refused():
    with pytest.raises(UnsupportedModelError, match="do not run one after the other"):
        HalfRunner(find_decoder(tiny_model("gpt_neox")), 8)
    runner = HalfRunner(find_decoder(tiny_model("llama")), 32)
    corrections = Corrections(DenseStates(runner, CALIBRATION), "scale", METHODS["scale"])
    with pytest.raises(UnsupportedModelError, match="compensation scale multiplies the states behind blocks, not"):
        corrections.check([3], ())


def test_what_stays_is_not_corrected():
    decoder = find_decoder(tiny_model("llama"))
    with pytest.raises(StrategyError, match=r"^compensation ridge corrects what leaves, not what 'sparsity' changes$"):
        UnitsEvaluator(decoder, "sparsity", WINDOWS, corrections=corrections_of(decoder))


PARTS = [
    {},
    {"model.layers.1.self_attn": 0.5, "model.layers.2.mlp": 0.75},
    {"model.layers.1.self_attn": 1.0, "model.layers.1.mlp": 1.0, "model.layers.2.mlp": 0.75},
    {"model.layers.0.self_attn": 1.0, "model.layers.3.mlp": 0.25, "model.layers.5.mlp": 1.0},
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "biased"), [("llama", True), ("llama", False), ("qwen2", True), ("granite", False)])
def test_modules_without_some_parts_are_measured_as_the_model_that_they_are_folded_into(family, biased):
    model = tiny_model(family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    decoder = find_decoder(model)
    ranked = rank_parts(decoder, CALIBRATION, RANKINGS["flap"], compensate=biased)
    runner = HalfRunner(decoder, CALIBRATION.shape[1])
    corrections = Corrections(DenseStates(runner, CALIBRATION, keep=True), "ridge", METHODS["ridge"])
    fields = {"payload": ranked.to_payload()}
    found = UnitsEvaluator(decoder, "structured", WINDOWS, corrections=corrections, **fields).evaluate(PARTS)
    plain = UnitsEvaluator(decoder, "structured", WINDOWS, **fields).evaluate(PARTS)
    assert [one.value != other.value for one, other in zip(found, plain, strict=True)] == [False, True, True, True]
    with torch.no_grad():
        log_p = model(WINDOWS, use_cache=False).logits.log_softmax(-1).double()
    for units, one in zip(PARTS, found, strict=True):
        kept = ranked.keep(decoder, units)
        done = compensate_parts(DenseStates(runner, CALIBRATION), kept, METHODS["ridge"])
        restore = done.fold(decoder, ())
        biases = {**kept.biases, **done.biases}
        log_q = masked_logits(decoder, KeptParts(kept.kept, biases), WINDOWS).log_softmax(-1).double()
        restore()
        expected = (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1)
        torch.testing.assert_close(torch.tensor(one.per_window).double(), expected, rtol=1e-3, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    [one] = ReducedEvaluator(decoder, WINDOWS, corrections=corrections).evaluate([mixed_parts(biases=True)])
    done = compensate_parts(DenseStates(runner, CALIBRATION), mixed_parts(biases=True), METHODS["ridge"])
    restore = done.fold(decoder, ())
    parts = mixed_parts(biases=True)
    log_q = masked_logits(decoder, KeptParts(parts.kept, {**parts.biases, **done.biases}), WINDOWS).log_softmax(-1)
    restore()
    assert one.value == pytest.approx(float((log_p.exp() * (log_p - log_q.double())).sum(-1).mean()), rel=1e-3)
    # Little memory solves anew, to the same bits, whoever is measured beside.
    tight = Corrections(DenseStates(runner, CALIBRATION, keep=True), "ridge", METHODS["ridge"], cache_bytes=1)
    evaluator = UnitsEvaluator(decoder, "structured", WINDOWS, corrections=tight, **fields)
    assert [evaluator.evaluate([units])[0].value for units in reversed(PARTS)] == [one.value for one in reversed(found)]
