"""OWL and DLP on cases worked by hand, and on a tiny model by another route."""

import pytest
import torch

from unicuco_plugin.peers.layerwise import Dlp, Owl
from unicuco_plugin.scores.layerwise import importance, outlier_ratio, spread_keeps


def test_an_outlier_is_above_m_times_the_mean():
    # The mean is 2: one of ten is above 10, none above 12.
    scores = torch.tensor([1.0] * 8 + [0.8, 11.2])
    assert outlier_ratio(scores, 5.0) == pytest.approx(10.0)
    assert outlier_ratio(scores, 6.0) == 0.0


def test_scores_are_spread_over_twice_the_half_width_around_what_is_kept():
    # Mapped to [0, 0.16]: 0, 0.04, 0.16; their mean is 1/15.
    found = spread_keeps(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64), 0.08, 0.6)
    torch.testing.assert_close(found, torch.tensor([0.4 - 1 / 15, 0.44 - 1 / 15, 0.56 - 1 / 15], dtype=torch.float64))


def test_equal_scores_are_uniform():
    found = spread_keeps(torch.tensor([3.0, 3.0], dtype=torch.float64), 0.08, 0.6)
    assert found.tolist() == pytest.approx([0.4, 0.4])


def test_importance_is_one_minus_the_share_of_the_sum():
    assert importance(torch.tensor([1.0, 3.0, 4.0])).tolist() == [0.875, 0.625, 0.5]


def scores_of(decoder, inputs, index):
    return torch.cat(
        [
            (linear.weight.detach().abs() * inputs[name].norm(dim=0)).flatten()
            for name, linear in decoder.linears(index).items()
        ]
    )


def test_owl_keeps_more_of_blocks_with_more_outliers(ask, decoder, inputs):
    result = Owl(M=3.0)(ask(0.7))
    scores = [scores_of(decoder, inputs, index) for index in range(4)]
    r = torch.tensor([100.0 * A.gt(3.0 * A.mean()).float().mean().item() for A in scores])
    keep = 0.16 * (r - r.min()) / (r.max() - r.min())
    expected = 1.0 - (keep - keep.mean() + 0.3)
    assert list(result.units) == list(decoder.block_names)
    assert list(result.units.values()) == pytest.approx(expected.tolist(), abs=1e-5)
    assert result.tokens == 96
    assert result.details["outlier_ratios"] == pytest.approx(r.tolist(), abs=1e-3)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_dlp_keeps_more_of_blocks_with_lower_scores(ask, decoder, inputs, statistic):
    result = Dlp(statistic=statistic)(ask(0.5))
    typical = torch.stack([getattr(scores_of(decoder, inputs, i), statistic)() for i in range(4)])
    # By hand: the map to [0, 2 alpha] takes away the constant and the scale of 1 - S / sum S.
    keep = 0.3 * (typical.max() - typical) / (typical.max() - typical.min())
    expected = 1.0 - (keep - keep.mean() + 0.5)
    assert list(result.units.values()) == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("peer", [Owl(), Dlp()])
@pytest.mark.parametrize("sparsity", [0.05, 0.5, 0.93])
def test_the_budget_is_met_exactly_even_where_the_formula_leaves_the_range(ask, peer, sparsity):
    units = peer(ask(sparsity)).units
    assert sum(units.values()) / 4 == pytest.approx(sparsity, abs=1e-12)
    assert max(units.values()) <= 0.95


def test_defaults_are_those_of_the_public_code():
    assert Owl() == Owl(M=5.0, half_width=0.08)
    assert Dlp() == Dlp(half_width=0.15, statistic="mean")
