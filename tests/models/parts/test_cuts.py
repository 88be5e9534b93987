"""Parts that can go one by one, and parts that belong together."""

import pytest
import torch
from tiny import tiny_model

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.parts.cuts import check_cuts
from unicuco_plugin.models.parts.parts import find_parts

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "smollm3", "granite", "cohere2", "falcon_h1"]
# Families in some of whose blocks a module stays whole; Qwen3.5's queries have gates beside them.
HYBRIDS = ["bamba", "jamba", "lfm2", "qwen3_5"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def trained(family, dtype=torch.float32):
    """A model whose norms and biases are not those of a fresh one."""
    model = tiny_model(family, blocks=3 if family in HYBRIDS else 2)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", [*FAMILIES, *HYBRIDS])
def test_parts_that_go_one_by_one_pass_and_the_model_is_as_it_was(family, dtype):
    model = trained(family, dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    numbers = {name: dict(vars(module)) for name, module in model.named_modules()}
    decoder = find_decoder(model)
    assert check_cuts(decoder) == find_parts(decoder)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    for name, module in model.named_modules():
        assert vars(module).keys() == numbers[name].keys()
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("stablelm", r"cut to one head group its output differs by \d+\.\d% from that with the others masked"),
        ("diffllama", r"cut to one head group it fails \(not enough values to unpack"),
    ],
)
def test_heads_that_belong_together_are_refused_in_one_line(family, message):
    model = trained(family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    decoder = find_decoder(model)
    find_parts(decoder)  # by names and shapes there is nothing wrong with them
    with pytest.raises(UnsupportedModelError) as caught:
        check_cuts(decoder)
    text = str(caught.value)
    assert text.startswith("model.layers.0.self_attn: its parts belong together: ")
    assert text.endswith("; take the space depth or sublayer")
    assert len(text) <= 300
    assert caught.match(message)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_neurons_that_know_of_each_other_are_refused():
    model = trained("llama")
    model.model.layers[1].mlp.act_fn = torch.nn.Softmax(-1)
    message = (
        r"^model\.layers\.1\.mlp: its parts belong together: cut to 6 neurons its output differs by .* masked; take"
    )
    with pytest.raises(UnsupportedModelError, match=message):
        check_cuts(find_decoder(model))


def test_a_module_that_adds_the_states_itself_is_refused():
    model = trained("llama")
    model.model.layers[1].mlp.register_forward_hook(lambda _, args, out: out + args[0])
    message = r"^model\.layers\.1\.mlp: gives more than zeros without its output projection; take the space depth$"
    with pytest.raises(UnsupportedModelError, match=message):
        check_cuts(find_decoder(model))
