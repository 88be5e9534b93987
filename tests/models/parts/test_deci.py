"""Uneven blocks in the form that vLLM loads, in memory and on disk."""

import json

import pytest
import torch
from compact_fresh import read_fresh
from structured_parts import A, M, masked_logits
from transformers import CONFIG_MAPPING
from zoo.families import build

import unicuco_plugin
from unicuco_plugin.errors import StrategyError, UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.exportable import check_exportable
from unicuco_plugin.models.parts.configuration_deci import DeciLMConfig
from unicuco_plugin.models.parts.formats import apply_parts, smallest_served
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.modeling_deci import FILES, DeciLMForCausalLM

# Biases everywhere, for queries, keys and values, or nowhere; tied and not; heads wider than they must be.
LLAMAS = ["llama", "llama-biases", "llama-tied", "llama-wide_heads", "mistral-full", "qwen2"]
IDS = torch.randint(4, 100, (2, 24), generator=torch.Generator().manual_seed(1))


def uneven(decoder):
    """An attention and an MLP of two blocks gone, one block gone, one MLP narrower."""
    last = len(decoder.blocks) - 1
    width = decoder.config.intermediate_size
    kept = {A.format(1): (), M.format(2): (), M.format(0): tuple(range(0, width, 2))}
    return KeptParts(kept | {A.format(last): (), M.format(last): ()})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Uneven models, saved, with the logits of the masked dense ones."""
    root, logits = tmp_path_factory.mktemp("deci"), {}
    for name in LLAMAS:
        model = build(name)
        decoder = find_decoder(model)
        parts = uneven(decoder)
        expected = masked_logits(decoder, parts, IDS)
        apply_parts(model, parts, format="deci")
        model.save_pretrained(root / name)
        torch.save(IDS, root / name / "ids.pt")
        with torch.no_grad():
            logits[root / name] = expected, model(IDS).logits
    return logits


def test_the_model_in_memory_is_the_masked_one(saved):
    for folder, (expected, found) in saved.items():
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, msg=folder.name)


@torch.no_grad()
def test_our_loader_runs_no_code_of_the_folder_and_gives_the_same_bits(saved):
    for folder, (_, expected) in saved.items():
        model = unicuco_plugin.load(folder)
        assert type(model) is DeciLMForCausalLM
        assert torch.equal(model(IDS).logits, expected), folder.name


@pytest.mark.slow
def test_a_fresh_process_without_us_gives_the_same_logits_with_the_cache_and_without(saved, tmp_path):
    report = read_fresh(saved, tmp_path, "remote")["remote"]
    assert not report["package"]
    for folder, (_, expected) in saved.items():
        found = report[str(folder)]
        assert "error" not in found, (folder.name, found)
        assert torch.equal(torch.tensor(found["logits"]), expected), folder.name
        assert found["cached"] == found["uncached"], folder.name
        assert found["again"], folder.name


def test_the_files_say_what_vllm_reads(saved):
    for folder in saved:
        config = json.loads((folder / "config.json").read_text())
        assert (config["architectures"], config["model_type"]) == (["DeciLMForCausalLM"], "nemotron-nas")
        blocks = config["block_configs"]
        assert len(blocks) == config["num_hidden_layers"]
        assert [block["attention"]["no_op"] for block in blocks[:3]] == [False, True, False]
        assert [block["ffn"]["no_op"] for block in blocks[:3]] == [False, False, True]
        assert blocks[0]["ffn"]["intermediate_size"] == config["intermediate_size"] // 2
        heads = config["num_attention_heads"] // config["num_key_value_heads"]
        assert blocks[0]["attention"]["n_heads_in_group"] == heads
        assert config["qkv_bias"] == (folder.name in {"llama-biases", "qwen2"})
        assert set(FILES) <= {path.name for path in folder.iterdir()}


def test_norms_of_what_is_absent_are_absent(saved):
    for folder in saved:
        names = set(unicuco_plugin.load(folder).state_dict())
        assert "model.layers.1.input_layernorm.weight" not in names
        assert "model.layers.2.post_attention_layernorm.weight" not in names
        assert "model.layers.0.input_layernorm.weight" in names


@pytest.mark.parametrize("name", ["qwen3", "granite", "gemma2", "smollm3", "mistral", "qwen2-slides"])
@pytest.mark.parametrize("space", ["structured", "sublayer"])
def test_other_mathematics_is_refused_before_anything_is_done(name, space):
    with pytest.raises(UnsupportedModelError, match=r"deci|DeciLM") as caught:
        check_exportable(build(name).config, space, format="deci", compensate=False)
    assert "compact" in str(caught.value)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize("name", LLAMAS)
@pytest.mark.parametrize("space", ["structured", "sublayer"])
def test_llamas_mathematics_is_not(name, space):
    check_exportable(build(name).config, space, format="deci", compensate=False)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({A.format(0): ()}, "must stay while the first block's MLP does"),
        # Of what stays, the first.
        ({A.format(0): (), M.format(0): (), A.format(1): ()}, r"layers\.1\.self_attn.* must stay"),
        ({A.format(2): (0,)}, "loses some of its head groups"),
        ({A.format(i): () for i in range(4)} | {M.format(0): ()}, "must leave an attention"),
    ],
)
def test_what_the_form_has_no_room_for_is_refused_and_the_model_is_as_it_was(kept, message):
    model = build("llama")
    before, kind = {name: value.clone() for name, value in model.state_dict().items()}, type(model)
    with pytest.raises((StrategyError, UnsupportedModelError), match=message) as caught:
        apply_parts(model, KeptParts(kept), format="deci")
    assert len(str(caught.value)) <= 300
    assert type(model) is kind
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "kept", "form"),
    [
        ("llama", {M.format(1): (0, 1)}, "deci"),
        ("llama", {A.format(1): ()}, "deci"),
        ("llama", {M.format(i): tuple(range(16)) for i in range(4)}, "compact"),
        ("llama", {A.format(1): (), M.format(1): ()}, "compact"),
        ("llama", {A.format(1): (0,)}, None),
        ("qwen3", {M.format(1): (0, 1)}, None),
        ("phi3", {M.format(1): ()}, None),
    ],
)
def test_the_smallest_form_that_vllm_loads(name, kept, form):
    assert smallest_served(find_decoder(build(name)), KeptParts(kept)) == form


def test_biases_are_refused():
    name = M.format(1)
    with pytest.raises(UnsupportedModelError, match="no-compensate"):
        apply_parts(build("llama"), KeptParts({name: (0, 1)}, {name: torch.ones(32)}), format="deci")


@torch.no_grad()
def test_a_bias_is_folded_into_the_modules_own_where_it_has_one(tmp_path):
    model, name = build("llama-biases"), M.format(1)
    parts = KeptParts({name: (0, 1)}, {name: torch.linspace(-1, 1, 32)})
    expected = masked_logits(find_decoder(model), parts, IDS)
    apply_parts(model, parts, format="deci")
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(unicuco_plugin.load(tmp_path)(IDS).logits, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UnsupportedModelError, match="no-compensate"):  # its own leaves with it
        apply_parts(build("llama-biases"), KeptParts({name: ()}, parts.biases), format="deci")


@pytest.mark.parametrize(
    "ffn", [{"ffn_mult": 2.6, "no_op": False}, {"no_op": False}, {"no_op": 1, "intermediate_size": "8"}, {}]
)
def test_a_configuration_of_other_makers_is_refused(ffn):
    with pytest.raises(ValueError, match=r"block_configs\[0\]\.ffn must have no_op: true or intermediate_size"):
        DeciLMConfig(num_hidden_layers=1, block_configs=[{"attention": {"no_op": True}, "ffn": ffn}])


def test_other_makers_models_are_left_to_their_own_code():
    assert DeciLMConfig.model_type not in CONFIG_MAPPING


def test_an_attention_of_which_all_groups_stay_stays():
    model = build("llama")
    heads = model.config.num_key_value_heads
    apply_parts(model, KeptParts({A.format(1): tuple(range(heads)), M.format(2): ()}), format="deci")
    assert isinstance(model, DeciLMForCausalLM)


def test_a_configuration_survives_its_file(tmp_path):
    block = {"attention": {"no_op": True}, "ffn": {"no_op": False, "intermediate_size": 8}}
    config = DeciLMConfig(num_hidden_layers=1, block_configs=[block], qkv_bias=True)
    config.save_pretrained(tmp_path)
    again = DeciLMConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.block_configs[0].ffn.intermediate_size == 8
    assert not hasattr(again.block_configs[0].ffn, "ffn_mult")
