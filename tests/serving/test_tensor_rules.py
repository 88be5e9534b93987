"""Headers: the tensors that compressed-tensors itself writes are in order, and each change of them is found."""

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from quantisations import alone, integers, layout_of

from unicuco_plugin.serving.layers import Linear, Unit
from unicuco_plugin.serving.tensor_rules import tensor_findings

UNIT = alone("a.b", rows=64, columns=96)
FP8 = {"num_bits": 8, "type": "float", "symmetric": True}
TOKEN = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}


def headers(shapes, prefix="a.b"):
    return {f"{prefix}.{name}": torch.empty(shape, device="meta") for name, shape in shapes.items()}


def layout_for(weights, layout="pack-quantized", **fields):
    return layout_of([UNIT], (["Linear"], weights, fields), layout=layout)


def own(weights, layout):
    """The tensors that compressed-tensors makes of the linear."""
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, format=layout)
    size = weights.get("group_size")
    scales = (64, 96 // size) if size else (64, 1)
    state = {
        "weight": torch.zeros(64, 96),
        "weight_scale": torch.ones(scales),
        "weight_zero_point": torch.zeros(scales, dtype=torch.int8),
    }
    made = BaseCompressor.get_value_from_registry(layout).compress(state, scheme)
    return {f"a.b.{name}": tensor.to("meta") for name, tensor in made.items()}


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("size", [32, None])
def test_what_compressed_tensors_packs_is_in_order_at_every_width(bits, symmetric, size):
    weights = integers(bits, size, symmetric=symmetric)
    assert list(tensor_findings(layout_for(weights), own(weights, "pack-quantized"))) == []


WHOLE = {"weight": (64, 96), "weight_scale": (64, 1)}
RIGHT = {
    "int8": (integers(8, None), "int-quantized", {"input_activations": TOKEN}, WHOLE),
    "fp8 of a tensor": (FP8 | {"strategy": "tensor"}, "float-quantized", {}, WHOLE | {"weight_scale": (1,)}),
    "fp8 in blocks": (
        FP8 | {"strategy": "block", "block_structure": [64, 64]}, "float-quantized", {},
        {"weight": (64, 96), "weight_scale": (1, 2)},
    ),
    "nvfp4": (
        {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16},
        "nvfp4-pack-quantized", {}, {"weight_packed": (64, 48), "weight_scale": (64, 6), "weight_global_scale": (1,)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_other_formats_are_in_order(name):
    weights, layout, fields, shapes = RIGHT[name]
    assert list(tensor_findings(layout_for(weights, layout, **fields), headers(shapes))) == []


@pytest.mark.parametrize("name", RIGHT)
def test_each_of_their_tensors_is_missed_and_measured(name):
    weights, layout, fields, shapes = RIGHT[name]
    for lost in shapes:
        kept = {field: shape for field, shape in shapes.items() if field != lost}
        [finding] = tensor_findings(layout_for(weights, layout, **fields), headers(kept))
        assert (finding.rule, finding.where, finding.outcome) == ("missing", f"a.b.{lost}", "broken")
        [finding] = tensor_findings(layout_for(weights, layout, **fields), headers(shapes | {lost: (7, 7)}))
        assert (finding.rule, finding.where, finding.outcome) == ("shape", f"a.b.{lost}", "broken")


@pytest.mark.parametrize(("bits", "words"), [(3, 10), (5, 16), (6, 20), (7, 24)])
def test_odd_widths_with_empty_bits_are_of_an_old_release(bits, words):
    shapes = {"weight_packed": (64, words), "weight_scale": (64, 3), "weight_shape": (2,)}
    [finding] = tensor_findings(layout_for(integers(bits)), headers(shapes))
    assert (finding.rule, finding.outcome) == ("packing", "refused")
    assert f"is {bits} bits packed {32 // bits} to a word" in finding.message


def test_a_linear_of_16_bits_has_no_scales():
    layout = layout_of([UNIT], (["Linear"], integers()), ignore=["a.b"])
    assert list(tensor_findings(layout, headers({"weight": (64, 96)}))) == []
    [finding] = tensor_findings(layout, headers({"weight_packed": (64, 12), "weight_scale": (64, 3)}))
    assert (finding.rule, finding.outcome) == ("unexpected", "broken")


def test_hundreds_of_missing_tensors_are_one_finding():
    unit = Unit("m", tuple(Linear(f"m.{number}", 64, 96) for number in range(300)))
    [finding] = tensor_findings(layout_of([unit], (["Linear"], integers())), {})
    assert finding.message.startswith("m.0.weight_packed, m.0.weight_scale and 898 more: not in the weight files")
