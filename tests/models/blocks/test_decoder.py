"""The view of a decoder, and what is refused."""

import pytest
import torch
import transformers as tf
from tiny import FAMILIES, tiny_model, unfuse_experts
from torch import nn

from unicuco_plugin.errors import StrategyError, UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import find_decoder

NAMES = {"gpt_neox": "gpt_neox.layers", "opt": "model.decoder.layers"}
SMALL = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 6, "intermediate_size": 48}


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_are_found_in_every_family(family):
    model = tiny_model(family)
    decoder = find_decoder(model)
    assert decoder.blocks_name == NAMES.get(family, "model.layers")
    assert decoder.block_names == tuple(f"{decoder.blocks_name}.{i}" for i in range(6))
    assert decoder.config is model.config
    assert [model.get_submodule(name) for name in decoder.block_names] == list(decoder.blocks)


def test_as_many_experts_as_blocks_do_not_confuse():
    model = tiny_model("qwen3_moe", blocks=4)
    unfuse_experts(model)
    assert find_decoder(model).blocks_name == "model.layers"


@pytest.mark.parametrize("family", FAMILIES)
def test_sublayers_and_linears_are_named_as_in_the_model(family):
    model = tiny_model(family)
    decoder = find_decoder(model)
    halves = decoder.sublayers(2)
    assert set(halves) == ({"attention"} if family == "opt" else {"attention", "mlp"})
    assert all(name.startswith(f"{decoder.block_names[2]}.") for name in halves.values())
    linears = decoder.linears(2)
    assert linears
    assert all(model.get_submodule(name) is linear for name, linear in linears.items())
    wanted = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.startswith(decoder.block_names[2])]
    assert list(linears) == wanted


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([6], r"block index must be an integer in \[0, 6\), got 6"),
        ([-1], r"block index must be an integer in \[0, 6\), got -1"),
        ([True], r"block index must be an integer in \[0, 6\), got True"),
        ([1, 2, 1], r"block indices must be distinct, got \[1\] more than once"),
        (range(6), "at least one block must stay, got all 6 to remove"),
    ],
)
def test_indices_are_checked(indices, message):
    decoder = find_decoder(tiny_model("llama"))
    with pytest.raises(StrategyError, match=f"^{message}$"):
        decoder.check_indices(indices)


def _with(family="llama", **fields):
    model = tiny_model(family)
    for field, value in fields.items():
        setattr(model.config, field, value)
    return model


def _shared():
    model = tiny_model("llama")
    model.model.layers[3].mlp.up_proj.weight = model.model.layers[1].mlp.up_proj.weight
    return model


def _two_lists():
    model = tiny_model("llama")
    model.model.extra = nn.ModuleList(nn.Identity() for _ in range(6))
    return model


def _quantiser():
    model = tiny_model("llama")
    model.hf_quantizer = object()
    return model


REFUSALS = {
    "t5": (
        lambda: tf.T5ForConditionalGeneration(tf.T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=16, num_layers=2)),
        "t5: encoder-decoder models are not supported, only decoder-only ones",
    ),
    "quantised config": (
        lambda: _with(quantization_config={"quant_method": "gptq"}),
        "llama: the model is already quantised; prune the full-precision model instead",
    ),
    "quantiser": (
        _quantiser,
        "LlamaForCausalLM: the model is already quantised; prune the full-precision model instead",
    ),
    "encoder": (
        lambda: tf.BertForMaskedLM(
            tf.BertConfig(
                vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
            )
        ),
        "bert: bert is an encoder, which reads text and writes none; only decoder-only language models can be pruned",
    ),
    "encoder without a decoder": (
        lambda: tf.DistilBertForMaskedLM(
            tf.DistilBertConfig(vocab_size=64, dim=16, n_layers=2, n_heads=2, hidden_dim=16)
        ),
        "distilbert: distilbert is an encoder, which reads text and writes none; only decoder-only language models can "
        "be pruned",
    ),
    "kv sharing": (
        lambda: _with(num_kv_shared_layers=2),
        "llama: num_kv_shared_layers = 2 ties its blocks together, so that none can be dropped; take a "
        "model without that",
    ),
    "moe frequency": (
        lambda: _with("qwen3_moe", moe_layer_freq=2),
        "qwen3_moe: moe_layer_freq must be 1 for blocks to be dropped, got 2; take a model without that",
    ),
    "gpt2 scaling": (
        lambda: tf.GPT2LMHeadModel(
            tf.GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, scale_attn_by_inverse_layer_idx=True)
        ),
        "gpt2: scale_attn_by_inverse_layer_idx = True ties its blocks together, so that none can be dropped; take a "
        "model without that",
    ),
    "gpt-neo": (
        lambda: tf.GPTNeoForCausalLM(
            tf.GPTNeoConfig(
                vocab_size=64, hidden_size=16, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]]
            )
        ),
        "gpt_neo: blocks of gpt_neo cannot be dropped: its attention pattern is regenerated from attention_types on "
        "reload; take a model of another family",
    ),
    "shared weights": (
        _shared,
        "LlamaForCausalLM: model.layers.3.mlp.up_proj.weight is the same parameter as "
        "model.layers.1.mlp.up_proj.weight, so its blocks cannot be pruned one by one; take a model of another family",
    ),
    "no list": (
        lambda: _with(num_hidden_layers=5),
        "LlamaForCausalLM: expected one list of num_hidden_layers = 5 blocks, found none; take a model of "
        "another family",
    ),
    "two lists": (
        _two_lists,
        "LlamaForCausalLM: expected one list of num_hidden_layers = 6 blocks, found model.layers, model.extra; "
        "take a model of another family",
    ),
    "not a model": (lambda: nn.Linear(2, 2), "expected a Transformers model, got Linear"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_unsupported_models_are_refused_with_the_reason(case):
    build, message = REFUSALS[case]
    with pytest.raises(UnsupportedModelError) as caught:
        find_decoder(build())
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Gemma3nForCausalLM", "gemma3n_text: blocks of gemma3n_text cannot be dropped"),
        ("Llama4ForCausalLM", "llama4_text: blocks of llama4_text cannot be dropped: llm-compressor takes its experts"),
        ("Gemma3ForConditionalGeneration", "gemma3: gemma3 is a multimodal wrapper; give its text model"),
    ],
)
def test_large_families_are_refused_by_their_configuration_alone(name, reason):
    kind = getattr(tf, name)
    with torch.device("meta"):
        shell = kind.__new__(kind)
        nn.Module.__init__(shell)
    shell.config = kind.config_class()
    with pytest.raises(UnsupportedModelError, match=reason):
        find_decoder(shell)


def test_blocks_without_linears_are_refused_where_linears_are_asked_for():
    decoder = find_decoder(tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2)))
    with pytest.raises(
        UnsupportedModelError,
        match=r"^GPT2LMHeadModel: its blocks have no nn\.Linear but Conv1D, so no share of their weights can be zeroed "
        r"or quantised; drop whole blocks instead \(the space depth\)$",
    ):
        decoder.all_linears()


def test_all_linears_are_those_of_every_block_in_order():
    decoder = find_decoder(tiny_model("llama"))
    names = [name for index in range(len(decoder.blocks)) for name in decoder.linears(index)]
    assert list(decoder.all_linears()) == names
    assert all(decoder.model.get_submodule(name) is linear for name, linear in decoder.all_linears().items())
