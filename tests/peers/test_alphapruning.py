"""Hill's estimate on spectra whose exponent is known, and the map to sparsities."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unicuco_plugin.peers.alphapruning import AlphaPruning, hill_alpha, map_alphas


@pytest.mark.slow
@settings(max_examples=25)
@given(st.floats(1.5, 6.0), st.floats(0.01, 100.0))
def test_the_exponent_of_an_exact_power_law_is_found_at_any_scale(alpha, scale):
    # Quantiles of p(x) ~ x^-alpha, x >= scale; their log density falls from the first bin on, where the tail begins.
    u = (torch.arange(800, dtype=torch.float64) + 0.5) / 800
    lam = scale * (1.0 - u) ** (-1.0 / (alpha - 1.0))
    assert hill_alpha(lam) == pytest.approx(alpha, rel=0.06)


def test_three_eigenvalues_by_hand():
    # All in one octave of bins: the peak is the first; from 1: n = 3, log 2 + log 4 = 2.0794, alpha 2.4427.
    # 1.5 is the last start allowed, so no other counts.
    assert hill_alpha(torch.tensor([1.0, 2.0, 4.0])) == pytest.approx(1.0 + 3.0 / (3.0 * 0.6931472), rel=1e-6)


@pytest.mark.parametrize("lam", [[2.0, 2.0, 2.0], [5.0], [3.0, 0.0, 0.0]])
def test_a_spectrum_without_a_tail_has_no_finite_exponent(lam):
    assert hill_alpha(torch.tensor(lam)) == float("inf")


def test_exponents_map_to_a_factor_of_the_budget():
    # m = 0.7, 1.0, 1.3 with sizes 1, 1, 2: eta = 0.5 * 4 / 4.3.
    found = map_alphas(torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64), [1, 1, 2], 0.5, 0.3)
    assert found.tolist() == pytest.approx([0.7 * 2 / 4.3, 2 / 4.3, 1.3 * 2 / 4.3])


def test_an_infinite_exponent_counts_as_the_largest_and_equal_ones_are_uniform():
    found = map_alphas(torch.tensor([2.0, float("inf"), 4.0], dtype=torch.float64), [1, 1, 1], 0.5, 0.3)
    assert found[1] == found[2]
    assert map_alphas(torch.tensor([2.0, 2.0]), [1, 3], 0.5, 0.3).tolist() == pytest.approx([0.5, 0.5])


def test_a_block_with_heavier_tails_is_pruned_less_and_no_text_is_read(ask, decoder):
    # One direction that towers over the others bends the tail outwards.
    generator = torch.Generator().manual_seed(0)
    for linear in decoder.linears(2).values():
        rows, columns = linear.weight.shape
        u, v = torch.randn(rows, 1, generator=generator), torch.randn(1, columns, generator=generator)
        linear.weight.data += 3.0 * u @ v / (u.norm() * v.norm()) * linear.weight.norm()
    result = AlphaPruning()(ask(0.5))
    assert min(result.units, key=result.units.get) == decoder.block_names[2]
    assert result.tokens == 0
    assert sum(result.units.values()) / 4 == pytest.approx(0.5, abs=1e-12)
    assert max(result.units.values()) / min(result.units.values()) == pytest.approx(1.3 / 0.7, rel=1e-6)


def test_the_default_spread_is_the_published_one():
    assert AlphaPruning() == AlphaPruning(eps=0.3)
