"""What units weigh that are stored by schemes."""

import torch
from tiny import tiny_model

from unicuco_plugin.costs.stored import scheme_costs
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.fused_units import fused_units

SCHEMES = ("W8A16:channel", "W4A16:g32:asym", "W4A16:g32", "W3A16:channel", "NVFP4A16")


def costs(model):
    decoder = find_decoder(model)
    own = decoder.all_linears()
    units = {unit.name: unit.linears for unit in fused_units(model) if set(unit.linears) <= own.keys()}
    offered = {
        name: [s for s in SCHEMES if all(own[linear].weight.shape[1] % 32 == 0 for linear in linears) or "channel" in s]
        for name, linears in units.items()
    }
    return scheme_costs(decoder, units, offered)


def test_costs_in_another_dtype_are_those_of_the_model_in_it():
    single, half = costs(tiny_model("llama")), costs(tiny_model("llama").to(torch.bfloat16))
    assert {name for row in single.table.choices for name, *_ in row} == {"dense", *SCHEMES}
    assert single.in_dtype(torch.bfloat16) == half
    assert half.in_dtype(torch.float32) == single
