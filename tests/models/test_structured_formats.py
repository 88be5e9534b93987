"""Parts taken out of the computation and put back, in both formats."""

import pytest
import torch
from structured_parts import FAMILIES, masked_logits, mixed_parts
from tiny import tiny_model

from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.parts.formats import FORMATS
from unicuco_plugin.models.tensors.linears import Linears

pytestmark = pytest.mark.usefixtures("machine")

IDS = torch.arange(3, 43)[None]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("format", FORMATS)
@torch.no_grad()
def test_an_opened_model_computes_what_the_masked_one_does_until_it_is_restored(format, family):
    model, parts = tiny_model(family), mixed_parts(biases=True)
    decoder = find_decoder(model)
    names, expected, before = set(model.state_dict()), masked_logits(decoder, parts, IDS), model(IDS).logits
    restore = FORMATS[format].open(decoder, parts)
    torch.testing.assert_close(model(IDS, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)
    # The toolkit looks for norms inside modules by name.
    assert names <= set(model.state_dict())
    for _ in range(2):
        restore()
        assert torch.equal(model(IDS).logits, before)
        assert set(model.state_dict()) == names


def test_linears_and_numbers_are_put_back_once():
    module = tiny_model("llama").model.layers[0].mlp
    linears, gate, size = Linears(), module.gate_proj, module.intermediate_size
    linears.remember(module)
    module.gate_proj, module.intermediate_size = torch.nn.Linear(32, 8), 8
    linears.restore()
    assert (module.gate_proj, module.intermediate_size) == (gate, size)
    module.intermediate_size = 8
    linears.restore()
    assert module.intermediate_size == 8
