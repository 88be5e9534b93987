"""What strategies cost, by their table, against the same added up unit by unit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from unicuco_plugin.answering import load_profile, packaged_profiles
from unicuco_plugin.costs.model import TableCosts, objective_cost, removed_share
from unicuco_plugin.costs.table import CostTable
from unicuco_plugin.errors import StrategyError
from unicuco_plugin.spaces.units import name_block

COUNTS = st.integers(0, 2**40)
EITHER = st.booleans()


@st.composite
def costs(draw, parts=EITHER, blocks=EITHER, physical=EITHER):
    """Costs of a few units, two in a block."""
    units = tuple(f"model.layers.{i // 2}.{'mlp' if i % 2 else 'attn'}" for i in range(draw(st.integers(2, 7))))
    d, fields = len(units), {}

    def numbers(low, high):
        return st.lists(st.integers(low, high), min_size=d, max_size=d)

    params, size = draw(numbers(1, 2**40)), draw(numbers(0, 2**42))
    if draw(parts):
        counts = draw(numbers(1, 60))
        params, size = ([n * count for n, count in zip(each, counts, strict=True)] for each in (params, size))
        fields["parts"] = tuple((count, draw(st.integers(1, count))) for count in counts)
        fields["rests"] = tuple(zip(draw(numbers(-50, 2**20)), draw(numbers(-50, 2**20)), strict=True))
        fields["biases"] = tuple(zip(draw(numbers(0, 2**20)), draw(numbers(0, 2**20)), strict=True))
    if draw(blocks):
        fields["blocks"] = {name_block(unit): (draw(COUNTS), draw(COUNTS)) for unit in units}
    more = {"total_params": sum(params) + draw(COUNTS) + 1, "total_bytes": sum(size) + draw(COUNTS) + 1}
    table = CostTable(unit_params=tuple(params), unit_bytes=tuple(size), dtype="bfloat16", **more, **fields)
    return TableCosts(units, table, physical=draw(physical))


def shares_of(model, data):
    """Shares of each unit: whole parts where there are parts, anything else elsewhere, often none or all of it."""
    if model.table.parts:
        return [data.draw(st.integers(0, count)) / count for count, _ in model.table.parts]
    return [data.draw(st.sampled_from([0.0, 1.0]) | st.floats(0.0, 1.0)) for _ in model.units]


def left(model, shares, column):
    """The second route: whole numbers, one unit and one block after the other."""
    table = model.table
    total = (table.total_params, table.total_bytes)[column]
    for index, share in enumerate(shares):
        weight = (table.unit_params, table.unit_bytes)[column][index]
        if table.parts:
            count = table.parts[index][0]
            gone = sum(part < share * count - 0.5 for part in range(count))
            total -= gone * weight // count
            if gone == count:
                total -= table.rests[index][column]
            elif gone:
                total += table.biases[index][column]
        elif model.physical and share > 0.0:
            total -= weight
    for block, pair in table.blocks.items():
        if all(share == 1.0 for unit, share in zip(model.units, shares, strict=True) if name_block(unit) == block):
            total -= pair[column]
    return total


@given(costs(), st.data())
def test_parameters_and_bytes_are_what_units_and_blocks_leave_one_by_one(model, data):
    rows = [shares_of(model, data) for _ in range(3)]
    x = torch.tensor(rows, dtype=torch.float64)
    for column, name in enumerate(("params", "bytes")):
        assert model.of(name, x).tolist() == [left(model, shares, column) for shares in rows]


@given(costs(), st.data())
def test_the_share_that_is_kept_is_a_mean_by_parameters_and_has_its_gradient(model, data):
    shares = shares_of(model, data)
    params = model.table.unit_params
    x = torch.tensor([shares], dtype=torch.float64, requires_grad=True)
    kept = model.of("kept", x)
    expected = sum(n * (1.0 - share) for n, share in zip(params, shares, strict=True)) / sum(params)
    assert kept.item() == pytest.approx(expected, abs=1e-12)
    kept.sum().backward()
    torch.testing.assert_close(x.grad[0], -torch.tensor(params, dtype=torch.float64) / sum(params))


@given(costs(parts=st.just(False), blocks=st.just(False), physical=st.just(True)), st.data())
def test_no_set_of_whole_units_sheds_more_of_a_cost_than_is_said(model, data):
    x = torch.tensor([[float(data.draw(st.booleans())) for _ in model.units]], dtype=torch.float64)
    assert model.falls("kept") == (1.0, 1.0)
    for name in ("params", "bytes"):
        about, most = model.falls(name)
        fallen = (model.of(name, torch.zeros_like(x)) - model.of(name, x)).item()
        assert fallen <= most * removed_share(model.params, x).item() * (1 + 1e-9) + 1e-6
        assert about > 0.0


@pytest.mark.parametrize("name", packaged_profiles())
def test_a_search_lowers_the_share_of_weights_that_its_space_counts_to_the_last_bit(name):
    profile = load_profile(name)
    space = profile.search_space
    rows = torch.stack([space.parse(entry.strategy) for entry in profile.record.archive])
    rows = torch.cat([rows, torch.rand(50, len(space.units), dtype=torch.float64)])
    assert torch.equal(objective_cost(profile.costs)(rows), 1.0 - space.sparsity(rows))
    assert profile.costs.objective in profile.costs.names


def table(**changes):
    given = {"unit_params": (4, 6), "unit_bytes": (8, 12), "total_params": 20, "total_bytes": 40, "dtype": "bfloat16"}
    return CostTable(**(given | changes))


def test_a_coarser_unit_covers_what_lies_inside_it_and_nothing_else():
    units = ("model.layers.1.attn", "model.layers.1.mlp", "model.layers.10.mlp")
    model = TableCosts(units, table(unit_params=(4, 6, 5), unit_bytes=(8, 12, 10)), physical=True)
    assert model.row({"model.layers.1": 0.5}).tolist() == [[0.5, 0.5, 0.0]]
    assert model.row({"model.layers.1.mlp": 1.0, "model.layers.10": 0.25}).tolist() == [[0.0, 1.0, 0.25]]
    with pytest.raises(StrategyError, match=r"^units must be among model\.layers\.1\.attn to model.*, got 'lm_head'$"):
        model.row({"lm_head": 1.0})


@pytest.mark.parametrize("name", ["blocks", "rests", "biases"])
def test_numbers_that_no_model_has_are_refused_before_they_are_added_up(name):
    pairs = ((2**60, 0), (2**60, 0))
    given = {"blocks": dict(zip("ab", pairs, strict=True))} if name == "blocks" else {name: pairs}
    with pytest.raises(ValidationError, match=f"{name} must be parameters and bytes of one model, got 2.31e\\+18"):
        table(**given)
