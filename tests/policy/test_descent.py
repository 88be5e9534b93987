import itertools

import pytest
import torch

from unicuco_plugin.policy.descent import descend, move_beside, propose_neighbours
from unicuco_plugin.policy.posterior import Posterior
from unicuco_plugin.spaces.depth import DepthSpace
from unicuco_plugin.spaces.sparsity import SparsitySpace
from unicuco_plugin.spaces.structured import StructuredSpace
from unicuco_plugin.spaces.sublayer import SublayerSpace

D = 8
SPACE = DepthSpace(tuple(f"b.{i}" for i in range(D)), (3,) * D)


@pytest.fixture(scope="module")
def posterior():
    """A rugged posterior over eight units: many measured points, little smoothness."""
    generator = torch.Generator().manual_seed(0)
    X = SPACE.first(60, generator)
    t = torch.randn(60, generator=generator, dtype=torch.float64)
    eye = torch.eye(D, dtype=torch.float64)
    return Posterior(X, eye, torch.full((D,), 1.5).double(), t, 1.0, 0.05, 0.0, -1.0, 0.7, "log")


def sets_of(count):
    rows = [[1.0 if i in chosen else 0.0 for i in range(D)] for chosen in itertools.combinations(range(D), count)]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("count", range(1, D))
def test_descents_end_where_no_swap_helps(posterior, count):
    starts = sets_of(count)
    ends = descend(posterior, SPACE, starts, count / D)
    assert torch.equal(ends.sum(-1), starts.sum(-1))
    assert (posterior.mean(ends) <= posterior.mean(starts) + 1e-9).all()
    for x, value in zip(ends, posterior.mean(ends), strict=True):
        swaps = []
        for old, new in itertools.product(x.nonzero()[:, 0].tolist(), (1 - x).nonzero()[:, 0].tolist()):
            swapped = x.clone()
            swapped[old], swapped[new] = 0.0, 1.0
            swaps.append(swapped)
        assert posterior.mean(torch.stack(swaps)).min() >= value - 1e-8


