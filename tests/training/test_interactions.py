"""What interactions say before a strategy is measured."""

import pytest
import torch

from unicuco_plugin.objectives.interaction import InteractionPath
from unicuco_plugin.spaces.structured import StructuredSpace
from unicuco_plugin.training.interactions import find_prior, whole_blocks

NAMES = tuple(f"b.{i}.{kind}" for i in range(2) for kind in ("self_attn", "mlp"))
SPACE = StructuredSpace(NAMES, (30, 90) * 2, ((3, 1), (30, 1)) * 2)


def path_of(*TE):
    return InteractionPath(SPACE, torch.zeros(1, 4, dtype=torch.float64), torch.tensor([TE], dtype=torch.float64))


def test_the_prior_orders_units_by_their_interactions_and_grows_with_the_share():
    prior = find_prior(path_of(1.0, 10.0, 0.0, 100.0))
    eye = torch.eye(4, dtype=torch.float64)
    whole = prior(eye)
    assert whole.argsort().tolist() == [2, 0, 1, 3]
    assert prior(torch.ones(1, 4, dtype=torch.float64)).exp().item() == pytest.approx(4.0)
    # What is left of the floor: a hundred times the interaction costs 100 ** 0.4 as much.
    assert (whole[3] - whole[0]).exp().item() == pytest.approx((101.3875 / 2.3875) ** 0.4, rel=1e-2)
    shares = torch.linspace(0.1, 1.0, 10, dtype=torch.float64)
    costs = prior(shares[:, None] * eye[3]).exp()
    assert bool((costs.diff() > 0).all())
    assert bool((costs.diff().diff() > -1e-12).all())


def test_a_unit_that_could_not_be_masked_counts_as_the_largest():
    prior = find_prior(path_of(1.0, 2.0, 3.0, float("inf")))
    values = prior(torch.eye(4, dtype=torch.float64))
    assert values[3] == values[2]


def test_blocks_go_whole_the_least_interaction_first_and_the_budget_is_met():
    names = tuple(f"b.{i}.{kind}" for i in range(3) for kind in ("self_attn", "mlp"))
    space = StructuredSpace(names, (30, 90) * 3, ((3, 1), (30, 1)) * 3)
    x = whole_blocks(space, torch.tensor([9.0, 9.0, 1.0, 2.0, 5.0, 3.0]).double(), 0.5)
    assert x[:2].tolist() == [0.0, 0.0]
    assert x[2:4].tolist() == [1.0, 1.0]
    assert 0.0 < x[4] < 1.0
    assert 0.5 <= space.sparsity(x[None]).item() < 0.5 + 3 / 360
