"""The configuration as compressed-tensors reads it, from strangers."""

import pytest
from quantisations import integers, quantised

from unicuco_plugin.errors import CheckpointError
from unicuco_plugin.serving.quantization import parse_quantization


def test_groups_keep_the_files_order_and_formats_of_their_own():
    made = parse_quantization(
        quantised((["b"], integers()), (["a"], integers(), {"format": "int-quantized"}), extra_field=1)
    )
    assert list(made.config_groups) == ["group_0", "group_1"]
    assert [made.format_of(group) for group in made.config_groups.values()] == ["pack-quantized", "int-quantized"]


def test_no_list_of_what_is_ignored_is_an_empty_one():
    assert parse_quantization({"config_groups": {}, "ignore": None}).ignore == ()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quant_method must be compressed-tensors, got 'gptq'"),
        ({"config_groups": 3}, "config_groups: Input should be a valid dictionary"),
        (quantised(("Linear", integers())), "config_groups.group_0.targets"),
        (quantised((["Linear"], integers(num_bits="four"))), "config_groups.group_0.weights.num_bits"),
        (quantised((["Linear"], integers(strategy="diagonal"))), "'diagonal' is not a valid QuantizationStrategy"),
        (quantised((["re:("], integers())), "the expression '\\(' is no regular expression"),
        (quantised((["Linear"], integers()), ignore=["re:(a+)+$"]), "backtracks without end"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_field(data, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        parse_quantization(data)
    assert len(str(caught.value)) <= 400
