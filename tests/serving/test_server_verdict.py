"""The whole check on files of small models, written by llm-compressor's own compressors where there are weights."""

import json
import os

import pytest
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from quantisations import integers, quantised
from safetensors.torch import load_file, save_file
from tiny import tiny_model

from unicuco_plugin.errors import CheckpointError
from unicuco_plugin.serving.kernels import Device
from unicuco_plugin.serving.verdict import check_serving

ALL = (["Linear"], integers(4, 16))


@pytest.fixture
def checkpoint(tmp_path):
    """A tiny model quantised by compressed-tensors itself, and saved."""

    def make(*groups, family="llama", **fields):
        model = tiny_model(family, blocks=2)
        apply_quantization_config(model, QuantizationConfig.model_validate(quantised(*groups, **fields)))
        for module in model.modules():
            if hasattr(module, "weight_scale"):
                module.weight_scale.data.fill_(0.1)
                if hasattr(module, "weight_zero_point"):
                    module.weight_zero_point.data.zero_()
        compressor = ModelCompressor.from_pretrained_model(model)
        compressor.compress_model(model)
        folder = tmp_path / "quantised"
        model.save_pretrained(folder)
        compressor.update_config(folder)
        return folder

    return make


def rules(verdict):
    return [entry.rule for entry in verdict.findings]


def test_what_compressed_tensors_wrote_loads(checkpoint):
    verdict = check_serving(checkpoint(ALL))
    assert (verdict.loads, verdict.files, verdict.model, verdict.errors) == (True, True, True, ())
    assert [(row.scheme, row.linears, row.kernels) for row in verdict.rows] == [
        ("W4A16:g16", 12, ("Humming", "CPU WNA16, no float32")),
        ("W4A16:g16", 2, ("Humming", "")),  # 48 inputs of down_proj
        ("16 bits", 1, (None, None)),
    ]


@pytest.mark.parametrize("header", [b'{"a": 1}', b'{"a": {"shape": [1]}}', b"[]", b'{"a": {"data_offsets": [0, 0]}}'])
def test_headers_of_strangers_are_refused_in_one_line(checkpoint, header):
    folder = checkpoint(ALL)
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError) as caught:
        check_serving(folder)
    assert "\n" not in str(caught.value)


def test_a_pipe_among_the_weight_files_is_not_waited_for(checkpoint):
    folder = checkpoint(ALL)
    os.mkfifo(folder / "more.safetensors")
    with pytest.raises(CheckpointError, match="must be a regular file, got a pipe"):
        check_serving(folder)


@pytest.mark.parametrize("damage", ["lost", "misshapen", "truncated"])
def test_damaged_files_are_told(checkpoint, damage):
    folder = checkpoint(ALL)
    path = folder / "model.safetensors"
    tensors, name = load_file(path), "model.layers.0.mlp.down_proj.weight_scale"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-3])
        with pytest.raises(CheckpointError, match=r"expected [0-9]+ bytes, got"):
            check_serving(folder)
        return
    tensors[name] = torch.zeros(3, 3)
    if damage == "lost":
        del tensors[name]
    save_file(tensors, path)
    [finding] = check_serving(folder).errors
    assert (finding.rule, finding.where) == ("missing" if damage == "lost" else "shape", name)


def test_split_q_k_v_are_found_in_a_configuration_alone(config_file):
    path = config_file(quantised((["re:.*q_proj"], integers(8, 16)), (["re:.*(k|v)_proj"], integers(4, 16))))
    verdict = check_serving(path)
    assert (rules(verdict), verdict.files, verdict.loads) == (["split_unit"], False, False)
    assert "self_attn.q_proj+k_proj+v_proj, model.layers.1." in verdict.findings[0].where  # both blocks in one line


def test_a_quantisation_alone_is_asked_what_it_shows_by_itself(tmp_path):
    path = tmp_path / "quantization.json"
    path.write_text(json.dumps(quantised((["Linear"], integers(3)), version="0.17.1")), encoding="utf8")
    verdict = check_serving(path)
    assert (rules(verdict), verdict.model, verdict.loads) == (["packing", "kernel"], False, False)


def test_the_headers_overrule_the_version(checkpoint):
    folder = checkpoint((["Linear"], integers(3, 16)))
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf8"))
    config["quantization_config"]["version"] = "0.15.0"
    path.write_text(json.dumps(config), encoding="utf8")
    assert rules(check_serving(folder)) == ["kernel"]  # of the CPU, a warning
    assert rules(check_serving(path)) == ["packing", "kernel"]


def test_an_unquantised_checkpoint_loads_as_any(config_file):
    verdict = check_serving(config_file())
    assert (verdict.quantised, verdict.loads, verdict.rows) == (False, True, ())


@pytest.mark.parametrize(
    ("devices", "chosen", "severity"),
    [
        ((Device("cuda"), Device("cpu")), False, "warning"),
        ((Device("cuda"), Device("cpu")), True, "error"),
        ((Device("cpu"),), True, "error"),
        ((Device("cpu"),), False, "error"),
    ],
)
def test_a_device_without_a_kernel_counts_where_it_was_chosen_or_is_the_only_one(
    config_file, devices, chosen, severity
):
    verdict = check_serving(config_file(quantised((["Linear"], integers(3, 16)))), devices, chosen=chosen)
    [finding] = verdict.findings
    assert (finding.rule, finding.where, finding.severity) == ("kernel", "CPU", severity)
    assert verdict.loads == (severity == "warning")


def test_a_group_that_does_not_divide_is_told_once_for_all_blocks(config_file):
    [finding] = check_serving(config_file(quantised((["Linear"], integers(4, 64))))).errors
    assert finding.rule == "group_size"
    assert finding.where == "model.layers.0.mlp.down_proj, model.layers.1.mlp.down_proj"
    assert finding.message.startswith("has 48 inputs, which groups of 64 do not divide")


def test_a_family_that_is_not_known_is_checked_by_its_configuration(config_file):
    path = config_file(quantised(ALL), model_type="of-tomorrow")
    verdict = check_serving(path)
    assert (rules(verdict), verdict.model, verdict.loads) == (["model"], False, True)


def test_a_compact_checkpoint_has_no_class_there(config_file):
    path = config_file(quantised(ALL), auto_map={"AutoModelForCausalLM": "modeling_compact.CompactLlamaForCausalLM"})
    assert rules(check_serving(path)) == ["architecture"]


def test_experts_of_two_schemes_are_found(config_file):
    groups = [(["re:.*down_proj"], integers(8, 16)), (["re:.*(gate|up|q|k|v|o)_proj"], integers(4, 16))]
    verdict = check_serving(config_file(quantised(*groups), family="qwen3_moe"))
    assert [(entry.rule, entry.where) for entry in verdict.errors] == [
        ("split_unit", "model.layers.0.mlp.experts, model.layers.1.mlp.experts")
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "loads"), [(64, True), (32, True), (128, False)])
def test_smollm2_takes_groups_that_divide_its_576_inputs(smollm2, tmp_path, size, loads):
    data = json.loads((smollm2 / "config.json").read_text(encoding="utf8"))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(data | {"quantization_config": quantised((["Linear"], integers(4, size)))}))
    verdict = check_serving(path)
    assert verdict.loads == loads
    assert sum(row.linears for row in verdict.rows) == 211
    if loads:
        assert verdict.rows[0].kernels == ("Marlin", "CPU WNA16, no float32")
    else:
        assert rules(verdict)[0] == "group_size"