@pytest.mark.parametrize("count", range(1, D))
def test_descents_from_everywhere_find_the_least_mean(posterior, count):
    starts = sets_of(count)
    ends = posterior.mean(descend(posterior, SPACE, starts, count / D))
    assert ends.min().item() == pytest.approx(posterior.mean(starts).min().item(), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kappa", [0.0, -0.5])
def test_a_start_ends_where_it_ends_alone_whatever_paths_it_meets(posterior, kappa):
    starts = torch.cat([sets_of(3), sets_of(3).flip(0)])
    together = descend(posterior, SPACE, starts, 3 / D, kappa=kappa)
    alone = [descend(posterior, SPACE, row[None], 3 / D, kappa=kappa) for row in starts]
    assert torch.equal(together, torch.cat(alone))


def test_starts_are_not_changed(posterior):
    starts = sets_of(3)
    before = starts.clone()
    descend(posterior, SPACE, starts, 3 / D)
    assert torch.equal(starts, before)


@pytest.mark.parametrize("starts", [0, 2])
def test_proposals_are_local_optima_of_every_budget(posterior, starts):
    ends = propose_neighbours(
        posterior, SPACE, posterior.X, starts=starts, bound="lower", kappa=0.5, generator=torch.Generator()
    )
    assert set(ends.sum(-1).tolist()) == set(range(1, D))
    torch.testing.assert_close(descend(posterior, SPACE, ends[ends.sum(-1) == 3], 3 / D), ends[ends.sum(-1) == 3])


def test_budgets_without_a_start_are_left_out(posterior):
    X = sets_of(2)[:4]
    ends = propose_neighbours(posterior, SPACE, X, starts=0, bound="none", kappa=0.0, generator=torch.Generator())
    assert set(ends.sum(-1).tolist()) == {1, 2, 3}


def test_the_generator_decides_the_proposals(posterior):
    found = [
        propose_neighbours(
            posterior,
            SPACE,
            posterior.X,
            starts=3,
            bound="lower",
            kappa=0.5,
            generator=torch.Generator().manual_seed(1),
        )
        for _ in range(2)
    ]
    assert torch.equal(*found)


def test_descents_in_a_space_of_steps_stay_at_the_budget_and_cross_what_the_gradient_cannot():
    names = tuple(f"b.{i}.{kind}" for i in range(4) for kind in ("self_attn", "mlp"))
    space = StructuredSpace(names, (30, 90) * 4, ((3, 1), (30, 1)) * 4)
    generator = torch.Generator().manual_seed(0)
    X = torch.cat([torch.eye(8, dtype=torch.float64), space.first(60, generator)])
    # A last attention that costs nothing, all others much: only a move of whole units sees it from where it stays.
    t = X[:, ::2][:, :3].sum(-1) + 0.3 * X[:, 1::2].sum(-1)
    posterior = Posterior(X, space.features, torch.full((8,), 4.0).double(), t, 4.0, 0.01, 1.0, -1.0, 0.7, "log")
    start = space.from_units({"b.0.mlp": 1.0})[None]
    [end] = descend(posterior, space, start, 0.1875)
    assert end[6] > 0.0
    assert 0.1875 - 1e-9 <= space.sparsity(end[None]).item() < 0.1875 + 3 / 480
    assert posterior.mean(end[None]) < posterior.mean(start)


@pytest.mark.slow
def test_strategies_between_budgets_lead_to_those_on_either_side():
    names = tuple(f"b.{i}.{kind}" for i in range(3) for kind in ("self_attn", "mlp"))
    space = SublayerSpace(names, (16, 50, 16, 600, 16, 600))
    X = space.first(40, torch.Generator().manual_seed(0))
    posterior = Posterior(
        X, space.features, torch.full((6,), 4.0).double(), X.sum(-1), 4.0, 0.01, 1.0, -1.0, 0.7, "log"
    )
    # Blocks as large as no budget: each half counts, and a sixth of all of them comes down to less or more.
    rows = torch.stack([space.from_units(dict.fromkeys(names[i : i + 2], 1.0)) for i in (0, 2, 4)])
    listed = torch.tensor(space.budgets, dtype=torch.float64)
    sizes = space.sparsity(rows)
    off = ((sizes[:, None] - listed).abs() > 1e-9).all(1)
    assert bool(off.any())
    found = move_beside(posterior, space, rows)
    expected = []
    for size in sizes[off].tolist():
        expected += [
            max(b for b in (0.0, *space.budgets) if b < size),
            min(b for b in (*space.budgets, 1.0) if b > size),
        ]
    assert sorted(space.sparsity(found).tolist()) == pytest.approx(sorted(b for b in expected if 0.0 < b < 1.0))


def test_strategies_at_budgets_lead_nowhere_else(posterior):
    assert len(move_beside(posterior, SPACE, sets_of(3))) == 0


class OnlyLast(DepthSpace):
    """A plugin's: the last removed block may be swapped, and no other."""

    def neighbours(self, x):
        moves = super().neighbours(x)
        return moves[(moves[..., :-1] != x[:, None, :-1]).sum(-1) < 2].view(len(x), -1, x.shape[1])


def test_moves_that_a_plugin_defines_anew_are_the_ones_that_are_made(posterior):
    start = SPACE.from_units({"b.0": 1.0, "b.1": 1.0, f"b.{D - 1}": 1.0})[None]
    end = descend(posterior, OnlyLast(SPACE.unit_names, SPACE.unit_params), start, 3 / D)
    assert not torch.equal(end, descend(posterior, SPACE, start, 3 / D))


class OneBudget(SparsitySpace):
    """A plugin's, written before rows of several budgets were asked for at once."""

    def project(self, scores, sparsity):
        assert isinstance(sparsity, float)
        return super().project(scores, sparsity)

    def moved(self, X, sparsity):
        assert isinstance(sparsity, float)
        return super().moved(X, sparsity)


class OneBudgetOfBlocks(DepthSpace):
    def neighbours(self, x):
        assert len(self.sparsity(x).unique()) == 1
        return super().neighbours(x)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (OneBudgetOfBlocks(SPACE.unit_names, SPACE.unit_params), SPACE),
        pytest.param(
            OneBudget(SPACE.unit_names, SPACE.unit_params),
            SparsitySpace(SPACE.unit_names, SPACE.unit_params),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_spaces_that_do_not_mix_budgets_descend_at_one_after_another(old, new):
    X = new.first(30, torch.Generator().manual_seed(0))
    features = torch.eye(D, dtype=torch.float64)
    posterior = Posterior(X, features, torch.full((D,), 2.0).double(), X.sum(-1), 4.0, 0.01, 1.0, -1.0, 0.7, "log")
    found = [
        propose_neighbours(
            posterior, s, X, starts=1, bound="none", kappa=0.0, generator=torch.Generator().manual_seed(0)
        )
        for s in (old, new)
    ]
    torch.testing.assert_close(*found)
