"""Interactions against a plain forward with hooks; ratios against their equation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny import VOCABULARY, tiny_model

from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.parts import find_parts
from unicuco_plugin.objectives.interaction import InteractionMeter, assign_ratios, gaussian_entropy, measure_path
from unicuco_plugin.objectives.prefixes import PrefixWalk
from unicuco_plugin.scores.ranked_parts import rank_parts
from unicuco_plugin.scores.ranking import RANKINGS
from unicuco_plugin.spaces.structured import StructuredSpace

WINDOWS = torch.randint(3, VOCABULARY, (3, 16), generator=torch.Generator().manual_seed(0))
SIZES = torch.tensor([10.0, 30.0, 10.0, 30.0, 10.0, 30.0], dtype=torch.float64)
interactions = arrays("float64", 6, elements=st.floats(0.0, 50.0)).map(torch.from_numpy)


def test_the_entropy_of_normal_outputs_is_theirs_but_for_a_constant():
    F = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 0.5])
    assert gaussian_entropy(F).item() == pytest.approx(0.0, abs=0.01)
    assert gaussian_entropy(3.0 * F).item() == pytest.approx(3 * torch.tensor(3.0).log().item(), abs=0.01)


@pytest.mark.parametrize("reduced", [False, True], ids=["dense", "reduced"])
def test_interactions_are_those_of_plain_forwards_with_silent_modules(reduced, monkeypatch):
    model = tiny_model("llama", blocks=3)
    decoder = find_decoder(model)
    names = list(find_parts(decoder))
    ranked = rank_parts(decoder, WINDOWS, RANKINGS["flap"])
    lost = {"model.layers.0.mlp": 0.5, "model.layers.1.self_attn": 1.0} if reduced else {}
    kept = ranked.keep(decoder, lost)
    runs = []
    run = PrefixWalk._run
    monkeypatch.setattr(PrefixWalk, "_run", lambda self, i, states: runs.append(i) or run(self, i, states))
    meter = InteractionMeter(decoder, WINDOWS)
    found = meter.measure(kept, names)
    live = [name for name in names if name not in kept.removed]
    assert meter.tokens == (1 + len(live)) * WINDOWS.numel()
    if not reduced:
        assert len(runs) == 3 + 2 * (3 + 2 + 1)  # the dense model, and two modules of each block from there on
    monkeypatch.undo()

    def entropy(silent):
        hooks = []
        for name in {*kept.kept, *silent}:
            part = find_parts(decoder)[name]
            mask = torch.zeros(part.count)
            mask[list(() if name in silent else kept.kept[name])] = 1.0
            mask = mask.repeat_interleave(part.width)
            bias = 0.0 if name in silent else kept.biases.get(name, 0.0)
            output = model.get_submodule(part.output)
            hooks.append(output.register_forward_pre_hook(lambda _, args, mask=mask: (args[0] * mask,)))
            hooks.append(output.register_forward_hook(lambda _, __, out, bias=bias: out + bias))
        with torch.no_grad():
            F = model.base_model(WINDOWS, use_cache=False).last_hidden_state.flatten(0, 1)
        for hook in hooks:
            hook.remove()
        return F.double().std(0, correction=0).log().sum().item()

    expected = [abs(entropy([]) - entropy([name])) if name in live else 0.0 for name in names]
    assert found.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert sum(value > 0.01 for value in expected) >= len(live) - 1


def test_the_last_module_that_stays_is_worth_the_most():
    decoder = find_decoder(tiny_model("llama", blocks=2))
    names = list(find_parts(decoder))
    found = InteractionMeter(decoder, WINDOWS).measure(KeptParts(dict.fromkeys(names[1:], ())), names)
    assert found.tolist() == [float("inf"), 0.0, 0.0, 0.0]


@given(TE=interactions, sparsity=st.floats(0.01, 0.99))
def test_ratios_meet_the_target_and_are_inverse_to_interactions_below_one(TE, sparsity):
    p = assign_ratios(TE, SIZES, sparsity)
    assert (p @ SIZES / SIZES.sum()).item() == pytest.approx(sparsity, abs=1e-9)
    assert bool(((p >= 0) & (p <= 1)).all())
    c = p * (TE + 1e-6)
    some = c[p < 1.0]
    torch.testing.assert_close(some, some[:1].expand_as(some), rtol=1e-6, atol=1e-12)
    # Whole modules are those for which c would be too much.
    assert not len(some) or bool(((TE + 1e-6)[p == 1.0] <= some[0] * (1 + 1e-6)).all())


@given(TE=interactions)
def test_ratios_never_fall_below_what_is_gone(TE):
    gone = torch.tensor([1.0, 0.2, 0.0, 0.0, 0.5, 0.1], dtype=torch.float64)
    p = assign_ratios(TE, SIZES, 0.5, gone)
    assert bool((p >= gone).all())
    assert (p @ SIZES / SIZES.sum()).item() == pytest.approx(0.5, abs=1e-9)


def test_a_path_measures_shrinking_models_and_assigns_by_the_last_round_before_a_share():
    names = tuple(f"b.{i}.{kind}" for i in range(3) for kind in ("self_attn", "mlp"))
    space = StructuredSpace(names, (1000, 3000) * 3, ((10, 1), (30, 1)) * 3)
    asked = []

    def measure(x):
        asked.append(x)
        return torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], dtype=torch.float64) * (1.0 - x)

    path = measure_path(space, measure, 0.6, rounds=3)
    assert [space.sparsity(x[None]).item() for x in asked] == pytest.approx([0.0, 0.2, 0.4], abs=0.009)
    # These interactions are proportional to what is left, so all rounds agree.
    left = path.gone < 1.0
    torch.testing.assert_close(path.TE[left], path.TE[:1].expand(3, 6)[left])
    for share in (0.1, 0.2, 0.3, 0.45, 0.6):
        x = path.assign(share)
        assert share - 1e-9 <= space.sparsity(x[None]).item() < share + 100 / 12000
        soft = assign_ratios(path.TE[0], space.params, share)
        assert bool(((x - soft).abs() <= 0.15).all())
