"""Two tools' ways to find a group: compressed-tensors' own code is asked, and answers that vLLM 0.32 gave."""

import pytest
import torch
from compressed_tensors.utils.match import is_match, match_targets
from hypothesis import given
from hypothesis import strategies as st
from quantisations import attention, integers, quantised

from unicuco_plugin.serving.matching import Matcher, PartlyIgnored, fused_name, unmatched
from unicuco_plugin.serving.quantization import parse_quantization

QKV = attention(1).names
NAMES = [*QKV, *attention(10).names, "model.layers.1.mlp.down_proj", "model.layers.10.self_attn.o_proj", "lm_head"]
SPELLINGS = st.sampled_from(
    [
        *NAMES, "re:.*layers.1", r"re:.*layers\.1\.", "re:.*q_proj$", "re:.*v_proj", "re:.*self_attn.*", "re:.*proj",
        "re:^(?!.*down).*", "re:(model.layers.1.)?mlp", "Linear", "re:.*[qk]_proj$",
    ]
)  # fmt: skip


def matcher(*groups, ignore=()):
    return Matcher(parse_quantization(quantised(*groups, ignore=ignore)))


@given(
    groups=st.lists(st.lists(SPELLINGS, min_size=1, max_size=3), min_size=1, max_size=4),
    ignore=st.lists(SPELLINGS, max_size=3),
    name=st.sampled_from(NAMES),
)
def test_a_linear_is_stored_as_compressed_tensors_itself_says(groups, ignore, name):
    made = matcher(*((targets, integers()) for targets in groups), ignore=ignore)
    linear = torch.nn.Linear(1, 1)
    owners = {target: f"group_{place}" for place, targets in enumerate(groups) for target in targets}
    targets = match_targets(name, linear, owners)
    ignored = is_match(name, linear, tuple(ignore)) if ignore else False
    assert made.written(name) == (None if ignored or not targets else owners[targets[0]])


# Answers of vLLM 0.32's CompressedTensorsConfig.get_scheme_dict; 45,000 random ones were compared when this was made.
@pytest.mark.parametrize(
    ("groups", "served", "written"),
    [
        ([["Linear"]], "group_0", "group_0"),
        ([["re:.*q_proj"], ["re:.*"]], "group_1", "group_1"),  # the packed name matches the second; CT sorts by text
        ([["re:.*v_proj$"], ["re:.*(q|k)_proj$"]], "group_0", "group_1"),  # qkv_proj ends in v_proj
        ([["re:.*layers.1", "Linear"], ["model.layers.1.self_attn.q_proj"]], "group_0", "group_1"),
        ([["re:.*self_attn"], ["re:.*layers.1"]], "group_0", "group_1"),  # the file's order, and the alphabet's
        ([[QKV[0]]], None, "group_0"),  # not every part has a target
        ([["QKVParallelLinear"]], "group_0", None),
    ],
)
def test_vllm_asks_for_the_packed_name_first_and_in_the_files_order(groups, served, written):
    made = matcher(*((targets, integers()) for targets in groups))
    assert made.served(QKV) == served
    assert made.written(QKV[0]) == written


def test_the_first_of_the_parts_decides_where_the_packed_name_matches_nothing():
    made = matcher((QKV[1:2], integers(8)), (QKV[:1], integers(4)), (QKV[2:], integers(4)))
    assert made.served(QKV) == "group_1"


def test_a_unit_is_ignored_whole_or_not_at_all():
    assert matcher((["Linear"], integers()), ignore=["re:.*self_attn.*"]).served(QKV) is None
    assert matcher((["Linear"], integers()), ignore=["re:.*qkv_proj"]).served(QKV) is None
    with pytest.raises(PartlyIgnored):
        matcher((["Linear"], integers()), ignore=[QKV[2]]).served(QKV)


def test_a_head_is_not_of_the_class_linear_to_vllm():
    made = matcher((["Linear"], integers()))
    assert made.served(["lm_head"], "head") is None
    assert made.written("lm_head") == "group_0"
    assert matcher((["lm_head"], integers())).served(["lm_head"], "head") == "group_0"


def test_experts_take_what_linears_have():
    assert matcher((["Linear"], integers())).served(["model.layers.0.mlp.experts.0.up_proj"], "experts") == "group_0"


def test_the_packed_name_is_known_for_what_vllm_packs():
    assert fused_name(QKV) == "model.layers.1.self_attn.qkv_proj"
    assert fused_name(QKV[:1]) is None
    assert fused_name(["a.x", "b.y"]) is None


def test_a_target_that_stands_twice_means_the_later_group():
    made = matcher((["Linear"], integers(4)), (["Linear"], integers(8)))
    assert (made.served(QKV), made.written(QKV[0])) == ("group_1", "group_1")


def test_targets_that_match_nothing_are_told_and_classes_are_not():
    made = matcher((["Linear", "model.layers.7.x", "re:.*nothing", "re:.*q_proj"], integers()))
    assert unmatched(made, NAMES) == ["model.layers.7.x", "re:.*nothing"]
