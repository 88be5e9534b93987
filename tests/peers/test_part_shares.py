"""Peers of structured pruning: budgets, kinds and rules, on a tiny model."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unicuco_plugin.errors import RequestError
from unicuco_plugin.models.parts.parts import find_parts
from unicuco_plugin.objectives.interaction import InteractionMeter, assign_ratios
from unicuco_plugin.peers.part_shares import Interaction
from unicuco_plugin.peers.parts import parts_space
from unicuco_plugin.plugins.manager import make_peer
from unicuco_plugin.scores.flap import flap_shares
from unicuco_plugin.scores.ranked_parts import RankedParts, rank_parts
from unicuco_plugin.scores.ranking import RANKINGS
from unicuco_plugin.spaces.structured import StructuredSpace

SPACE = StructuredSpace(("a.0.self_attn", "a.0.mlp"), (200, 1000), ((2, 1), (100, 1)))


@pytest.mark.parametrize("share", [0.1, 0.25, 0.6])
@pytest.mark.parametrize("name", ["structured_uniform", "flap", "interaction"])
def test_a_peer_reaches_the_share_and_exceeds_it_by_less_than_a_step(ask, decoder, name, share):
    found = make_peer(name)(ask(share))
    space = parts_space(decoder)
    x = space.from_units(found.units)
    assert found.space == "structured"
    assert space.sparsity(x[None]).item() == pytest.approx(found.sparsity, abs=1e-12)
    # The last step of an MLP of 48 neurons is 16.
    step = 32 * find_parts(decoder)["model.layers.0.mlp"].params / sum(space.unit_params)
    assert share - 1e-9 <= found.sparsity < share + step
    assert list(found.units) == [unit for unit in space.units if unit in found.units]


def test_uniform_gives_every_module_the_same_share_as_far_as_steps_go(ask):
    units = make_peer("structured_uniform")(ask(0.5)).units
    assert {units.get(f"model.layers.{i}.self_attn", 0.0) for i in range(4)} == {0.5}
    assert make_peer("structured_uniform")(ask(0.5)).tokens == 0


@pytest.mark.parametrize(("name", "kind"), [("attention_only", "self_attn"), ("mlp_only", "mlp")])
def test_one_kind_alone_goes(ask, name, kind):
    found = make_peer(name)(ask(0.2))
    assert found.units
    assert all(unit.endswith(kind) for unit in found.units)
    assert found.sparsity >= 0.2 - 1e-9


def test_a_kind_that_is_too_small_is_refused(ask):
    with pytest.raises(
        RequestError, match=r"sparsity must be at most 0\.\d+ where only attention modules go, got 0\.9"
    ):
        make_peer("attention_only")(ask(0.9))


def test_one_round_of_the_reconstruction_follows_its_equation(ask, decoder, windows):
    space = parts_space(decoder)
    found = Interaction(rounds=1)(ask(0.4))
    meter = InteractionMeter(decoder, windows)
    TE = meter.measure(rank_parts(decoder, windows, RANKINGS["flap"]).keep(decoder, {}), space.units)
    assert list(found.details["interactions"][0].values()) == pytest.approx(TE.tolist(), rel=1e-5)
    expected = space.spend(assign_ratios(TE, space.params, 0.4)[None], 0.4)[0]
    torch.testing.assert_close(space.from_units(found.units), expected)
    assert found.tokens == windows.numel() * (1 + 1 + 8)


def test_the_reconstruction_measures_again_as_modules_shrink(ask):
    found = Interaction()(ask(0.6))
    rounds = found.details["interactions"]
    assert len(rounds) == 4
    assert rounds[0] != rounds[1] != rounds[2]


@given(share=st.floats(0.01, 0.99), seed=st.integers(0, 100))
def test_flap_cuts_standardised_scores_of_all_modules_at_one_threshold(share, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = {"a.0.self_attn": torch.rand(2, generator=generator), "a.0.mlp": 50 * torch.rand(100, generator=generator)}
    shares = flap_shares(SPACE, RankedParts(scores, {}), share)
    counts = (shares * torch.tensor([2, 100])).round().long().tolist()
    standard = {name: (s.double() - s.double().mean()) / s.double().std(correction=0) for name, s in scores.items()}
    gone = torch.cat([s.sort().values[:c] for s, c in zip(standard.values(), counts, strict=True)])
    kept = torch.cat([s.sort().values[c:] for s, c in zip(standard.values(), counts, strict=True)])
    assert not len(kept) or gone.max() <= kept.min()
    removed = counts[0] * 100 + counts[1] * 10
    assert share * 1200 - 1e-6 <= removed
    assert removed < share * 1200 + 100


def test_flap_takes_a_module_whose_parts_are_all_worth_nothing_first():
    scores = {"a.0.self_attn": torch.zeros(2), "a.0.mlp": torch.linspace(0.0, 1.0, 100)}
    shares = flap_shares(SPACE, RankedParts(scores, {}), 0.25)
    assert shares[0] == 1.0
    assert 0.0 < shares[1] < 0.2
