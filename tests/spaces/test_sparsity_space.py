import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unicuco_plugin.errors import RequestError, StrategyError
from unicuco_plugin.spaces.sparsity import SparsitySpace

NAMES = tuple(f"model.layers.{i}.{kind}" for i in range(3) for kind in ("attn.q", "attn.o", "mlp.up", "mlp.down"))
SIZES = tuple(100 * (1 + index % 4) for index in range(12))
SPACE = SparsitySpace(NAMES, SIZES)
BOUNDED = SparsitySpace(NAMES, SIZES, ((0.2, 0.7),) * 6 + ((0.4, 0.9),) * 6)

scores = arrays("float64", (2, 12), elements=st.floats(-6, 6)).map(torch.from_numpy)
fractions = st.floats(0.02, 0.98)


def within(space, fraction):
    low, high = space.reach
    return low + fraction * (high - low)


@pytest.mark.parametrize("space", [SPACE, BOUNDED], ids=["free", "bounded"])
@settings(max_examples=60, deadline=None)
@example(z=torch.zeros(2, 12, dtype=torch.float64), fraction=0.5, shift=3.0)  # Newton's steps alone never meet it
@given(z=scores, fraction=fractions, shift=st.floats(-5, 5))
def test_a_projection_spends_the_budget_within_bounds_and_ignores_a_common_shift(space, z, fraction, shift):
    budget = within(space, fraction)
    s = space.project(z, budget)
    torch.testing.assert_close(space.sparsity(s), torch.full((2,), budget, dtype=torch.float64), rtol=0, atol=1e-12)
    assert bool((s >= space._low - 1e-15).all() and (s <= space._high + 1e-15).all())
    torch.testing.assert_close(space.project(z + shift, budget), s, rtol=0, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(z=scores, fraction=fractions)
def test_raising_a_score_raises_that_unit_and_lowers_the_others(z, fraction):
    budget = within(SPACE, fraction)
    before = SPACE.project(z, budget)
    z[:, 3] += 0.5
    after = SPACE.project(z, budget)
    others = [i for i in range(12) if i != 3]
    assert bool((after[:, 3] >= before[:, 3] - 1e-12).all())
    assert bool((after[:, others] <= before[:, others] + 1e-12).all())


def test_a_projection_is_the_nearest_point_to_the_sigmoid_in_kl():
    z = torch.randn(1, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = SPACE.project(z, 0.5)[0]

    def distance(s):
        p = z[0].sigmoid()
        return (SPACE.params * (s * (s / p).log() + (1 - s) * ((1 - s) / (1 - p)).log())).sum()

    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        step = torch.randn(12, generator=generator, dtype=torch.float64)
        step -= (step @ SPACE.params) / (SPACE.params @ SPACE.params) * SPACE.params  # stays on the budget
        assert distance(found) < distance(found + 1e-3 * step)


@pytest.mark.parametrize("budget", [0.3, 0.6, 0.8])
def test_the_gradient_of_a_projection_is_right(budget):
    z = torch.randn(2, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: SPACE.project(z, budget), (z,))


@settings(max_examples=30, deadline=None)
@given(z=scores, fraction=fractions)
def test_scores_bring_a_strategy_back(z, fraction):
    budget = within(SPACE, fraction)
    s = SPACE.project(z, budget)
    torch.testing.assert_close(SPACE.project(SPACE.scores(s), budget), s, rtol=0, atol=2e-6)


@pytest.mark.parametrize("budget", [0.0, 0.2, 0.9, 0.95])
def test_a_budget_beyond_the_bounds_is_refused_with_what_can_be_had(budget):
    low, high = BOUNDED.reach
    with pytest.raises(
        RequestError,
        match=rf"^sparsity must be in \[0\.3134, 0\.813333\], which the units. bounds .*, got {budget:.6g}$",
    ):
        BOUNDED.project(torch.zeros(1, 12, dtype=torch.float64), budget)
    assert (low, high) == pytest.approx((0.31333, 0.81333), abs=1e-4)


def test_relaxed_scores_stay_in_bounds_and_keep_a_gradient():
    z = torch.linspace(-9, 9, 12, dtype=torch.float64)[None].requires_grad_(True)
    s = BOUNDED.relax(z)
    assert bool((s >= BOUNDED._low).all() and (s <= BOUNDED._high).all())
    s.sum().backward()
    assert bool((z.grad > 0).all())


def test_first_strategies_are_uniform_at_every_budget_then_vary_over_depth():
    rows = SPACE.first(40, torch.Generator().manual_seed(0))
    assert len({SPACE.key(row) for row in rows}) == 40
    for row, budget in zip(rows, SPACE.budgets, strict=False):
        torch.testing.assert_close(row, torch.full((12,), budget, dtype=torch.float64), rtol=0, atol=1e-4)
    assert bool((rows[20:].std(1) > 0.01).all())
    assert torch.equal(rows, SPACE.first(40, torch.Generator().manual_seed(0)))


@settings(max_examples=30, deadline=None)
@given(z=scores, fraction=fractions)
def test_keys_name_what_the_journal_keeps(z, fraction):
    row = SPACE.project(z, within(SPACE, fraction))[0]
    kept = SPACE.parse(SPACE.key(row))
    assert SPACE.key(kept) == SPACE.key(row)
    torch.testing.assert_close(kept, row, rtol=0, atol=0.5001e-4)
    assert torch.equal(SPACE.from_units(SPACE.to_units(kept)), kept)


def test_neighbours_stay_on_the_budget_and_move_one_unit_against_the_others():
    x = SPACE.random(2, 0.6, torch.Generator().manual_seed(0))
    moves = SPACE.neighbours(x)
    assert moves.shape == (2, 24, 12)
    torch.testing.assert_close(
        SPACE.sparsity(moves.flatten(0, 1)), torch.full((48,), 0.6, dtype=torch.float64), rtol=0, atol=1e-12
    )
    assert moves[0, 5, 5] > x[0, 5]
    assert moves[0, 12 + 5, 5] < x[0, 5]


def test_strategies_near_a_budget_are_moved_onto_it():
    x = torch.cat([SPACE.random(3, share, torch.Generator().manual_seed(1)) for share in (0.5, 0.52, 0.6)])
    moved = SPACE.moved(x[SPACE.near(x, 0.5)], 0.5)
    assert len(moved) == 6
    torch.testing.assert_close(SPACE.sparsity(moved), torch.full((6,), 0.5, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(moved[:3], x[:3], rtol=0, atol=1e-9)
    assert not SPACE.near(x, 0.3).any()


def test_features_are_the_share_and_how_much_blocks_and_kinds_exceed_it():
    G = SPACE.features
    assert G.shape == (12, 1 + 3 + 4)
    x = torch.rand(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = SPACE.sparsity(x[None]).item()
    block = (x[:4] @ SPACE.params[:4] / SPACE.params[:4].sum()).item()
    assert (x @ G)[0].item() == pytest.approx(share)
    assert (x @ G)[1].item() == pytest.approx(block - share)
    few = SparsitySpace(("m.0", "m.1"), (5, 15))
    torch.testing.assert_close(few.features, torch.tensor([[0.25, 0.75, -0.25], [0.75, -0.75, 0.25]]).double())


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (((0.0, 0.9),), r"^bounds must be one pair a unit, got 1 for 2$"),
        (((0.5, 0.5), (0.0, 0.9)), r"^bounds\['a'\] \(--bounds\) must be 0 <= low < high <= 1, got \(0\.5, 0\.5\)$"),
        (((0.0, 0.9), (0.0, 1.5)), r"^bounds\['b'\] \(--bounds\) must be 0 <= low < high <= 1, got \(0\.0, 1\.5\)$"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(bounds, message):
    with pytest.raises(StrategyError, match=message):
        SparsitySpace(("a", "b"), (1, 1), bounds)


@pytest.mark.parametrize("units", [{"nope": 0.5}, {NAMES[0]: 1.5}, {NAMES[0]: -0.1}])
def test_unknown_units_and_impossible_shares_are_refused(units):
    with pytest.raises(StrategyError, match=r"must be a known unit with a share in \[0, 1\]"):
        SPACE.from_units(units)
