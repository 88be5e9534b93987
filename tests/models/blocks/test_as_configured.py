"""The check that a configuration builds the model in memory."""

import pytest
import torch
from tiny import FAMILIES, tiny_model, unfuse_experts
from transformers import GPTNeoXForCausalLM
from zoo.families import build

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.as_configured import check_structure
from unicuco_plugin.models.blocks.surgery import drop_blocks


@pytest.mark.parametrize("family", FAMILIES)
def test_untouched_models_pass(family):
    check_structure(tiny_model(family))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_hidden_layers": 5}, r"model\.layers\.5\..* is unexpected"),
        ({"intermediate_size": 40}, r"up_proj\.weight has shape \(48, 32\), expected \(40, 32\)"),
        ({"rms_norm_eps": 0.5}, r"variance_epsilon is 1e-06, expected 0.5"),
        ({"hidden_size": "wide"}, "its configuration no longer builds a model"),
    ],
    ids=str,
)
def test_a_changed_configuration_is_refused(fields, message):
    model = tiny_model("llama")
    vars(model.config).update(fields)
    with pytest.raises(UnsupportedModelError, match=message):
        check_structure(model)


def test_a_changed_window_is_refused():
    model = tiny_model("gemma3")
    model.config.layer_types = model.config.layer_types[::-1]
    with pytest.raises(UnsupportedModelError, match=r"layers\.0\.self_attn\.(layer_type|sliding_window|is_sliding) is"):
        check_structure(model)


def test_long_lists_of_differences_are_cut():
    model = tiny_model("llama")
    model.config.intermediate_size = 40
    with pytest.raises(UnsupportedModelError, match=r"; and \d+ more$"):
        check_structure(model)


def test_parameters_of_quantised_modules_are_let_be():
    model = tiny_model("llama")
    linear = model.model.layers[0].mlp.up_proj
    linear.weight_scale = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(UnsupportedModelError, match="weight_scale is unexpected"):
        check_structure(model)
    linear.quantization_scheme = "W4A16"
    check_structure(model)


def test_experts_that_the_toolkit_unfused_are_the_same_structure():
    model = tiny_model("qwen3_moe")
    unfuse_experts(model)
    check_structure(model)
    del model.model.layers[2].mlp.experts[1]
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.2\.mlp\.experts\.3\.\w+\.weight is missing"):
        check_structure(model)


def test_a_number_computed_in_another_way_is_the_same():
    model = tiny_model("llama")
    model.model.layers[0].self_attn.scaling *= 1 + 1e-15
    check_structure(model)


def test_a_number_that_is_another_is_named():
    model = tiny_model("llama")
    model.model.layers[0].self_attn.scaling *= 1 + 1e-9
    with pytest.raises(UnsupportedModelError, match=r"layers\.0\.self_attn\.scaling is 0\.35\d+, expected 0\.35"):
        check_structure(model)


def test_a_tied_head_that_has_another_name_on_disk_is_the_same_after_loading(tmp_path):
    # GPT-NeoX is saved as embed_out, and only what was renamed in loading is renamed in saving.
    build("gpt_neox-sequential").save_pretrained(tmp_path)
    check_structure(GPTNeoXForCausalLM.from_pretrained(tmp_path))


def test_a_configuration_that_can_be_held_and_not_read_is_refused_in_one_line():
    # OLMo-Hybrid wants both kinds of attention, and says so when config.json is read.
    with pytest.raises(UnsupportedModelError, match=r"no longer builds a model: .*validate_architecture") as caught:
        drop_blocks(build("olmo_hybrid"), [3])
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 300
