"""What stands at a budget before anybody proposes."""

import torch

from unicuco_plugin.policy.contest import Contest
from unicuco_plugin.policy.evidence import Evidence
from unicuco_plugin.policy.posterior import Posterior
from unicuco_plugin.policy.stratnet import StratNet
from unicuco_plugin.spaces.precision import PrecisionSpace

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
