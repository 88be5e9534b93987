"""What stands at a budget before anybody proposes, and that answers do not depend on their company."""

import pytest
import torch
from processor import SAME_BITS

from unicuco_plugin.policy.contest import Contest
from unicuco_plugin.policy.evidence import Evidence
from unicuco_plugin.policy.posterior import Posterior
from unicuco_plugin.policy.stratnet import StratNet
from unicuco_plugin.spaces.precision import PrecisionSpace
from unicuco_plugin.spaces.sparsity import SparsitySpace

CHOICES = (("dense", 16.0, 0), ("W8A16", 8.0, 0), ("W4A16", 4.0, 0), ("W3A16", 3.0, 0))
# A step of the small unit is a share of 2.5e-5: less than what journals round.
SPACE = PrecisionSpace(("model.layers.0.mlp", "model.layers.1.mlp"), (10**6, 100), (CHOICES,) * 2)


def test_a_strategy_of_steps_that_was_moved_onto_a_budget_has_an_identity_of_its_own():
    start, beyond = SPACE.parse("2,1"), SPACE.parse("2,2")
    eye = torch.eye(2, dtype=torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    posterior = Posterior(torch.stack([start, beyond]), eye, 1.5 * one, one, 1.0, 0.05, 0.0, -1.0, 0.7, "log")
    net = StratNet(2, torch.Generator().manual_seed(0))
    contest = Contest(SPACE, net, posterior, {"2,1": 0.25}, Evidence(0.0, 0.1))
    [same] = contest._standing(SPACE.sparsity(start[None]).item())
    [moved] = contest._standing(SPACE.sparsity(beyond[None]).item())
    assert torch.equal(same.x, start) and not torch.equal(moved.x, start)
    assert (same.key, moved.key) == ("2,1", SPACE.key(moved.x))
    assert moved.std > same.std  # nobody measured it on the second lot


def smooth_contest():
    """A contest over six units whose shares are any numbers, with forty measurements."""
    space = SparsitySpace(tuple(f"model.layers.{block}.mlp" for block in range(6)), (100, 120, 90, 100, 70, 110))
    draw = torch.Generator().manual_seed(3)
    rows = space.rounded(torch.cat([space.random(4, budget, draw) for budget in space.budgets[::2]]))
    t = torch.randn(len(rows), generator=draw, dtype=torch.float64) + 3.0 * space.sparsity(rows)
    ell = torch.ones(space.features.shape[1], dtype=torch.float64)
    posterior = Posterior(rows, space.features, ell, t, 1.0, 0.05, 0.0, -1.0, 0.7, "log")
    archive = dict.fromkeys((space.key(row) for row in rows[:10]), 0.5)
    return Contest(space, StratNet(6, torch.Generator().manual_seed(0)), posterior, archive, Evidence(0.0, 0.1))


@pytest.mark.slow
def test_an_answer_of_a_smooth_space_is_the_same_in_any_company():
    budgets = [0.05 + 0.02 * place for place in range(17)]
    together, backwards = smooth_contest().best(budgets), smooth_contest().best(budgets[::-1])[::-1]
    for place in (0, 9, 16):
        [alone] = smooth_contest().best([budgets[place]])
        for found in (together[place], backwards[place]):
            if SAME_BITS:
                assert torch.equal(found.x, alone.x)
                assert (found.mean, found.std, found.key) == (alone.mean, alone.std, alone.key)
            torch.testing.assert_close(found.x, alone.x, rtol=0.0, atol=1e-9)
            assert (found.mean, found.std) == pytest.approx((alone.mean, alone.std), rel=1e-6)
            assert found.source == alone.source


def test_a_contest_remembers_only_so_much(monkeypatch):
    monkeypatch.setattr("unicuco_plugin.policy.contest._KEPT", 4)
    monkeypatch.setattr("unicuco_plugin.policy.contest._WON", 8)
    contest = smooth_contest()
    budgets = [0.05 + 0.02 * place for place in range(10)]
    first = contest.best(budgets)
    assert (len(contest._races), len(contest._won)) == (4, 8)
    assert [torch.equal(a.x, b.x) for a, b in zip(first, contest.best(budgets), strict=True)] == [True] * 10
