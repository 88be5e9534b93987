"""Every level of a sweep against the toolkit's own pass at that sparsity."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from llmcompressor.modifiers.pruning.sparsegpt.sgpt_sparsify import accumulate_hessian, sparsify_weight

from unicuco_plugin.errors import LevelsError
from unicuco_plugin.levels.sweep import _select_by_partition, _select_by_sorting, factor_hessian, solve_levels

LADDER = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def make_linear(rows, columns, seed=0, dead=()):
    """A linear and the Hessian of correlated inputs of unequal size."""
    generator = torch.Generator().manual_seed(seed)
    linear = torch.nn.Linear(columns, rows, bias=False)
    linear.weight.data = torch.randn(rows, columns, generator=generator)
    mixing = torch.eye(columns) + torch.randn(columns, columns, generator=generator) / columns**0.5
    inputs = torch.randn(4 * columns, columns, generator=generator) @ mixing
    inputs *= torch.rand(columns, generator=generator).mul(3).exp()
    inputs[:, list(dead)] = 0
    H, _ = accumulate_hessian(inputs, linear, torch.zeros(columns, columns), 0)
    return linear, H


def toolkit(linear, H, sparsity, block_size=128):
    return sparsify_weight(linear, {linear: H.clone()}, sparsity, 0, 0, block_size, 1e-2, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("rows", "columns", "block_size", "dead"),
    [
        (64, 256, 128, ()),
        (48, 200, 128, ()),
        (96, 72, 128, (3, 40)),
        (40, 130, 32, (0, 129)),
        (7, 33, 8, ()),
        (1, 5, 128, ()),
    ],
    ids=["whole blocks", "odd end", "one short block, dead", "small blocks, dead", "tiny", "one row"],
)
def test_every_level_is_the_toolkits_at_that_sparsity(rows, columns, block_size, dead, dtype):
    linear, H = make_linear(rows, columns, dead=dead)
    linear.weight.data = linear.weight.data.to(dtype)
    solved = solve_levels(linear.weight, factor_hessian(H), LADDER, block_size=block_size)
    assert solved.weights.dtype == dtype
    for level, sparsity in enumerate(LADDER):
        loss, weight = toolkit(linear, H, sparsity, block_size)
        agree = ((weight == 0) == (solved.weights[level] == 0)).double().mean().item()
        assert agree >= 0.9999
        assert solved.losses[level].double().sum().item() == pytest.approx(loss, rel=1e-4)
        torch.testing.assert_close(solved.weights[level].float(), weight.float(), rtol=1e-2, atol=1e-3)


def test_the_factor_is_the_toolkits_bit_for_bit():
    linear, H = make_linear(8, 40, dead=(5,))
    seen = []
    original = torch.linalg.cholesky

    def keep(matrix, *, upper=False):
        factor = original(matrix, upper=upper)
        if upper:
            seen.append(factor)
        return factor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.linalg, "cholesky", keep)
        toolkit(linear, H, 0.5)
        factor = factor_hessian(H)
    assert torch.equal(seen[0], factor.U)
    assert factor.dead.nonzero().tolist() == [[5]]


def test_one_level_alone_is_that_level_among_others():
    linear, H = make_linear(24, 150)
    factor = factor_hessian(H)
    together = solve_levels(linear.weight, factor, LADDER)
    for level, sparsity in enumerate(LADDER):
        alone = solve_levels(linear.weight, factor, (sparsity,))
        assert torch.equal(alone.weights[0] == 0, together.weights[level] == 0)
        torch.testing.assert_close(alone.weights[0], together.weights[level], rtol=1e-4, atol=1e-5)


def test_row_losses_are_what_the_pruned_rows_lose_on_the_damped_hessian():
    # Second route: SparseGPT's losses add up to half the quadratic form of the change, by the algebra of its updates.
    linear, H = make_linear(12, 60)
    solved = solve_levels(linear.weight, factor_hessian(H), LADDER, block_size=16)
    damped = (H + 1e-2 * H.diagonal().mean() * torch.eye(60)).double()
    change = (solved.weights - linear.weight.detach()).double()
    expected = torch.einsum("erc,cd,erd->er", change, damped, change) / 2
    torch.testing.assert_close(solved.losses.double(), expected, rtol=1e-3, atol=1e-3)


@given(st.integers(1, 9), st.integers(2, 40), st.integers(1, 20), st.floats(0.01, 0.99), st.integers(0, 5))
def test_every_block_of_columns_has_the_zeros_that_the_rule_asks_for(rows, columns, block_size, sparsity, seed):
    linear, H = make_linear(rows, columns, seed)
    [weight] = solve_levels(linear.weight, factor_hessian(H), (sparsity,), block_size=block_size).weights
    for block in weight.split(block_size, dim=1):
        assert (block == 0).sum() == int(block.numel() * sparsity) + 1


@given(st.data())
def test_both_ways_to_select_give_the_same_entry(data):
    rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 30))
    values = torch.tensor(
        data.draw(st.lists(st.floats(0, 4, width=32), min_size=rows * columns, max_size=rows * columns))
    ).view(rows, columns)
    ranks = data.draw(st.lists(st.integers(0, columns - 1), min_size=rows, max_size=rows))
    assert torch.equal(_select_by_partition(values, ranks), _select_by_sorting(values, ranks))


def test_neither_weight_nor_hessian_is_changed():
    linear, H = make_linear(8, 40, dead=(5,))
    weight, hessian = linear.weight.detach().clone(), H.clone()
    solve_levels(linear.weight, factor_hessian(H), LADDER)
    assert torch.equal(linear.weight, weight)
    assert torch.equal(H, hessian)


def test_a_hessian_without_an_inverse_prunes_by_magnitude_as_the_toolkit_does():
    linear, _ = make_linear(8, 12)
    H = -torch.eye(12)
    factor = factor_hessian(H)
    assert not factor.invertible
    solved = solve_levels(linear.weight, factor, (0.5,))
    _, weight = toolkit(linear, H, 0.5)
    assert torch.equal(solved.weights[0], weight)


@pytest.mark.parametrize(
    ("sparsities", "message"),
    [
        ((), "sparsities must be one or more shares in (0, 1), got []"),
        ((0.5, 1.0), "sparsities must be one or more shares in (0, 1), got [1.0]"),
        ((0.0,), "sparsities must be one or more shares in (0, 1), got [0.0]"),
    ],
)
def test_a_ladder_out_of_range_is_refused(sparsities, message):
    linear, H = make_linear(4, 6)
    with pytest.raises(LevelsError) as caught:
        solve_levels(linear.weight, factor_hessian(H), sparsities)
    assert str(caught.value) == message


def test_a_hessian_of_another_width_is_refused():
    linear, _ = make_linear(4, 6)
    with pytest.raises(LevelsError, match="a linear of 6 inputs needs a Hessian of 6 columns, got 5"):
        solve_levels(linear.weight, factor_hessian(torch.eye(5)), (0.5,))
