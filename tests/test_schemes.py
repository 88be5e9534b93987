"""Names of schemes, and what they store, against compressed-tensors' own presets and compressors."""

import pytest
import torch
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.quantization import preset_name_to_scheme
from hypothesis import given
from hypothesis import strategies as st

from unicuco_plugin.errors import StrategyError
from unicuco_plugin.levels.toolkit_scheme import as_toolkit
from unicuco_plugin.schemes import parse_scheme

PRESETS = [f"W{bits}A16" for bits in (2, 3, 4, 5, 6, 8)] + ["W4A16_ASYM", "W8A8", "INT8", "FP8_DYNAMIC", "NVFP4A16"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_what_compressed_tensors_says_it_is(name: str) -> None:
    scheme, preset = parse_scheme(name), preset_name_to_scheme(name, ["Linear"])
    weights = preset.weights
    assert weights is not None
    found = (weights.num_bits, weights.type, weights.symmetric, weights.group_size)
    assert found == (scheme.bits, scheme.kind, scheme.symmetric, scheme.group)
    entering = preset.input_activations
    assert (16 if entering is None else entering.num_bits) == scheme.inputs


names = st.builds(
    lambda bits, size, asym: ":".join([f"W{bits}A16", *size, *asym]),
    st.integers(2, 8),
    st.sampled_from([(), ("g32",), ("g64",), ("g128",), ("channel",)]),
    st.sampled_from([(), ("asym",)]),
)


@given(names | st.sampled_from(PRESETS))
def test_a_name_reads_back(name: str) -> None:
    scheme = parse_scheme(name)
    again = parse_scheme(scheme.name)
    assert (again.bits, again.group, again.symmetric, again.kind) == (
        scheme.bits, scheme.group, scheme.symmetric, scheme.kind,
    )  # fmt: skip
    assert again.name == scheme.name


@pytest.mark.parametrize("text", ["", "W4", "W9A16", "W1A16", "W4A16:g16", "W4A16:g32:g64", "W4A16:asym:asym", "w4a16"])
def test_what_is_no_scheme_is_refused(text: str) -> None:
    with pytest.raises(StrategyError, match="scheme must be W2A16 to W8A16"):
        parse_scheme(text)


def test_a_preset_takes_the_largest_group_that_divides() -> None:
    assert parse_scheme("W4A16").for_inputs(576).name == "W4A16:g64"
    assert parse_scheme("W4A16:asym").for_inputs(96).name == "W4A16:g32:asym"
    assert parse_scheme("W4A16").for_inputs(1536).name == "W4A16"
    with pytest.raises(StrategyError, match="do not divide 576 inputs; use g64 or g32"):
        parse_scheme("W4A16:g128").for_inputs(576)
    with pytest.raises(StrategyError, match="do not divide 40 inputs; use channel"):
        parse_scheme("W4A16").for_inputs(40)


def test_bits_count_scales_and_zero_points() -> None:
    assert parse_scheme("W4A16:g64").bits_per_weight(576) == 4.25
    assert parse_scheme("W4A16:g64:asym").bits_per_weight(576) == 4.25 + 4 / 64
    assert parse_scheme("W8A16:channel").bits_per_weight(512) == 8 + 16 / 512


@given(names | st.sampled_from(["W8A8", "FP8_DYNAMIC", "NVFP4A16"]), st.sampled_from([7, 64]))
def test_stored_tensors_are_those_of_compressed_tensors(name: str, rows: int) -> None:
    columns = 384
    scheme = parse_scheme(name)
    state = {
        "weight": torch.randn(rows, columns, dtype=torch.bfloat16),
        "weight_scale": torch.ones(rows, columns // scheme.group if scheme.group else 1, dtype=torch.bfloat16),
    }
    if not scheme.symmetric:
        state["weight_zero_point"] = torch.zeros_like(state["weight_scale"], dtype=torch.int8)
    if scheme.kind == "float" and scheme.group:
        state["weight_global_scale"] = torch.ones(1)
    stored = BaseCompressor.get_value_from_registry(scheme.format).compress(state, as_toolkit(scheme))
    assert {key: (tuple(t.shape), t.element_size()) for key, t in stored.items()} == dict(scheme.tensors(rows, columns))
