"""``unicuco check``."""

import json

import pytest

WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 16}


@pytest.fixture
def config(dense, tmp_path):
    """The dense model's configuration with a quantisation of these groups; return its path."""

    def write(*groups, **fields):
        data = json.loads((dense / "config.json").read_text(encoding="utf8"))
        made = {
            str(place): {"targets": targets, "weights": WEIGHTS | more} for place, (targets, more) in enumerate(groups)
        }
        data["quantization_config"] = {
            "quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": made,
            "ignore": ["lm_head"], **fields,
        }  # fmt: skip
        path = tmp_path / "config.json"
        path.write_text(json.dumps(data), encoding="utf8")
        return path

    return write


def test_what_loads_ends_with_0_and_a_table_of_kernels(unicuco, config):
    result = unicuco("check", config((["Linear"], {})), "--device", "cuda", "--capability", "9.0")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "config.json: vLLM 0.32 loads it, without its weight files"
    assert lines[2].split() == ["scheme", "linears", "CUDA", "9.0"]
    assert lines[4].split() == ["W4A16:g16", "42", "Humming"]


def test_a_deliberate_split_of_q_k_v_ends_with_1(unicuco, config):
    groups = [(["re:.*q_proj"], {"num_bits": 8}), (["re:.*(k|v)_proj"], {})]
    result = unicuco("check", config(*groups))
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0] == "config.json: vLLM 0.32 does not load it, without its weight files"
    assert "vLLM packs the 3 linears of it" in result.stdout


def test_layers_1_hits_layers_10_which_is_said(unicuco, config):
    path = config((["Linear"], {}), ignore=["lm_head", "re:.*layers.1"])
    assert "also matches" not in unicuco("check", path).stdout  # of six blocks
    data = json.loads(path.read_text(encoding="utf8")) | {"num_hidden_layers": 12}
    path.write_text(json.dumps(data), encoding="utf8")
    result = unicuco("check", path)
    assert result.exit_code == 0
    assert "warning: 're:.*layers.1': also matches model.layers.10.self_attn.q_proj" in result.stdout


def test_a_device_that_lacks_a_kernel_is_an_error_where_it_was_asked_for(unicuco, config):
    path = config((["Linear"], {"num_bits": 3}))
    assert unicuco("check", path).exit_code == 0
    assert unicuco("check", path, "--device", "cuda").exit_code == 0
    assert unicuco("check", path, "--device", "cpu").exit_code == 1
    assert unicuco("check", path, "--device", "cuda", "--capability", "7.0").exit_code == 1


def test_json_is_for_machines_whatever_the_verdict(unicuco, config):
    result = unicuco("check", config((["Linear"], {"actorder": "group"})), "--json")
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    assert (data["schema"], data["loads"], data["findings"][0]["rule"]) == (1, False, "actorder")


def test_a_dense_checkpoint_loads_as_any(unicuco, dense):
    result = unicuco("check", dense)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "dense: is not quantised: vLLM 0.32 loads it as any checkpoint of its family\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"model_type": "ll', "must be JSON"),
        (b"GGUF" + bytes(99), "is a GGUF file"),
        (None, "no such file or folder"),
    ],
)
def test_what_cannot_be_checked_ends_with_2_in_one_line(unicuco, tmp_path, content, message):
    path = tmp_path / "given"
    if content is not None:
        path.write_bytes(content)
    result = unicuco("check", path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_another_method_is_not_judged(unicuco, dense, tmp_path):
    data = json.loads((dense / "config.json").read_text(encoding="utf8"))
    (tmp_path / "config.json").write_text(json.dumps(data | {"quantization_config": {"quant_method": "gptq"}}))
    result = unicuco("check", tmp_path)
    assert result.exit_code == 2
    assert "quant_method must be compressed-tensors, got 'gptq'" in result.stderr


def test_names_of_whoever_sent_the_file_forge_no_line(unicuco, config):
    path = config((["Linear"], {"actorder": "group"}))
    data = json.loads(path.read_text(encoding="utf8"))
    groups = data["quantization_config"]["config_groups"]
    data["quantization_config"]["config_groups"] = {"g\nconfig.json: vLLM 0.32 loads it": groups["0"]}
    path.write_text(json.dumps(data), encoding="utf8")
    lines = unicuco("check", path).stdout.splitlines()
    assert not any(line.startswith("config.json: vLLM 0.32 loads it") for line in lines[1:])


def test_a_device_that_is_named_twice_is_one(unicuco, config):
    path = config((["Linear"], {}))
    twice = unicuco("check", path, "--device", "cuda", "--device", "cuda")
    assert twice.stdout == unicuco("check", path, "--device", "cuda").stdout


def test_a_path_that_cannot_be_is_nothing_to_check(unicuco):
    result = unicuco("check", "x" * 300)
    assert result.exit_code == 2
    assert "cannot be read" in result.stderr
