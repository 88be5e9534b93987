"""First strategies and the prior that slopes give."""

import pytest
import torch
from scipy.stats import spearmanr

from unicuco_plugin.spaces.sparsity import SparsitySpace
from unicuco_plugin.training.even_slopes import even_out, find_prior

NAMES = tuple(f"model.layers.{i}.{kind}" for i in range(4) for kind in ("a", "b"))
SPACE = SparsitySpace(NAMES, (100, 300) * 4)
# Costs w_i exp(g s_i), in proportion to size, but the first unit three times as sensitive and the last half as much.
FACTORS = torch.tensor([3.0, 1, 1, 1, 1, 1, 1, 0.5], dtype=torch.float64)
WEIGHT = FACTORS * SPACE.params / 1600.0
GROWTH = 6.0


def slopes_at(x):
    return GROWTH * WEIGHT * (GROWTH * x).exp()


def cost(x):
    return (WEIGHT * ((GROWTH * x).exp() - 1.0)).sum(-1)


def found_in(count):
    return [even_out(SPACE, budget, slopes_at) for budget in (0.4, 0.5, 0.6, 0.7)[:count]]


@pytest.fixture(scope="module")
def found():
    return found_in(3)


def test_each_round_makes_the_slopes_per_weight_more_alike_on_the_budget():
    part = even_out(SPACE, 0.5, slopes_at, rounds=12)
    x = SPACE.project(part.scores, 0.5)
    torch.testing.assert_close(SPACE.sparsity(x), torch.full((13,), 0.5, dtype=torch.float64), rtol=0, atol=1e-9)
    spread = torch.stack([(slopes_at(row) / SPACE.params).log().std() for row in x])
    assert bool((spread[1:3] < spread[:2]).all())
    assert spread[-1] < 0.02
    assert bool((cost(x).diff()[:3] < 0).all())


def test_the_growth_is_that_of_uniform_sparsity(found):
    for part in found:
        uniform = torch.full((8,), part.budget, dtype=torch.float64)
        assert part.growth == pytest.approx(slopes_at(uniform).sum().item(), rel=1e-6)


def test_slopes_that_fall_everywhere_are_not_followed():
    part = even_out(SPACE, 0.5, lambda x: -torch.ones_like(x))
    assert torch.equal(part.scores, torch.zeros(3, 8, dtype=torch.float64))


def test_one_negative_slope_does_not_send_its_unit_to_the_bound():
    part = even_out(SPACE, 0.5, lambda x: torch.where(torch.arange(8) == 2, -5.0, slopes_at(x)))
    x = SPACE.project(part.scores[-1:], 0.5)[0]
    assert 0.55 < x[2].item() < 0.85


def test_the_priors_least_cost_at_an_anchor_is_the_anchors_allocation():
    found = [even_out(SPACE, budget, slopes_at, rounds=30) for budget in (0.4, 0.5, 0.6)]
    prior = find_prior(SPACE, found)
    x = SPACE.project(found[1].scores[-1:], 0.5).requires_grad_(True)
    (gradient,) = torch.autograd.grad(prior(x).exp().sum(), x)
    per_weight = gradient[0] / SPACE.params
    # Curves are straight between tenths: slopes agree as far as a tenth's growth lets them.
    assert (per_weight.max() / per_weight.min()).item() < 2.0
    generator = torch.Generator().manual_seed(0)
    others = SPACE.random(200, 0.5, generator)
    assert prior(x.detach())[0] < prior(others).min()


def test_the_prior_orders_strategies_of_one_budget_as_their_costs_do(found):
    x = SPACE.random(200, 0.5, torch.Generator().manual_seed(0))
    assert spearmanr(find_prior(SPACE, found)(x), cost(x)).statistic > 0.97


def test_a_slope_that_noise_made_tiny_counts_half_the_mean():
    found = [even_out(SPACE, b, lambda x: torch.where(torch.arange(8) == 2, 1e-4, slopes_at(x))) for b in (0.4, 0.6)]
    costs = find_prior(SPACE, found).costs[:, -1] / SPACE.params
    others = torch.cat([costs[1:2], costs[3:7]])
    assert 0.3 < (costs[2] / others.mean()).item() < 0.7


def test_the_prior_grows_as_slopes_fell_from_round_to_round(found):
    prior = find_prior(SPACE, found)
    low, high = (prior(torch.full((1, 8), s, dtype=torch.float64)).exp().item() for s in (0.4, 0.6))
    assert high / low == pytest.approx(torch.tensor(GROWTH * 0.2).exp().item(), rel=0.1)


def test_noise_in_the_slopes_makes_the_prior_trust_them_less():
    generator = torch.Generator().manual_seed(0)
    noisy = [
        even_out(SPACE, budget, lambda x: slopes_at(x) * (0.8 * torch.randn(8, generator=generator).double()).exp())
        for budget in (0.4, 0.5, 0.6, 0.7)
    ]
    steep = [
        (find_prior(SPACE, part).costs[:, -1] / find_prior(SPACE, part).costs[:, 5]).log()
        for part in (noisy, found_in(4))
    ]
    assert bool((steep[0] > steep[1]).all())


def test_weights_change_with_the_sparsity_as_the_anchors_say():
    def slopes(x):  # the first unit matters more the more is gone, the second less
        share = (SPACE.params @ x / SPACE.params.sum()).item()
        factor = torch.ones(8, dtype=torch.float64)
        factor[0], factor[1] = 1.0 + 8.0 * (share - 0.4), 3.0 - 4.0 * (share - 0.4)
        return factor * slopes_at(x)

    prior = find_prior(SPACE, [even_out(SPACE, budget, slopes) for budget in (0.4, 0.6)])
    steps = prior.costs.diff(dim=1) / SPACE.params[:, None]
    ratio = steps[0] / steps[1]
    # Steps from 0.1 to 0.4 have the first anchor's weights, those beyond 0.6 the last's, those between a mixture.
    assert bool((ratio[3:6].diff() > 0).all())
    torch.testing.assert_close(ratio[7:8], ratio[8:9])
    torch.testing.assert_close(ratio[1:2], ratio[2:3])


def test_where_nothing_moved_the_usual_growth_is_taken():
    still = [even_out(SPACE, 0.5, lambda x: SPACE.params / 1600.0)]
    prior = find_prior(SPACE, still)
    low, high = (prior(torch.full((1, 8), s, dtype=torch.float64)).exp().item() for s in (0.4, 0.6))
    assert high / low == pytest.approx(torch.tensor(8.0 * 0.2).exp().item(), rel=0.1)
