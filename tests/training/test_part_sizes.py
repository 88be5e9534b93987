"""What parts weigh against compact checkpoints that were really written."""

import pytest
import torch
from tiny import VOCABULARY, tiny_model

from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.parts.parts import find_parts
from unicuco_plugin.models.parts.structured import apply_parts
from unicuco_plugin.scores.ranked_parts import rank_parts
from unicuco_plugin.scores.ranking import RANKINGS
from unicuco_plugin.training.part_sizes import measure_parts

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
    names = tuple(find_parts(decoder))
    table = measure_parts(decoder, round_to=8, compensate=compensate)
    dense = table.left(names, [0.0] * len(names), physical=True)
    assert dense == (table.total_params, table.total_bytes)
    kept = rank_parts(decoder, WINDOWS, RANKINGS["magnitude"], compensate=compensate).keep(decoder, UNITS)
    params, size = table.left(names, [UNITS.get(name, 0.0) for name in names], physical=True)
    apply_parts(model, kept)
    assert model.num_parameters() == params
    model.save_pretrained(tmp_path)
    written = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    # Padding, and shapes and offsets in fewer digits: a few bytes a tensor.
    assert written <= size <= written + 16 * len(model.state_dict()) + 64
    assert size < table.total_bytes


def test_neurons_go_as_many_together_as_there_are_at_the_most():
    decoder = find_decoder(tiny_model("llama", blocks=2))
    assert measure_parts(decoder, round_to=1000, compensate=True).parts == ((2, 1), (48, 48)) * 2
