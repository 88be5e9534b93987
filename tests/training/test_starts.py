"""First strategies: which shapes there are, on which budgets."""

import pytest
import torch
from tiny import tiny_model

from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.peers.layerwise import Owl
from unicuco_plugin.peers.peer import PeerRequest
from unicuco_plugin.spaces.sparsity import SparsitySpace
from unicuco_plugin.training.starts import Allocation, find_starts, layerwise_scores

NAMES = tuple(f"model.layers.{i}.{kind}" for i in range(4) for kind in ("a", "b"))
SPACE = SparsitySpace(NAMES, (100, 300) * 4)
BUDGETS = torch.tensor(SPACE.budgets, dtype=torch.float64)


@pytest.fixture(scope="module")
def found():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 3, 8, generator=generator, dtype=torch.float64)
    return [Allocation(budget, z, torch.ones(2, 8).double()) for budget, z in zip((0.4, 0.5, 0.6), scores, strict=True)]


@pytest.fixture(scope="module")
def others():
    return torch.randn(2, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def shape_of(rows):
    """Scores without their shift."""
    z = SPACE.scores(rows)
    return z - z[:, :1]


def has(rows, z):
    return bool(((shape_of(rows) - (z - z[0])).abs().amax(1) < 1e-6).any())


def test_starts_are_distinct_meet_budgets_and_begin_with_the_evened_out_ones(found, others):
    rows = find_starts(SPACE, found, others)
    assert bool(((SPACE.sparsity(rows)[:, None] - BUDGETS).abs().amin(1) < 1e-9).all())
    assert len({SPACE.key(row) for row in rows}) == len(rows) == 4 * len(BUDGETS)
    first = rows[: len(BUDGETS)]
    torch.testing.assert_close(SPACE.sparsity(first), BUDGETS, rtol=0, atol=1e-9)
    at = SPACE.budgets.index(0.5)
    torch.testing.assert_close(first[at], SPACE.project(found[1].scores[-1:], 0.5)[0])


def test_every_shape_is_there_when_each_budget_has_one_beside_the_evened_out(found, others):
    rows = find_starts(SPACE, found, others)[: 2 * len(BUDGETS)]
    assert has(rows, torch.zeros(8, dtype=torch.float64))
    for z in others:
        assert has(rows, z)
        assert any(has(rows, 0.5 * (z + part.scores[-1])) for part in found)


def test_without_slopes_there_are_uniform_starts_ramps_and_the_shapes_of_others(others):
    rows = find_starts(SPACE, [], others)
    uniform = rows[: len(SPACE.budgets)]
    torch.testing.assert_close(uniform, uniform[:, :1].expand_as(uniform), rtol=0, atol=1e-9)
    assert has(rows, torch.linspace(-0.5, 0.5, 8, dtype=torch.float64))
    assert has(rows, others[0])


def test_the_shapes_of_owl_and_dlp_are_their_shares_of_blocks():
    decoder = find_decoder(tiny_model("llama", blocks=3))
    windows = torch.randint(0, 90, (2, 16), generator=torch.Generator().manual_seed(0))
    names = tuple(f"model.layers.{i}.mlp.{kind}_proj" for i in range(3) for kind in ("up", "down"))
    space = SparsitySpace(names, (64,) * 6)
    owl, dlp = layerwise_scores(decoder, windows, space)
    shares = Owl()(PeerRequest(decoder, windows, 0.5)).units
    z = torch.tensor(owl, dtype=torch.float64)
    assert z.sigmoid().tolist() == pytest.approx([share for share in shares.values() for _ in range(2)])
    assert owl != dlp
