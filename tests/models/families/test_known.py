"""An entry is all that a family with names of its own needs."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from structured_parts import masked_logits
from tiny import tiny_model
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer, LlamaMLP

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.config import shrink_config
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.sublayers import check_silence, silenced, zero_outputs
from unicuco_plugin.models.families.family import HALVES, Family
from unicuco_plugin.models.families.known import FAMILIES, USUAL, family_of
from unicuco_plugin.models.parts import modeling_compact
from unicuco_plugin.models.parts.cuts import check_cuts
from unicuco_plugin.models.parts.formats import apply_parts
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.zeroing import zero_modules

IDS = torch.arange(3, 13)[None]
ODD = {"q_proj": "ask", "k_proj": "find", "v_proj": "tell", "o_proj": "say", "gate_proj": "open", "up_proj": "rise",
       "down_proj": "fall", "self_attn": "mixer", "mlp": "thinker"}  # fmt: skip
ENTRY = Family(
    attention=replace(USUAL.attention, names=("mixer",), linears=(("ask", "find", "tell", "say"),)),
    mlp=replace(USUAL.mlp, names=("thinker",), linears=(("open", "rise", "fall"),)),
    outputs=("say", "fall"),
    places=("where",),
    per_block=frozenset({"spice"}),
    counts=("first_few",),
    indices=frozenset({"chosen"}),
    rules=(lambda text, kept: {"twice": 2 * len(kept)},),
)


def under_other_names(kind):
    """A subclass whose children are kept as ODD has it, and found by its code as ever."""
    ways = {old: property(lambda self, new=new: self._modules[new]) for old, new in ODD.items()}
    return type(f"Odd{kind.__name__}", (kind,), ways)


KINDS = {kind: under_other_names(kind) for kind in (LlamaDecoderLayer, LlamaAttention, LlamaMLP)}


def odd_model():
    """Llama's numbers in modules that nothing else is called like."""
    model = tiny_model("llama", blocks=3)
    model.config.model_type = "odd"
    for module in list(model.modules()):
        if type(module) in KINDS:
            module._modules = {ODD.get(name, name): child for name, child in module._modules.items()}
            module.__class__ = KINDS[type(module)]
    return model


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS, use_cache=False).logits


def test_names_of_its_own_are_not_found_without_an_entry():
    model = odd_model()
    assert torch.equal(logits(model), logits(tiny_model("llama", blocks=3)))
    assert family_of(model.config) is USUAL
    with pytest.raises(UnsupportedModelError, match="has no module as its attention, which the spaces sublayer"):
        check_silence(find_decoder(model))


def test_with_an_entry_halves_and_parts_may_go(monkeypatch):
    monkeypatch.setitem(FAMILIES, "odd", ENTRY)
    model = odd_model()
    decoder = find_decoder(model)
    names = ["model.layers.0.mixer", "model.layers.2.thinker"]
    assert decoder.sublayers(0) == {"attention": names[0], "mlp": "model.layers.0.thinker"}
    check_silence(decoder)
    with silenced(decoder, names):
        expected = logits(model)
    restore = zero_outputs(decoder, names)
    torch.testing.assert_close(logits(model), expected)
    restore()
    parts = {name: part.count for name, part in check_cuts(decoder).items()}
    assert list(parts.values()) == [2, 48] * 3
    kept = KeptParts({name: tuple(range(1, count)) for name, count in parts.items()})
    masked = masked_logits(decoder, kept, IDS)
    with pytest.raises(UnsupportedModelError, match="needs modules self_attn and mlp"):
        apply_parts(model, kept)
    assert not torch.allclose(logits(model), masked, rtol=1e-3)
    zero_modules(decoder, kept)
    torch.testing.assert_close(logits(model), masked)


def test_fields_of_its_own_follow_when_blocks_go(monkeypatch):
    monkeypatch.setitem(FAMILIES, "odd", ENTRY)
    config = odd_model().config
    config.spice, config.first_few, config.chosen = [5, 6, 7], 2, [1, 2]
    small = shrink_config(config, [0, 2])
    assert (small.spice, small.first_few, small.chosen, small.twice) == ([5, 7], 1, [1], 4)


def test_one_familys_names_are_not_anothers(monkeypatch):
    monkeypatch.setitem(FAMILIES, "odd", ENTRY)
    assert find_decoder(tiny_model("llama", blocks=2)).sublayers(1)["mlp"] == "model.layers.1.mlp"


def test_the_file_beside_compact_checkpoints_repeats_what_the_usual_family_says():
    assert USUAL.head_counts == modeling_compact.HEAD_COUNTS
    halves = [USUAL.half(kind) for kind in HALVES]
    names = {name for half in halves for name in (half.names[0], *half.linears[0], half.size)}
    tree = ast.parse(Path(modeling_compact.__file__).read_text(encoding="utf8"))
    assert names <= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
