"""What every family keeps: a line for each says what of it may go, and the rest is refused.

``blocks``: whole blocks; ``halves``: attentions and MLPs; ``cut``: head groups and neurons, and the model is smaller;
``zeroed``: these, but in their full shape. Nothing: it is refused by its configuration alone.
"""

import functools

import pytest
import torch
from structured_parts import draw, masked_logits
from transformers import CONFIG_MAPPING
from zoo.families import ANIMALS, build
from zoo.outside import OUTSIDE
from zoo.table import read_outcomes

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.bypass import bypassed
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.blocks.sizes import measure_sizes
from unicuco_plugin.models.blocks.sublayers import (
    check_silence,
    silenced,
    sublayer_names,
    sublayer_params,
    zero_outputs,
)
from unicuco_plugin.models.blocks.support import check_config
from unicuco_plugin.models.blocks.surgery import dropped
from unicuco_plugin.models.exportable import check_exportable
from unicuco_plugin.models.families.family import HALVES
from unicuco_plugin.models.families.known import FAMILIES, family_of
from unicuco_plugin.models.parts.configuration_deci import DeciLMConfig
from unicuco_plugin.models.parts.cuts import check_cuts
from unicuco_plugin.models.parts.formats import apply_parts
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.parts import find_parts
from unicuco_plugin.models.parts.zeroing import check_room
from unicuco_plugin.models.reach import Reach

CONTRACT = {
    # every family that has an entry
    "bert-generation": "",
    "codegen": "blocks halves",
    "cpmant": "",
    "gemma3n": "",
    "gemma3n_text": "",
    "gpt_neo": "",
    "gptj": "blocks halves",
    "llama4_text": "",
    "mistral": "blocks halves cut",
    "nemotron-nas": "",
    "qwen2": "blocks halves cut",
    "minimax_m3_vl_text": "",
    "mpt": "blocks",
    "trocr": "",
    "xlnet": "",
    "zaya": "",
    # of those that need none, one of each kind
    "arcee": "blocks halves zeroed",  # no gate
    "bamba": "blocks halves zeroed",  # state spaces
    "bloom": "blocks",  # halves that add the states themselves
    "cohere2": "blocks halves cut",  # both halves beside each other
    "deepseek_v3": "blocks halves",  # latent attention
    "ernie4_5_moe": "blocks halves zeroed",  # sparse from one block to another
    "falcon": "blocks halves",
    "falcon_h1": "blocks zeroed",  # a state space beside each attention
    "gemma3_text": "blocks halves cut",  # norms behind the halves, windows
    "gemma4_text": "blocks halves zeroed",  # blocks of two sizes
    "gpt_neox": "blocks halves",
    "gpt_oss": "blocks halves",
    "jamba": "zeroed",  # blocks that a period places
    "lfm2": "blocks halves zeroed",  # convolutions; w1, w3, w2
    "llama": "blocks halves cut",
    "llama-biases": "blocks halves cut",
    "mamba": "blocks",
    "minicpm3": "blocks halves",  # scaled by depth
    "modernbert-decoder": "blocks",
    "nemotron_h": "blocks",
    "olmo2": "blocks halves",  # norms over all heads
    "opt": "blocks",  # an MLP that is no module
    "phi3": "blocks halves",  # fused projections
    "qwen2-slides": "blocks halves cut",  # windows from a block on
    "qwen3": "blocks halves cut",  # norms of heads
    "qwen3_5_text": "blocks halves zeroed",  # linear attention; gates beside queries
    "qwen3_moe": "blocks halves",
    "rwkv": "blocks",
    "smollm3": "blocks halves cut",  # no positions in some blocks
    "stablelm": "blocks halves cut",
}
IDS = torch.arange(3, 13)[None]
OUTCOMES = read_outcomes()


def lines(word):
    return [name for name, line in CONTRACT.items() if word in line.split()]


def lines_without(*words):
    return [name for name, line in CONTRACT.items() if line and not set(words) & set(line.split())]


made = functools.cache(build)  # for whoever leaves a model as it was; none has more than a megabyte


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS, use_cache=False).logits


def test_every_description_has_a_line():
    assert FAMILIES.keys() <= CONTRACT.keys()


@pytest.mark.parametrize("family", sorted(CONTRACT.keys() & ANIMALS.keys()))
def test_a_line_says_what_the_zoo_found(family):
    right = {space: outcome.startswith(("right", "refused in training")) for space, outcome in OUTCOMES[family].items()}
    cut = "" if not right["structured"] else "zeroed" if "format stock" in OUTCOMES[family]["structured"] else "cut"
    words = ["blocks"] * right["depth"] + ["halves"] * right["sublayer"] + [cut] * right["structured"]
    assert CONTRACT[family].split() == words


