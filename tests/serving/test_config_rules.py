"""What a configuration shows by itself: each rule with what breaks it, and its right twin."""

import pytest
from quantisations import integers, quantised

from unicuco_plugin.serving.config_rules import CONFIG_RULES, raw_findings, readable
from unicuco_plugin.serving.quantization import parse_quantization

TOKEN = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
FP8 = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}
CACHE = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor"}


def ask(quantization):
    return [
        *raw_findings(quantization),
        *(finding for rule in CONFIG_RULES for finding in rule(parse_quantization(readable(quantization)))),
    ]


RIGHT = {
    "packed": quantised((["Linear"], integers())),
    "two formats": quantised(
        (["re:.*mlp"], integers(), {"format": "pack-quantized"}),
        (["re:.*attn"], integers(8, None), {"input_activations": TOKEN, "format": "int-quantized"}),
        layout="mixed-precision",
    ),
    "static order": quantised((["Linear"], integers(actorder="static"))),
    "empty sparsity": quantised((["Linear"], integers()), sparsity_config={}),
    "dense sparsity": quantised((["Linear"], integers()), sparsity_config={"format": "dense", "targets": []}),
    "cache": quantised((["Linear"], integers()), kv_cache_scheme=CACHE),
    "even width of old": quantised((["Linear"], integers(4)), version="0.15.0"),
    "odd width of new": quantised((["Linear"], integers(3)), version="0.19.0"),
    "a source build": quantised((["Linear"], integers(3)), version="0.18.1.a20260101"),
    "attention": quantised((["Linear"], integers()), (["LlamaAttention"], None, {"input_activations": CACHE})),
}
WRONG = {
    "sparsity_config": quantised(
        (["Linear"], integers()), sparsity_config={"format": "sparse-24-bitmask", "targets": ["Linear"]}
    ),
    "actorder": quantised((["Linear"], integers(actorder="group"))),
    "packing": quantised((["Linear"], integers(3)), version="0.17.0"),
    "kv_cache": quantised((["Linear"], integers()), kv_cache_scheme=CACHE | {"type": "int"}),
    "weights": quantised((["Linear"], None, {"input_activations": TOKEN})),
    "scheme": quantised((["Linear"], integers(8, None)), layout="int-quantized"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_vllm_loads_is_found_in_order(name):
    assert ask(RIGHT[name]) == []


@pytest.mark.parametrize("rule", WRONG)
def test_what_vllm_refuses_is_an_error_that_names_its_field(rule):
    [finding] = ask(WRONG[rule])
    assert (finding.rule, finding.severity, finding.outcome) == (rule, "error", "refused")
    assert finding.where.split(".")[0] in WRONG[rule]
    assert len(finding.message) <= 300


@pytest.mark.parametrize("order", ["group", "dynamic", True])
def test_every_order_that_moves_columns_is_refused(order):
    data = quantised((["Linear"], integers(actorder=order)))
    assert [finding.rule for finding in raw_findings(data)] == ["actorder"]


def test_a_preset_by_its_name_is_refused():
    data = {"quant_method": "compressed-tensors", "config_groups": {"W4A16": ["Linear"]}}
    [finding] = raw_findings(data)
    assert (finding.rule, finding.where) == ("preset", "config_groups.W4A16")


def test_formats_mixed_without_one_for_each_group_have_no_scheme():
    [finding] = ask(quantised((["Linear"], integers()), layout="mixed-precision"))
    assert finding.message.startswith("vLLM has no scheme for W4A16:g32 in the format 'mixed-precision'")


def test_rotations_are_said_not_to_be_looked_into():
    [finding] = ask(quantised((["Linear"], integers()), transform_config={"config_groups": {}}))
    assert (finding.rule, finding.severity) == ("transforms", "warning")
