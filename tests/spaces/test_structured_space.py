"""Head groups and neurons in whole steps: budgets met, never above, within a step; everything else by round trips."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unicuco_plugin.errors import RequestError, StrategyError
from unicuco_plugin.spaces.structured import StructuredSpace

BLOCKS = 4
NAMES = tuple(f"model.layers.{i}.{half}" for i in range(BLOCKS) for half in ("self_attn", "mlp"))
# Three head groups of 1 000 parameters, 100 neurons of 30 in steps of 16, the last of 4.
SPACE = StructuredSpace(NAMES, (3000, 3000) * BLOCKS, ((3, 1), (100, 16)) * BLOCKS)
# SmolLM2-135M's proportions.
REAL = StructuredSpace(NAMES, (3 * 294912, 1536 * 1728) * BLOCKS, ((3, 1), (1536, 32)) * BLOCKS)
both = pytest.mark.parametrize("space", [SPACE, REAL], ids=["odd", "smollm2"])
scores = arrays("float64", (2, 2 * BLOCKS), elements=st.floats(-6, 6)).map(torch.from_numpy)
shares = st.floats(0.001, 0.98)


def finest(space):
    return min(step * n // count for n, (count, step) in zip(space.unit_params, space.unit_parts, strict=True))


def strategies(space):
    steps = [st.integers(0, -(-count // step)) for count, step in space.unit_parts]
    return st.tuples(*steps).map(lambda k: space.parse(",".join(map(str, k))))


@both
@given(z=scores, share=shares)
def test_a_projection_reaches_the_share_and_exceeds_it_by_less_than_the_finest_step(space, z, share):
    x = space.project(z, share)
    whole = space.params.sum().item()
    removed = x @ space.params
    assert bool((removed >= share * whole - 0.5).all())
    assert bool((removed < share * whole + finest(space)).all())
    torch.testing.assert_close(space.rounded(x), x, rtol=0, atol=0)


@both
@given(z=scores, share=shares)
def test_a_projection_is_within_a_few_steps_of_the_smooth_one(space, z, share):
    soft = (z.double() + 0.0).requires_grad_(True)
    x = space.project(soft, share)
    (gradient,) = torch.autograd.grad((x * torch.arange(1.0, 9.0)).sum(), soft)
    assert bool(gradient.isfinite().all())
    # A common shift changes nothing, so the gradient along it vanishes.
    torch.testing.assert_close(gradient.sum(-1), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-6)
    smooth = space._smooth.project(z, share)
    away = ((x.detach() - smooth) @ space.params).abs().max()
    assert away <= finest(space)


@both
@given(data=st.data())
def test_scores_lead_back_to_the_strategy_at_its_own_budget(space, data):
    x = data.draw(strategies(space))
    share = space.sparsity(x[None]).item()
    if 0.0 < share <= space.most:
        found = space.project(space.scores(x)[None], share)[0]
        assert (found @ space.params - x @ space.params).abs() < finest(space)
        if bool((x * space.params > 0)[1::2].any()):  # else a head group may be given for neurons
            torch.testing.assert_close(found, x, rtol=0, atol=0)


@both
@given(data=st.data())
def test_names_and_keys_come_back(space, data):
    x = data.draw(strategies(space))
    torch.testing.assert_close(space.from_units(space.to_units(x)), x, rtol=0, atol=0)
    torch.testing.assert_close(space.parse(space.key(x)), x, rtol=0, atol=0)
    torch.testing.assert_close(space.parse(space.key(x.round(decimals=6))), x, rtol=0, atol=0)
    assert all(0.0 < share <= 1.0 for share in space.to_units(x).values())


@both
@given(z=scores)
def test_relaxed_strategies_are_the_nearest_steps_with_the_sigmoids_gradient(space, z):
    z.requires_grad_(True)
    x = space.relax(z)
    torch.testing.assert_close(space.rounded(x.detach()), x.detach(), rtol=0, atol=1e-12)
    width = torch.tensor([step / count for count, step in space.unit_parts])
    assert bool(((x - z.sigmoid()).abs() <= width / 2 + 1e-9).all())
    (gradient,) = torch.autograd.grad(x.sum(), z)
    torch.testing.assert_close(gradient, (z.sigmoid() * (1 - z.sigmoid())).detach())


@both
def test_neighbours_stay_at_the_budget_and_hold_whole_units_gone_and_kept(space):
    x = space.project(torch.zeros(1, 8, dtype=torch.float64), 0.4)
    moves = space.neighbours(x)
    assert moves.shape == (1, 32, 8)
    over = (space.sparsity(moves[0]) - space.sparsity(x)) * space.params.sum()
    assert bool(((over > -0.5) & (over < finest(space))).all())
    for unit in range(8):
        assert bool((moves[0, :, unit] == 0.0).any())
        # Where all other steps are too large the last one of 4 neurons is what is given back.
        assert moves[0, :, unit].max() >= 0.96


@both
def test_first_strategies_are_distinct_enough_and_within_the_focus(space):
    X = space.first(40, torch.Generator().manual_seed(0), 0.5)
    assert X.shape == (40, 8)
    assert bool((space.sparsity(X) < 0.5 + finest(space) / space.params.sum()).all())
    assert len({space.key(row) for row in X}) >= 35


@both
def test_budgets_are_met_between_and_at_every_twentieth(space):
    assert space.budgets[0] == 0.05
    assert space.reaching(0.1234) == 0.1234
    moved = space.moved(space.project(torch.zeros(1, 8, dtype=torch.float64), 0.4), 0.42)
    assert 0.42 <= space.sparsity(moved).item() + 1e-9 < 0.42 + finest(space) / space.params.sum()


def test_one_step_has_to_stay():
    with pytest.raises(RequestError, match=r"^sparsity must be in \(0, 0\.995\] for structured: one step of one unit"):
        SPACE.reaching(0.996)
    x = SPACE.project(torch.zeros(1, 8, dtype=torch.float64), 0.995)
    assert (1.0 - x).count_nonzero() == 1


@pytest.mark.parametrize(
    ("units", "message"),
    [({"lm_head": 0.5}, "must be a known unit"), ({NAMES[0]: 1.5}, r"share in \[0, 1\], got 1.5")],
)
def test_units_that_are_none_are_refused(units, message):
    with pytest.raises(StrategyError, match=message):
        SPACE.from_units(units)


@pytest.mark.parametrize(
    ("parts", "message"),
    [(((3, 1),), "one pair per unit, got 1 for 8"), (((7, 1),) * 8, "steps of equal parts of 3000")],
)
def test_parts_that_do_not_fit_are_refused(parts, message):
    with pytest.raises(StrategyError, match=message):
        StructuredSpace(NAMES, (3000,) * 8, parts)
