"""What databases of schemes offer a model, and what that costs."""

import pytest
import torch
from scheme_databases import build_schemes
from tiny import tiny_model

from unicuco_plugin.costs.offered import find_offered, offered_schemes
from unicuco_plugin.errors import LevelsError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.schemes import parse_scheme


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    return build_schemes(tiny_model("llama", blocks=2).bfloat16(), tmp_path_factory.mktemp("levels") / "all")


def test_costs_of_a_model_in_float32_become_those_of_the_checkpoint(levels):
    narrow, wide = (
        find_offered(find_decoder(tiny_model("llama", blocks=2).to(dtype)), levels)
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert wide.costs.in_dtype(torch.bfloat16).table == narrow.costs.table
    assert narrow.costs.table.dtype == "bfloat16"
    assert (wide.units, wide.schemes) == (narrow.units, narrow.schemes)


def test_units_are_what_a_server_packs_and_those_ignored_stay_dense(levels):
    decoder = find_decoder(tiny_model("llama", blocks=2).bfloat16())
    found = find_offered(decoder, levels, ["model.layers.0.mlp.down_proj"])
    assert len(found.units) == 7
    block = "model.layers.0.self_attn"
    assert found.units[f"{block}.q_proj+k_proj+v_proj"] == tuple(f"{block}.{name}_proj" for name in "qkv")
    assert found.schemes[f"{block}.o_proj"] == ("W8A16:channel", "W4A16:channel", "W3A16:channel")
    assert found.left_out == {}
    everything = [f"re:model.layers.{block}.*" for block in (0, 1)]
    with pytest.raises(LevelsError, match="has all linears of none of"):
        find_offered(decoder, levels, everything)


class Losses:
    """A database of one linear with these losses."""

    folder = "levels"
    shapes = {"down": (32, 64)}  # noqa: RUF012

    def __init__(self, losses):
        self._losses = losses

    def offered(self, _):
        return [parse_scheme(name) for name in self._losses]

    def loss(self, _, scheme):
        return self._losses[scheme]


@pytest.mark.parametrize(
    ("losses", "kept"),
    [
        # What is lost by rounding inputs is not in the losses: eight bits that leave them alone come first.
        ({"W8A8": 1.0, "FP8_DYNAMIC": 0.5, "W8A16:channel": 1.0}, ["W8A16:channel"]),
        ({"W8A8": 1.0, "FP8_DYNAMIC": 2.0, "W4A16:channel": 9.0}, ["W8A8", "W4A16:channel"]),
        # Six bits lose less than these eight, and yet they are not compared by it.
        ({"FP8_DYNAMIC": 3.0, "W6A16:channel": 2.0}, ["FP8_DYNAMIC", "W6A16:channel"]),
        ({"W8A16:channel": 3.0, "W6A16:channel": 2.0, "W4A16:channel": 2.0}, ["W4A16:channel"]),
        # Nothing else is as small: the eight bits that leave inputs alone lose no less than six.
        ({"W8A8": 3.0, "W8A16:channel": 3.0, "W6A16:channel": 2.0}, ["W8A8", "W6A16:channel"]),
    ],
)
def test_losses_compare_schemes_with_inputs_of_as_many_bits_alone(losses, kept):
    assert offered_schemes(Losses(losses), {"down": ("down",)})["down"] == tuple(kept)
