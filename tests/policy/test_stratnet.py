import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unicuco_plugin.policy.scalarization import Z_STAR, pbi, tchebycheff, weighted_sum
from unicuco_plugin.policy.stratnet import StratNet, imitate, preference_grid, sample_preferences, train_stratnet
from unicuco_plugin.spaces.depth import DepthSpace

D = 6
SPACE = DepthSpace(tuple("abcdef"), (1,) * D)
COSTS = torch.linspace(0.2, 1.0, D, dtype=torch.float64)


def seeded(number):
    return torch.Generator().manual_seed(number)


def objectives(scores):
    x = SPACE.relax(scores)
    return torch.stack([1.0 - x.mean(-1), x @ COSTS / COSTS.sum()], -1)


def expected_loss(net, scalarization):
    lam = preference_grid(500)
    with torch.no_grad():
        return scalarization(objectives(net(lam)), lam, torch.full((2,), Z_STAR).double()).mean().item()


def trained(scalarization=tchebycheff, seed=0, steps=150):
    net = StratNet(D, seeded(seed))
    train_stratnet(
        net, objectives, scalarization, steps=steps, preferences=10, learning_rate=1e-3, generator=seeded(seed + 1)
    )
    return net


def test_the_network_is_two_to_256_to_256_to_d_with_relu():
    net = StratNet(D, seeded(0))
    assert [tuple(p.shape) for p in net.parameters()] == [(256, 2), (256,), (256, 256), (256,), (D, 256), (D,)]
    lam = preference_grid(5)
    hidden = lam
    for linear in (net.layers[0], net.layers[2]):
        hidden = (hidden @ linear.weight.T + linear.bias).clamp_min(0.0)
    torch.testing.assert_close(net(lam), hidden @ net.layers[4].weight.T + net.layers[4].bias)


def test_its_generator_alone_decides_the_weights():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = StratNet(D, seeded(3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second, other = StratNet(D, seeded(3)), StratNet(D, seeded(4))
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_training_twice_gives_the_same_bits_whatever_the_global_generator():
    torch.manual_seed(1)
    first = trained(steps=20)
    torch.manual_seed(2)
    assert all(map(torch.equal, first.parameters(), trained(steps=20).parameters()))


@pytest.mark.parametrize("scalarization", [tchebycheff, weighted_sum, pbi])
def test_training_lowers_the_expected_scalarization(scalarization):
    before = expected_loss(StratNet(D, seeded(0)), scalarization)
    assert expected_loss(trained(scalarization), scalarization) < 0.95 * before


def test_no_steps_change_nothing():
    assert all(map(torch.equal, StratNet(D, seeded(0)).parameters(), trained(steps=0).parameters()))


@pytest.mark.slow
def test_the_trained_network_removes_the_cheap_units_first():
    scores = trained(steps=400)(preference_grid(64))
    taken = SPACE.project(scores, 0.5).mean(0)
    assert taken[:2].min() > taken[-2:].max()


@given(count=st.integers(1, 50), seed=st.integers(0, 100))
def test_preferences_lie_on_the_simplex(count, seed):
    for lam in (sample_preferences(count, seeded(seed)), preference_grid(count)):
        assert lam.shape == (count, 2)
        assert (lam >= 0.0).all()
        torch.testing.assert_close(lam.sum(-1), torch.ones(count, dtype=torch.float64))


def test_sampled_preferences_are_uniform():
    first = sample_preferences(20_000, seeded(0))[:, 0]
    deciles = torch.histc(first, bins=10, min=0.0, max=1.0) / 20_000
    assert deciles.sub(0.1).abs().max() < 0.01


def test_imitation_teaches_the_strategies_shown():
    net = StratNet(6, torch.Generator().manual_seed(0))
    lam = preference_grid(3)
    x = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0], [0, 1, 0, 0, 1, 1.0]], dtype=torch.float64)
    imitate(net, lam, x, steps=300, learning_rate=3e-3)
    assert torch.equal(net(lam).sigmoid().round().detach(), x)


def test_imitated_shares_come_back_as_shares():
    net = StratNet(4, torch.Generator().manual_seed(0))
    x = torch.tensor([[0.2, 0.5, 0.6, 0.9]], dtype=torch.float64)
    imitate(net, preference_grid(1), x, steps=400, learning_rate=3e-3)
    torch.testing.assert_close(net(preference_grid(1)).sigmoid().detach(), x, rtol=0, atol=0.02)


def test_no_step_of_imitation_changes_nothing():
    net, other = (StratNet(4, torch.Generator().manual_seed(0)) for _ in range(2))
    imitate(net, preference_grid(2), torch.ones(2, 4, dtype=torch.float64), steps=0, learning_rate=1e-3)
    assert torch.equal(net(preference_grid(2)), other(preference_grid(2)))
