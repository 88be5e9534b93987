"""What units weigh, against checkpoints that were really written, and by whichever way somebody asks."""

import pytest
import torch
from tiny import VOCABULARY, tiny_model

from unicuco_plugin.costs.measure import linear_costs, measure_costs, part_costs, uneven_costs
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.parts.formats import apply_parts
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.scores.ranked_parts import rank_parts
from unicuco_plugin.scores.ranking import RANKINGS
from unicuco_plugin.spaces.units import GRANULARITIES, group_linears
from unicuco_plugin.traits import SPACES

WINDOWS = torch.randint(3, VOCABULARY, (2, 16), generator=torch.Generator().manual_seed(0))
# No two blocks alike, so that no family's own fields can say the sizes; one block goes whole.
UNITS = {
    "model.layers.0.self_attn": 0.5,
    "model.layers.1.self_attn": 1.0,
    "model.layers.1.mlp": 1.0,
    "model.layers.2.mlp": 0.25,
    "model.layers.3.mlp": 1.0,
}


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3", "granite"])
@pytest.mark.parametrize("compensate", [True, False], ids=["biases", "plain"])
def test_parameters_are_those_of_the_checkpoint_and_bytes_never_below_it(family, compensate, tmp_path):
    model = tiny_model(family, blocks=4).to(torch.bfloat16)
    decoder = find_decoder(model)
    costs = part_costs(decoder, round_to=8, compensate=compensate)
    dense = costs.row({})
    total = costs.table.total_bytes
    assert (int(costs.of("params", dense)), int(costs.of("bytes", dense))) == (model.num_parameters(), total)
    kept = rank_parts(decoder, WINDOWS, RANKINGS["magnitude"], compensate=compensate).keep(decoder, UNITS)
    params, size = (int(costs.of(name, costs.row(UNITS))) for name in ("params", "bytes"))
    apply_parts(model, kept)
    assert model.num_parameters() == params
    model.save_pretrained(tmp_path)
    written = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    # Padding, and shapes and offsets in fewer digits: a few bytes a tensor.
    assert written <= size <= written + 16 * len(model.state_dict()) + 64
    assert size < total


def test_halves_that_leave_by_themselves_weigh_what_the_form_deci_leaves_out(tmp_path):
    config = tiny_model("llama", blocks=12).config
    config.attention_bias = True
    model = type(tiny_model("llama", blocks=1))(config).to(torch.bfloat16)
    decoder = find_decoder(model)
    costs = uneven_costs(decoder)
    gone = dict.fromkeys([f"model.layers.{i}" for i in (1, 5)], 1.0)
    gone |= {"model.layers.0.mlp": 1.0, "model.layers.2.self_attn": 1.0, "model.layers.11.mlp": 1.0}
    row = costs.row(gone)
    units = {unit: () for unit, share in zip(costs.units, row[0].tolist(), strict=True) if share}
    params, size = (int(costs.of(name, row)) for name in ("params", "bytes"))
    apply_parts(model, KeptParts(units), format="deci")
    assert model.num_parameters() == params
    model.save_pretrained(tmp_path)
    written = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert written <= size <= written + 16 * len(model.state_dict()) + 64


def test_neurons_go_as_many_together_as_there_are_at_the_most():
    decoder = find_decoder(tiny_model("llama", blocks=2))
    assert part_costs(decoder, round_to=1000).table.parts == ((2, 1), (48, 48)) * 2


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_weights_that_are_zeroed_leave_nothing_whatever_the_units_are(granularity):
    decoder = find_decoder(tiny_model("lfm2"))
    grouped = group_linears(
        {name: linear.weight.numel() for name, linear in decoder.all_linears().items()}, granularity
    )
    costs, fine = linear_costs(decoder, grouped), measure_costs(decoder, "sparsity")
    shares = dict.fromkeys(list(grouped)[::2], 0.7)
    for name in ("params", "bytes"):
        assert costs.of(name, costs.row(shares)).item() == fine.of(name, fine.row(shares)).item()
    assert costs.of("params", costs.row(shares)).item() == decoder.model.num_parameters()
    # The share of weights is that of the same linears, however they are grouped.
    kept = [model.of("kept", model.row(shares)).item() for model in (costs, fine)]
    assert kept[0] == pytest.approx(kept[1], abs=1e-12)
    assert kept[0] < 1.0


@pytest.mark.parametrize(
    ("space", "family"),
    # What units stored by schemes cost is a level database's to say: test_stored_costs.py.
    [(space, "llama") for space, traits in SPACES.items() if not traits.stores]
    + [("depth", "qwen3_moe"), ("sublayer", "gemma3"), ("sparsity", "opt")],
)
def test_costs_in_another_dtype_are_those_of_the_model_in_it(space, family):
    single = measure_costs(find_decoder(tiny_model(family)), space)
    half = measure_costs(find_decoder(tiny_model(family).to(torch.bfloat16)), space)
    assert single.in_dtype(torch.bfloat16) == half
    assert half.in_dtype(torch.float32) == single
