"""A peer's strategy has the parameters and bytes that a profile says of it, and that the checkpoint has."""

import random

import pytest
import torch
from tiny import tiny_model

from unicuco_plugin.costs.model import TableCosts
from unicuco_plugin.costs.table import CostTable
from unicuco_plugin.errors import StrategyError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.peers.strategies import make_strategy, share_of_units
from unicuco_plugin.pruning import apply_strategy
from unicuco_plugin.request import Request
from unicuco_plugin.strategy import ModelReference
from unicuco_plugin.training.subject import UnitOptions
from unicuco_plugin.training.subjects.find import find_subject

# A hybrid's blocks, and its attentions and convolutions, weigh differently.
FAMILIES = ["llama", "lfm2"]


def write_down(decoder, space, units, share=0.3, **more):
    reference = ModelReference(name="tiny", fingerprint=str(fingerprint(decoder.model)))
    asked = Request.of(sparsity=0.3)
    return make_strategy(decoder, space, units, model=reference, sparsity=share, request=asked, source="peer", **more)


def draw_units(subject, seed):
    """Units of a few blocks, one of them whole; of the others some go, where they have parts a number of these."""
    chance, space = random.Random(seed), subject.space  # noqa: S311
    units = {}
    counts = subject.costs.table.parts or ((1, 1),) * len(space.units)
    for unit, (count, step) in zip(space.units, counts, strict=True):
        some = min(step * chance.randint(1, -(-count // step)), count) / count
        gone = 1 if ".1." in f"{unit}." else chance.choice([0, 0, some])
        if gone and ".5." not in f"{unit}.":  # a block that generation needs
            units[unit] = float(gone)
    return units


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("space", ["depth", "sublayer", "structured"])
def test_a_peer_and_a_profile_count_alike(family, space):
    decoder = find_decoder(tiny_model(family))
    subject = find_subject(space, decoder, "", UnitOptions())
    # What is read back from a profile's JSON.
    table = CostTable.model_validate_json(subject.costs.table.model_dump_json())
    known = TableCosts(subject.space.units, table, physical=subject.space.physical)
    for seed in range(4):
        units = draw_units(subject, seed)
        strategy, x = write_down(decoder, space, units), subject.space.from_units(units)[None]
        assert (strategy.params, strategy.bytes) == (known.of("params", x).item(), known.of("bytes", x).item())
        if space != "structured":
            assert share_of_units(decoder, space, units) == subject.space.sparsity(x).item()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("space", ["depth", "sublayer", "structured"])
def test_the_checkpoint_has_these_parameters_and_no_more_bytes(family, space, tmp_path):
    model = tiny_model(family).bfloat16()
    decoder = find_decoder(model)
    units = dict.fromkeys(["model.layers.1", "model.layers.3"], 1.0)
    kept = None
    if space == "sublayer":
        halves = [name for i in (1, 3) for name in decoder.sublayers(i).values()]
        units = dict.fromkeys([*halves, decoder.sublayers(2)["mlp"]], 1.0)
    if space == "structured":
        if family == "lfm2":
            pytest.skip("its compact form has no configuration")
        units = {"model.layers.1.self_attn": 0.5, "model.layers.3.self_attn": 1.0, "model.layers.3.mlp": 1.0}
        kept = KeptParts(
            {"model.layers.1.self_attn": (1,), "model.layers.3.self_attn": (), "model.layers.3.mlp": ()},
            {"model.layers.1.self_attn": torch.zeros(32, dtype=torch.bfloat16)},
        )
    strategy = write_down(decoder, space, units)
    apply_strategy(model, strategy, kept_parts=kept)
    assert model.num_parameters() == strategy.params
    model.save_pretrained(tmp_path)
    written = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    # Padding, and shapes and offsets in fewer digits: a few bytes a tensor.
    assert written <= strategy.bytes <= written + 16 * len(model.state_dict()) + 64


def test_zeros_do_not_shrink_a_file_whatever_the_units():
    decoder = find_decoder(tiny_model("llama"))
    dense = write_down(decoder, "depth", {})
    for units in ({"model.layers.2": 0.4}, {"model.layers.2.mlp.up_proj": 0.4, "model.layers.4.self_attn": 0.1}):
        found = write_down(decoder, "sparsity", units)
        assert (found.params, found.bytes) == (dense.params, dense.bytes)


def test_a_strategy_names_the_database_that_it_was_made_from(levels):
    decoder = find_decoder(tiny_model("llama", blocks=4))
    units = {"model.layers.2.mlp": 0.5}
    assert write_down(decoder, "sparsity", units, levels=levels).levels == levels.record.identity
    assert write_down(decoder, "sparsity", units).levels is None


def test_a_unit_that_the_model_lacks_is_refused():
    decoder = find_decoder(tiny_model("llama"))
    with pytest.raises(StrategyError, match=r"^units must be among model\.layers\.0 to .*5, got 'model\.layers\.6'$"):
        write_down(decoder, "depth", {"model.layers.6": 1.0})
