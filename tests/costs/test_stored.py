"""Costs of units stored by schemes: bits and bytes added up from a table, in any dtype of the checkpoint."""

import pytest
import torch
from tiny import tiny_model

from unicuco_plugin.costs.stored import scheme_costs
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.fused_units import fused_units
from unicuco_plugin.schemes import parse_scheme

SCHEMES = ("W8A8", "W6A16:channel:asym", "W4A16:channel", "W3A16:channel")


def costs_of(model):
    units = {unit.name: unit.linears for unit in fused_units(model) if unit.name != "lm_head"}
    return scheme_costs(find_decoder(model), units, dict.fromkeys(units, SCHEMES))


def test_choices_are_listed_from_most_bits_to_least_with_the_bytes_of_their_tensors():
    model = tiny_model("llama", blocks=2)
    table = costs_of(model).table
    rows, columns = model.get_submodule("model.layers.0.self_attn.o_proj").weight.shape
    [(dense, *_), *stored] = table.choices[1]
    assert dense == "dense" and [name for name, *_ in stored] == list(SCHEMES)
    for name, bits, size in stored:
        assert bits == parse_scheme(name).bits_per_weight(columns)
        tensors = parse_scheme(name).stored_bytes(rows, columns, 4)
        assert 0 < size - tensors < 130 * len(parse_scheme(name).tensors(rows, columns))  # entries of the header


def test_bits_and_bytes_of_strategies_are_added_up():
    costs = costs_of(tiny_model("llama", blocks=2))
    shares = torch.tensor(
        [[1.0 - bits / 16.0 for _, bits, _ in row] for row in costs.table.choices], dtype=torch.float64
    )
    x = torch.stack([shares[:, 0], shares[:, 3], torch.where(torch.arange(8) < 4, shares[:, 1], shares[:, 4])])
    n = torch.tensor(costs.table.unit_params, dtype=torch.float64)
    torch.testing.assert_close(costs.of("bits", x), ((1.0 - x) * 16.0) @ n / n.sum())
    assert costs.of("params", x).tolist() == [costs.table.total_params] * 3
    first = costs.table.total_bytes
    third = first - sum(costs.table.unit_bytes)
    third += sum(row[1 if place < 4 else 4][2] for place, row in enumerate(costs.table.choices))
    assert costs.of("bytes", x).tolist()[::2] == [first, third]
    assert costs.names == ("kept", "bytes", "bits")
    assert costs.share("bits", 4.0) == 0.75 and costs.share("bytes", 4.0) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_checkpoint_in_another_dtype_costs_what_is_counted_in_that(dtype):
    wide, narrow = (tiny_model("llama", blocks=2) for _ in range(2))
    assert costs_of(wide).in_dtype(dtype).table == costs_of(narrow.to(dtype)).table
