"""What Transformers makes of tensors on the meta device."""

import logging

import pytest
import torch
from tiny import FAMILIES, tiny_model

from unicuco_plugin.models.checkpoints.loadability import (
    build_sketch,
    disk_state,
    find_unfit,
    has_own_code,
    is_passed_over,
    quiet_loading,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_family_saves_it_loads(family):
    model = tiny_model(family, blocks=2)
    sketch = build_sketch(type(model), model.config)
    assert {parameter.device.type for parameter in sketch.parameters()} == {"meta"}
    assert find_unfit(type(model), model.config, disk_state(sketch)) == []


def test_what_does_not_fit_is_named():
    model = tiny_model("llama", blocks=2)
    state = disk_state(model)
    state["extra"] = state.pop("model.norm.weight")
    state["model.embed_tokens.weight"] = torch.empty(3, 32, device="meta")
    assert find_unfit(type(model), model.config, state) == [
        "model.norm.weight is missing",
        "extra is unexpected",
        "model.embed_tokens.weight has another shape",
    ]


def test_a_class_says_itself_what_it_passes_over():
    model = tiny_model("llama", blocks=2)
    assert not is_passed_over(model, "mtp.layers.0.weight")
    model._keys_to_ignore_on_load_unexpected = [r"^mtp.*"]
    assert is_passed_over(model, "mtp.layers.0.weight")
    assert not is_passed_over(model, "model.mtp.weight")


def test_a_class_of_transformers_is_not_the_checkpoints_own():
    assert not has_own_code(tiny_model("llama", blocks=2))


def test_warnings_of_loading_are_held_back_and_errors_are_not(caplog):
    logger = logging.getLogger("transformers.modeling_utils")
    level, filters = logger.level, list(logger.filters)
    with caplog.at_level(logging.WARNING), quiet_loading():
        logger.addHandler(caplog.handler)
        logger.warning("a table")
        logger.error("a fault")
        logger.removeHandler(caplog.handler)
    assert caplog.messages.count("a table") == 0
    assert "a fault" in caplog.messages
    assert (logger.level, logger.filters) == (level, filters)
