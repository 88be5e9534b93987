"""Models without weights from what a file says."""

import pytest
from tiny import tiny_model

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.sketch import sketch_from_fields, sketch_model


def test_a_sketch_has_the_names_and_no_numbers():
    model = tiny_model("llama")
    sketch = sketch_from_fields(model.config.to_dict() | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}})
    assert type(sketch) is type(model)
    assert sketch.state_dict().keys() == model.state_dict().keys()
    assert all(parameter.is_meta for parameter in sketch.parameters())


def test_numbers_that_json_has_not_are_read_as_transformers_writes_them():
    fields = tiny_model("falcon_h1").config.to_dict()
    sketch = sketch_from_fields(fields | {"time_step_limit": [0.0, {"__float__": "Infinity"}]})
    assert sketch.config.time_step_limit[1] == float("inf")


def test_the_configuration_is_not_changed():
    config = tiny_model("llama").config
    before = config.to_dict()
    assert sketch_model(config).config is not config
    assert config.to_dict() == before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "model_type: Transformers knows no family None"),
        ({"model_type": "llama9"}, "model_type: Transformers knows no family 'llama9'"),
        ({"model_type": ["llama"]}, r"model_type: Transformers knows no family \['llama'\]"),
        ({"model_type": "llama", "hidden_size": "wide"}, "llama: its configuration cannot be read"),
        ({"model_type": "llama", "hidden_size": 32, "num_attention_heads": 0}, "llama: "),
        (
            {"model_type": "qwen2", "num_hidden_layers": 10**12},
            "qwen2: num_hidden_layers must be at most 2,000, got 1000",
        ),
        ({"model_type": "xlstm", "num_blocks": 3000}, "xlstm: num_blocks must be at most 2,000, got 3000"),
        (
            {"model_type": "qwen2", "some_config": {"deeper": {"num_experts": 10**6}}},
            "qwen2: num_experts must be at most 2,000, got 1000000",
        ),
        ({"model_type": "qwen3_moe", "num_experts": 10**12}, "qwen3_moe: num_experts must be at most 2,000, got 1000"),
    ],
)
def test_what_builds_no_model_is_refused_with_the_reason(fields, message):
    with pytest.raises(UnsupportedModelError, match=message):
        sketch_from_fields(fields)
