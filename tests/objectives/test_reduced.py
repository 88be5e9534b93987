"""Candidates without some parts against a plain forward of the whole model, masked by hand."""

import weakref

import pytest
import torch
from tiny import VOCABULARY, tiny_model

from unicuco_plugin.errors import StrategyError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.parts import find_parts
from unicuco_plugin.objectives.prefixes import PrefixWalk
from unicuco_plugin.objectives.reduced import ReducedEvaluator
from unicuco_plugin.scores.ranked_parts import rank_parts
from unicuco_plugin.scores.ranking import RANKINGS

WINDOWS = torch.randint(3, VOCABULARY, (3, 16), generator=torch.Generator().manual_seed(0))
UNITS = [
    {},
    {"model.layers.1.self_attn": 0.5, "model.layers.2.mlp": 0.75},
    {"model.layers.1.self_attn": 1.0, "model.layers.1.mlp": 1.0},
    {"model.layers.0.mlp": 1.0, "model.layers.3.self_attn": 1.0, "model.layers.3.mlp": 0.25},
]


def masked_logits(model, kept):
    """A plain forward with hooks that zero the output projections' inputs and add the biases."""
    hooks = []
    for name, part in find_parts(find_decoder(model)).items():
        if name in kept.kept:
            mask = torch.zeros(part.count)
            mask[list(kept.kept[name])] = 1.0
            mask = mask.repeat_interleave(part.width)
            output = model.get_submodule(part.output)
            hooks.append(output.register_forward_pre_hook(lambda _, args, mask=mask: (args[0] * mask,)))
            if name in kept.biases:
                bias = kept.biases[name]
                hooks.append(output.register_forward_hook(lambda _, __, out, bias=bias: out + bias))
    with torch.no_grad():
        logits = model(WINDOWS, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return logits


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3", "mistral"])
@pytest.mark.parametrize("compensate", [False, True], ids=["plain", "compensated"])
def test_divergence_is_that_of_a_plain_forward_of_the_masked_model(family, compensate):
    model = tiny_model(family, blocks=4)
    decoder = find_decoder(model)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    ranked = rank_parts(decoder, WINDOWS, RANKINGS["flap"], compensate=compensate)
    candidates = [ranked.keep(decoder, units) for units in UNITS]
    found = ReducedEvaluator(decoder, WINDOWS).evaluate(candidates)
    log_p = masked_logits(model, KeptParts({})).log_softmax(-1)
    for evaluation, kept in zip(found, candidates, strict=True):
        log_q = masked_logits(model, kept).log_softmax(-1)
        expected = (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1)
        assert evaluation.per_window == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-6)
        assert evaluation.tokens == WINDOWS.numel()
    assert found[0].value == 0.0
    assert min(evaluation.value for evaluation in found[1:]) > 1e-3
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_common_prefixes_run_once_and_what_one_batch_ran_the_next_reuses(monkeypatch):
    decoder = find_decoder(tiny_model("llama", blocks=4))
    ranked = rank_parts(decoder, WINDOWS, RANKINGS["flap"])
    evaluator = ReducedEvaluator(decoder, WINDOWS)
    runs = []
    run = PrefixWalk._run
    monkeypatch.setattr(PrefixWalk, "_run", lambda self, i, states: runs.append(i) or run(self, i, states))
    first = {"model.layers.1.mlp": 0.5}
    both = [ranked.keep(decoder, units) for units in (first, first | {"model.layers.3.mlp": 0.5})]
    values = evaluator.evaluate(both)
    assert runs == [0, 1, 1, 2, 2, 3, 3, 3]
    runs.clear()
    assert [e.value for e in evaluator.evaluate(both[::-1])] == [e.value for e in values[::-1]]
    assert runs == []


def test_candidates_that_differ_in_a_bias_alone_are_told_apart():
    decoder = find_decoder(tiny_model("llama", blocks=4))
    kept = {"model.layers.1.mlp": tuple(range(24))}
    biases = [torch.zeros(32), torch.ones(32)]
    found = ReducedEvaluator(decoder, WINDOWS).evaluate([KeptParts(kept, {"model.layers.1.mlp": b}) for b in biases])
    assert found[0].value != found[1].value


def test_parts_that_do_not_fit_the_model_are_refused():
    decoder = find_decoder(tiny_model("llama", blocks=4))
    with pytest.raises(StrategyError, match=r"must be in \[0, 2\)"):
        ReducedEvaluator(decoder, WINDOWS).evaluate([KeptParts({"model.layers.1.self_attn": (5,)})])


def test_an_evaluator_is_freed_at_once_with_the_states_it_keeps(no_collector):
    decoder = find_decoder(tiny_model("llama", blocks=4))
    ranked = rank_parts(decoder, WINDOWS, RANKINGS["flap"])
    evaluator = ReducedEvaluator(decoder, WINDOWS)
    evaluator.evaluate([ranked.keep(decoder, units) for units in UNITS])
    states = weakref.ref(evaluator._walk.prefixes)
    del evaluator
    assert states() is None
