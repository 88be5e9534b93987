"""The real small model stored in the schemes that the packaged profile of bits gives its units."""

import json

import pytest
from llmcompressor.modifiers.quantization import QuantizationModifier

from unicuco_plugin.answering import load_profile
from unicuco_plugin.modifiers.export.oneshot import prune
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier

PROFILE, REQUEST = "smollm2-135m-instruct-precision", {"bits": 4.25}


@pytest.fixture(scope="module")
def machine():
    """The tiny models run as beside an accelerator, and of this one the export (test_real_export)."""
    return "host"


@pytest.mark.slow
def test_the_packaged_profile_fills_the_groups_of_a_quantiser_and_promises_its_bytes(smollm2, tmp_path):
    recipe = [SparsityProfileModifier(profile=PROFILE, request=REQUEST), QuantizationModifier(ignore=["lm_head"])]
    done = prune(smollm2, recipe, tmp_path / "out")
    [strategy] = done.strategies
    assert strategy == load_profile(PROFILE).answer(**REQUEST)
    assert 4.2 < strategy.bits <= 4.25
    groups = json.loads((done.path / "config.json").read_text())["quantization_config"]["config_groups"].values()
    stored = {name: group["weights"]["num_bits"] for group in groups for name in group["targets"]}
    for unit, scheme in strategy.units.items():
        module, _, linears = unit.rpartition(".")
        assert {stored.pop(f"{module}.{linear}") for linear in linears.split("+")} == {int(scheme[1])}
    assert not stored
    [weights] = done.path.glob("*.safetensors")
    with weights.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    size = weights.stat().st_size
    assert size <= strategy.bytes <= size + header // 4  # names of schemes and offsets are taken to be long
