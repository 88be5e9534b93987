"""What a configuration does to units: each rule with what breaks it, and its right twin."""

import pytest
from quantisations import alone, attention, experts, found, integers, layout_of

from unicuco_plugin.serving.layers import Linear, Unit
from unicuco_plugin.serving.unit_rules import UNIT_RULES

QKV = attention()
Q, K, V = QKV.names
ALL = (["Linear"], integers())


def rules_of(*args, **fields):
    return found(UNIT_RULES, layout_of(*args, **fields))


@pytest.mark.parametrize(
    ("units", "groups", "ignore"),
    [
        ([QKV], [ALL], ["lm_head"]),
        ([QKV], [ALL], [Q, K, V]),
        ([QKV], [([Q, K, V], integers())], []),
        ([QKV], [([Q, K], integers()), ([V], integers())], []),  # two groups, one scheme
        (
            [QKV, alone("model.layers.0.self_attn.o_proj")],
            [([Q, K, V], integers(3)), (["re:.*o_proj"], integers(4))],
            [],
        ),
        ([alone("lm_head", kind="head")], [ALL], ["lm_head"]),
        ([alone("lm_head", kind="head")], [(["lm_head"], integers())], []),
        ([experts()], [ALL], []),
        ([experts()], [ALL], ["re:.*experts.*"]),
    ],
)
def test_whole_units_of_one_scheme_are_in_order(units, groups, ignore):
    assert rules_of(units, *groups, ignore=ignore) == []


def test_q_k_v_of_several_widths_are_an_error_that_vllm_makes_too():
    [finding] = rules_of([QKV], ([Q], integers(8)), ([K, V], integers(4)))
    assert (finding.rule, finding.where, finding.outcome) == ("split_unit", QKV.name, "refused")
    assert finding.message == (
        "is stored as W8A16:g32 and W4A16:g32; vLLM packs the 3 linears of it, and fails when it reads their weights: "
        "give them one scheme"
    )


@pytest.mark.parametrize(
    ("first", "others", "outcome"),
    [
        (integers(symmetric=False), integers(), "silent"),  # zero points that vLLM asks for are zeros
        (integers(), integers(symmetric=False), "refused"),  # and those that it does not ask for are too many
    ],
)
def test_q_k_v_of_one_width_and_two_meanings_may_load_as_another_model_without_a_word(first, others, outcome):
    [finding] = rules_of([QKV], ([Q], first), ([K, V], others))
    assert (finding.rule, finding.severity, finding.outcome) == ("split_unit", "error", outcome)


@pytest.mark.parametrize(
    ("groups", "ignore", "rule"),
    [([(["model.layers.0.self_attn.wk"], integers(8))], [], "split_unit"), ([ALL], ["re:.*wk"], "partly_ignored")],
)
def test_linears_of_one_input_that_vllm_is_not_known_to_pack_are_a_warning(groups, ignore, rule):
    parent = "model.layers.0.self_attn"
    linears = tuple(Linear(f"{parent}.{leaf}", 64, 64) for leaf in ("wk", "weights_proj"))
    unit = Unit(f"{parent}.wk+weights_proj", linears)
    [finding] = rules_of([unit], *groups, ignore=ignore)
    assert (finding.rule, finding.severity, finding.outcome) == (rule, "warning", "note")


def test_linears_without_a_target_beside_such_with_one_are_split():
    [finding] = rules_of([QKV], ([Q, K], integers()))
    assert finding.rule == "split_unit"
    assert finding.message.startswith("is stored as W4A16:g32 and 16 bits")


def test_a_unit_that_is_ignored_in_part_is_refused():
    [finding] = rules_of([QKV], ALL, ignore=["re:.*v_proj$x", V])
    assert (finding.rule, finding.outcome) == ("partly_ignored", "refused")
    assert finding.message.startswith("of it only v_proj is in ignore")


def test_experts_of_several_schemes_are_refused():
    [finding] = rules_of([experts()], (["re:.*down_proj"], integers(8)), (["re:.*(gate|up)_proj"], integers(4)))
    assert finding.rule == "split_unit"
    assert "vLLM packs the experts of a block" in finding.message


def test_an_expression_for_one_part_that_hits_the_packed_name_is_told():
    # Stored: alone v_proj has a target first in the alphabet. vLLM: gate_up_proj ends in up_proj.
    unit = Unit("m.gate_proj+up_proj", (Linear("m.gate_proj", 64, 64), Linear("m.up_proj", 64, 64)))
    groups = [(["re:m.(gate|up)_proj$"], integers(4)), (["re:.*_up_proj$"], integers(8))]
    [finding] = rules_of([unit], *groups)
    assert (finding.rule, finding.outcome) == ("target_order", "refused")
    assert "is stored as W4A16:g32, and vLLM takes it for W8A16:g32" in finding.message


@pytest.mark.parametrize(("symmetric", "outcome"), [(True, "refused"), (False, "silent")])
def test_another_order_of_targets_is_silent_where_vllm_misses_nothing_but_zero_points(symmetric, outcome):
    groups = [(["re:.*self_attn"], integers(symmetric=symmetric)), (["re:.*layers"], integers(symmetric=not symmetric))]
    [finding] = rules_of([alone("model.layers.0.self_attn.o_proj")], *groups)
    assert (finding.rule, finding.outcome) == ("target_order", outcome)


def test_a_head_quantised_by_its_class_is_not_loaded():
    [finding] = rules_of([alone("lm_head", kind="head")], ALL, ignore=[])
    assert (finding.rule, finding.where) == ("head", "lm_head")


@pytest.mark.parametrize(
    ("columns", "size", "advice"), [(576, 128, "take 64 or 32"), (100, 32, "take W8A8, or ignore it")]
)
def test_a_group_must_divide_the_inputs(columns, size, advice):
    [finding] = rules_of([alone("a.b", columns=columns)], (["Linear"], integers(4, size)))
    assert (finding.rule, finding.where) == ("group_size", "a.b")
    assert finding.message.startswith(f"has {columns} inputs, which groups of {size} do not divide")
    assert finding.message.endswith(advice)


@pytest.mark.parametrize(("rows", "bits", "rules"), [((64, 36, 36), 4, 2), ((64, 32, 32), 3, 0), ((64, 36, 36), 8, 0)])
def test_zero_points_of_a_part_fill_whole_words(rows, bits, rules):
    unit = attention(rows=rows)
    assert [f.rule for f in rules_of([unit], (["Linear"], integers(bits, symmetric=False)))] == ["shard_size"] * rules
    assert rules_of([unit], (["Linear"], integers(bits))) == []


def test_blocks_of_scales_end_where_a_part_ends_but_for_the_last():
    weights = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "block", "block_structure": [64, 64]}
    fp8 = {"layout": "float-quantized"}
    assert rules_of([attention(rows=(64, 64, 32))], (["Linear"], weights), **fp8) == []
    [finding] = rules_of([attention(rows=(64, 32, 64))], (["Linear"], weights), **fp8)
    assert (finding.rule, finding.where) == ("shard_size", K)
