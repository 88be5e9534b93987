"""Quantised exports are held against vLLM's rules before they take their name."""

import pytest
import torch
from llmcompressor.modifiers.quantization import QuantizationModifier
from tiny import tiny_model

from unicuco_plugin.errors import ExportError
from unicuco_plugin.modifiers.export.oneshot import prune
from unicuco_plugin.modifiers.export.served import check_served
from unicuco_plugin.serving.verdict import check_serving


def packed(bits=4, *, symmetric=True, size=16):
    return {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": size}


def recipe(groups, ignore=("lm_head",)):
    made = {f"g{place}": {"targets": targets, "weights": weights} for place, (targets, weights) in enumerate(groups)}
    return QuantizationModifier(config_groups=made, ignore=list(ignore))


@pytest.fixture
def export(checkpoint, tmp_path):
    """Quantise the tiny Llama, and leave it in a folder."""

    def run(*groups, **fields):
        return prune(checkpoint("llama"), recipe(groups, **fields), tmp_path / "out")

    return run


REST = ["re:.*(o|gate|up|down)_proj"]


@pytest.mark.slow
@pytest.mark.parametrize("other", [packed(symmetric=False), packed(8)])
def test_split_q_k_v_are_refused_and_nothing_is_left(export, tmp_path, other):
    with pytest.raises(
        ExportError, match=r"vLLM would not load this checkpoint right: model\.layers\.0\.self_attn\.q_proj"
    ):
        export((["re:.*q_proj"], packed()), (["re:.*(k|v)_proj"], other), (REST, packed()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_the_recipe_asked_for_and_vllm_refuses_is_said_loudly_and_kept(export):
    done = export((["Linear"], packed()), ignore=["lm_head", "re:.*v_proj"])
    [note] = done.notes
    assert note.startswith(
        "vLLM does not load this checkpoint, Transformers does: model.layers.0.self_attn.q_proj+k_proj"
    )
    assert "of it only v_proj is in ignore" in note
    assert "vLLM does not load this checkpoint" in (done.path / "README.md").read_text(encoding="utf8")
    assert not check_serving(done.path).loads


@pytest.mark.slow
def test_a_device_without_a_kernel_is_in_the_card(export):
    done = export((["Linear"], packed(3)))
    [note] = done.notes
    assert note.startswith("CPU: vLLM has no kernel for W3A16:g16 there")
    assert check_serving(done.path).loads


def test_a_checkpoint_that_vllm_loads_everywhere_has_no_note(export):
    done = export((["re:.*self_attn.*"], packed()))
    assert done.notes == ()
    assert "vLLM" not in (done.path / "README.md").read_text(encoding="utf8")
    assert check_serving(done.path).loads


def test_a_dense_checkpoint_is_not_asked(tmp_path):
    tiny_model("llama").to(torch.bfloat16).save_pretrained(tmp_path / "dense")
    assert check_served(tmp_path / "dense") == ""


def test_a_folder_that_cannot_be_read_is_named_without_its_place(tmp_path):
    (tmp_path / "config.json").write_text("{")
    assert check_served(tmp_path).startswith("what vLLM makes of it is not known: ")