@pytest.mark.parametrize("family", [name for name, line in CONTRACT.items() if not line])
def test_a_family_of_which_nothing_may_go_is_refused_by_its_configuration(family):
    own = family == DeciLMConfig.model_type  # ours, which Transformers does not know
    config = DeciLMConfig() if own else CONFIG_MAPPING[family]()
    with pytest.raises(UnsupportedModelError) as caught:
        check_config(config)
    assert family_of(config).refused in str(caught.value)
    assert own or family in ANIMALS or family in OUTSIDE


@pytest.mark.parametrize("family", lines("blocks"))
def test_a_model_without_a_block_is_the_one_that_passes_it_by(family):
    model = made(family)
    decoder, before = find_decoder(model), fingerprint(model)
    sizes, dense = measure_sizes(decoder), logits(model)
    with bypassed(decoder, [1]):
        expected = logits(model)
    with dropped(model, [1]):
        torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
        assert fingerprint(model) != before
        assert sum(parameter.numel() for parameter in model.parameters()) == sizes.total_params - sizes.block_params[1]
    assert fingerprint(model) == before
    assert torch.equal(logits(model), dense)
    assert not torch.allclose(dense, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", lines("halves"))
def test_a_half_without_its_output_projection_gives_zeros(family):
    model = made(family)
    decoder, dense = find_decoder(model), logits(model)
    attentions, mlps = sublayer_names(decoder)
    params, sizes = sublayer_params(decoder), measure_sizes(decoder)
    for attention, mlp, block in zip(attentions, mlps, sizes.block_params, strict=True):
        assert 0 < params[attention] + params[mlp] <= block
    for names in ([attentions[0], mlps[1]], [mlps[0], attentions[1], attentions[2]]):
        with silenced(decoder, names):
            expected = logits(model)
        restore = zero_outputs(decoder, names)
        torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
        restore()
        assert not torch.allclose(dense, expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(logits(model), dense)


def some_parts(decoder, *, biased):
    """The last part of everything goes, and the first module of each kind but for its bias."""
    parts = find_parts(decoder)
    kept = {name: tuple(range(part.count - 1)) for name, part in parts.items() if part.count > 1}
    first = {kind: next(name for name, part in parts.items() if part.kind == kind) for kind in HALVES}
    kept |= dict.fromkeys(first.values(), ())
    width = decoder.config.hidden_size
    return KeptParts(kept, {name: draw(width, seed) for seed, name in enumerate(kept)} if biased else {})


@pytest.mark.parametrize(
    ("family", "format"),
    [(name, "compact") for name in lines("cut")] + [(name, "stock") for name in lines("cut") + lines("zeroed")],
)
def test_a_model_without_parts_is_the_one_whose_parts_are_masked(family, format):
    model = build(family)
    decoder = find_decoder(model)
    parts = some_parts(decoder, biased=format == "compact")
    expected, count = masked_logits(decoder, parts, IDS), sum(p.numel() for p in model.parameters())
    assert not torch.allclose(logits(model), expected, rtol=1e-3, atol=1e-3)
    apply_parts(model, parts, format=format)
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    smaller = sum(p.numel() for p in model.parameters()) < count
    assert smaller == (format == "compact")


@pytest.mark.parametrize("family", ["bamba", "falcon_h1", "llama", "llama-biases"])
def test_biases_that_a_family_has_a_field_for_stand_in_the_full_shape_too(family):
    model = build(family)
    decoder = find_decoder(model)
    parts = some_parts(decoder, biased=True)
    expected = masked_logits(decoder, parts, IDS)
    check_room(decoder, parts)
    apply_parts(model, parts, format="stock")
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    assert any(bool(model.get_submodule(f"{find_parts(decoder)[name].output}").bias.any()) for name in parts.biases)


@pytest.mark.parametrize("family", lines_without("blocks"))
def test_blocks_that_may_not_go_are_refused(family):
    with pytest.raises(UnsupportedModelError):
        check_exportable(made(family).config, "depth")


@pytest.mark.parametrize("family", lines_without("halves"))
def test_halves_that_may_not_go_are_refused(family):
    with pytest.raises(UnsupportedModelError):
        check_exportable(made(family).config, "sublayer")
        check_silence(find_decoder(made(family)))


@pytest.mark.parametrize("family", lines_without("cut", "zeroed"))
def test_parts_that_may_not_go_are_refused(family):
    with pytest.raises(UnsupportedModelError):
        check_cuts(find_decoder(made(family)))


@pytest.mark.parametrize("family", lines("zeroed"))
def test_a_family_that_cannot_be_built_in_other_sizes_is_refused_the_compact_form(family):
    model = build(family)
    with pytest.raises(UnsupportedModelError):
        apply_parts(model, some_parts(find_decoder(model), biased=False), format="compact")


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.positions])
def test_positions_end_where_the_field_says(family):
    model = build(family)
    assert Reach.of(model).positions == getattr(model.config, FAMILIES[family].positions)
