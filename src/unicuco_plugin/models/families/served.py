"""Which linears vLLM packs into one, and what it calls them: the names that its model classes know.

As read in vLLM 0.32: ``packed_modules_mapping`` of its models and their weight loaders.
"""

from collections.abc import Mapping

__all__ = ["FUSED_NAMES", "PACKED", "QKV"]

QKV = "qkv_proj"
# The own names of linears that vLLM packs, in its order → what it calls the result (``packed_modules_mapping`` of its
# models).
FUSED_NAMES: Mapping[tuple[str, ...], str] = {
    ("q_proj", "k_proj", "v_proj"): QKV,
    ("query", "key", "value"): QKV,
    ("gate_proj", "up_proj"): "gate_up_proj",
    ("w1", "w3"): "w13",
    ("q_a_proj", "kv_a_proj_with_mqa"): "fused_qkv_a_proj",
    ("in_proj_qkv", "in_proj_z"): "in_proj_qkvz",
    ("in_proj_b", "in_proj_a"): "in_proj_ba",
    ("q_proj", "k_proj", "v_proj", "g_proj"): "in_proj_qkvg",
}
_QKV = frozenset({"q_proj", "k_proj", "v_proj"})
# Linears that read one tensor → those of them that vLLM 0.32 packs; the others stand alone. By its models afmoe,
# laguna, olmo_hybrid, qwen3_5, qwen3_next, deepseek_v2 (without a compressed query), and minimax_text_01.
PACKED: Mapping[frozenset[str], tuple[frozenset[str], ...]] = {
    _QKV | {"gate_proj"}: (_QKV,),
    _QKV | {"g_proj"}: (_QKV,),
    _QKV | {"g_proj", "a_proj", "b_proj"}: (_QKV | {"g_proj"},),
    frozenset({"in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"}): (
        frozenset({"in_proj_qkv", "in_proj_z"}),
        frozenset({"in_proj_b", "in_proj_a"}),
    ),
    frozenset({"in_proj_qkvz", "in_proj_ba"}): (),
    frozenset({"q_proj", "kv_a_proj_with_mqa"}): (),
    frozenset({"qkv_proj", "output_gate"}): (),
}
