"""Schemes: each of compressed-tensors' presets in the format that it is saved in, and what it is called."""

import pytest
from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES
from quantisations import integers, quantised

from unicuco_plugin.serving.quantization import parse_quantization
from unicuco_plugin.serving.schemes import find_scheme, scheme_name

# Answers of vLLM 0.32's ``_get_scheme_from_parts``; 1,092 were compared when this was made.
PRESETS = {
    "W4A16": ("pack-quantized", "wna16"), "W3A16": ("pack-quantized", "wna16"), "W8A16": ("pack-quantized", "wna16"),
    "W4A16_ASYM": ("pack-quantized", "wna16"), "W8A8": ("int-quantized", "int8"), "FP8": ("float-quantized", "fp8"),
    "FP8_DYNAMIC": ("float-quantized", "fp8"), "FP8_BLOCK": ("float-quantized", "fp8"),
    "NVFP4": ("nvfp4-pack-quantized", "nvfp4"), "NVFP4A16": ("nvfp4-pack-quantized", "nvfp4"),
    "MXFP4": ("mxfp4-pack-quantized", "mxfp4"), "MXFP8": ("mxfp8-quantized", "mxfp8"),
    "W4A8": ("pack-quantized", "wna8"), "W4AFP8": ("pack-quantized", "w4a8_fp8"),
}  # fmt: skip


def group_of(weights, **fields):
    return parse_quantization(quantised((["Linear"], weights, fields))).config_groups["group_0"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_the_scheme_that_vllm_takes_it_for(name):
    layout, expected = PRESETS[name]
    preset = PRESET_SCHEMES[name]
    made = group_of(
        preset["weights"].model_dump(),
        input_activations=(found := preset.get("input_activations")) and found.model_dump(),
    )
    scheme = find_scheme(made, layout)
    assert scheme is not None and scheme.name == expected


@pytest.mark.parametrize("bits", [1, 9, 16])
def test_widths_that_vllm_does_not_pack_have_no_scheme(bits):
    assert find_scheme(group_of(integers(bits)), "pack-quantized") is None


@pytest.mark.parametrize("bits", range(2, 9))
def test_widths_from_two_to_eight_have_one(bits):
    assert find_scheme(group_of(integers(bits, symmetric=False)), "pack-quantized").own == "CompressedTensorsWNA16"


@pytest.mark.parametrize(
    ("weights", "name"),
    [
        (integers(4, 64), "W4A16:g64"),
        (integers(3, 32, symmetric=False), "W3A16:g32:asym"),
        (integers(8, None), "W8A16:channel"),
        (PRESET_SCHEMES["NVFP4A16"]["weights"].model_dump(), "NVFP4A16"),
        (None, "16 bits"),
    ],
)
def test_a_scheme_is_called_as_requests_spell_it(weights, name):
    assert scheme_name(group_of(weights)) == name
