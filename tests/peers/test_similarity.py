"""Rankings from hidden states, against a plain forward."""

import pytest
import torch

from unicuco_plugin.peers.similarity import CosineWindow, ShortGpt, WeightSubcloning, mean_change, mean_cosine


def test_cosine_and_change_by_hand():
    before = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    after = torch.tensor([[6.0, 8.0], [0.0, 2.0]])
    assert mean_cosine(before, after).item() == pytest.approx(0.5)
    # ||(3, 4)|| / ||(6, 8)|| = 0.5; ||(-1, 2)|| / 2 = sqrt(5) / 2.
    assert mean_change(before, after).item() == pytest.approx((0.5 + 5**0.5 / 2) / 2)


def lowest(scores, names, count=2):
    return {names[index]: 1.0 for index in sorted(range(len(scores)), key=lambda index: scores[index])[:count]}


def cosines(one, other):
    dot = (one * other).sum(-1) / (one.norm(dim=-1) * other.norm(dim=-1))
    return dot.mean().item()


def test_shortgpt_drops_what_turns_the_states_least(ask, decoder, states):
    result = ShortGpt()(ask(0.5, batch_windows=4))
    influence = [1.0 - cosines(states[i], states[i + 1]) for i in range(4)]
    assert result.details["influence"] == pytest.approx(influence, abs=1e-6)
    assert result.units == lowest(influence, decoder.block_names)
    assert (result.space, result.tokens) == ("depth", 96)


def test_weight_subcloning_drops_what_adds_least(ask, decoder, states):
    result = WeightSubcloning()(ask(0.5, batch_windows=4))
    change = [((states[i + 1] - states[i]).norm(dim=-1) / states[i + 1].norm(dim=-1)).mean().item() for i in range(4)]
    assert result.details["change"] == pytest.approx(change, rel=1e-5)
    assert result.units == lowest(change, decoder.block_names)


@pytest.mark.parametrize(("sparsity", "k"), [(0.25, 1), (0.5, 2), (0.6, 3)])
def test_cosine_window_drops_neighbours_between_which_states_turn_least(ask, decoder, states, sparsity, k):
    result = CosineWindow()(ask(sparsity, batch_windows=4))
    found = [cosines(states[s], states[s + k]) for s in range(5 - k)]
    assert list(result.details["cosines"].values()) == pytest.approx(found, abs=1e-6)
    best = found.index(max(found))
    assert result.units == {decoder.block_names[i]: 1.0 for i in range(best, best + k)}
