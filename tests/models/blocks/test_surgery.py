"""Blocks dropped for real, saved, and read by a fresh process."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
import transformers as tf
from compressed_tensors.offload import set_onload_device
from tiny import FAMILIES, tiny_model

from unicuco_plugin.errors import StrategyError, UnsupportedModelError
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.blocks.surgery import drop_blocks, dropped

on_both_machines = pytest.mark.usefixtures("machine")

IDS = torch.randint(4, 128, (2, 24), generator=torch.Generator().manual_seed(1))

READER = """
import sys, json, pathlib, torch
from transformers import AutoModelForCausalLM
ids = torch.load(sys.argv[1] + "/ids.pt")
report = {}
for folder in sorted(p for p in pathlib.Path(sys.argv[1]).iterdir() if p.is_dir()):
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model.eval()
    with torch.no_grad():
        logits = model(ids).logits
    options = dict(attention_mask=torch.ones_like(ids), max_new_tokens=12, min_new_tokens=12, do_sample=False)
    cached, uncached = (model.generate(ids, use_cache=use, **options) for use in (True, False))
    report[folder.name] = {
        "missing": sorted(info["missing_keys"]) + sorted(info["unexpected_keys"]),
        "logits": torch.equal(logits, torch.load(folder / "logits.pt")),
        "cache": torch.equal(cached, uncached),
        "generated": cached.shape[1] - ids.shape[1],
    }
print(json.dumps(report))
"""


def _sparse_step():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = tiny_model("qwen3_moe").config
        config.decoder_sparse_step, config.mlp_only_layers = 2, [5]
        return tf.Qwen3MoeForCausalLM(config).eval()


def _deepseek():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = tf.DeepseekV3Config(
            vocab_size=128, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=6,
            num_attention_heads=4, num_key_value_heads=4, n_routed_experts=4, num_experts_per_tok=2, n_group=1,
            topk_group=1, n_shared_experts=1, first_k_dense_replace=3, kv_lora_rank=8, q_lora_rank=8,
            qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, max_position_embeddings=256, initializer_range=0.2,
            pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        return tf.DeepseekV3ForCausalLM(config).eval()


def _gpt2():
    config = tf.GPT2Config(
        vocab_size=128, n_embd=32, n_layer=6, n_head=4, n_positions=256, bos_token_id=1, eos_token_id=2
    )
    return tf.GPT2LMHeadModel(config).eval()


OTHERS = {"qwen3_moe_sparse_step": _sparse_step, "deepseek_v3": _deepseek, "gpt2": _gpt2}
CASES = [*FAMILIES, *OTHERS]


def _build(case, machine="host"):
    if case not in OTHERS:
        return tiny_model(case)
    return set_onload_device(OTHERS[case](), "cpu") if machine == "accelerator" else OTHERS[case]()


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS, use_cache=False).logits


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What one fresh process sees of every family's checkpoint, with blocks 1 and 4 dropped."""
    root = tmp_path_factory.mktemp("checkpoints")
    torch.save(IDS, root / "ids.pt")
    for case in CASES:
        model = _build(case)
        drop_blocks(model, [1, 4])
        model.save_pretrained(root / case)
        torch.save(logits(model), root / case / "logits.pt")
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(READER), str(root)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_fresh_process_reads_the_same_model(case, report):
    assert report[case] == {"missing": [], "logits": True, "cache": True, "generated": 12}


@pytest.mark.parametrize("case", CASES)
def test_everything_is_restored_after_an_exception(case, machine):
    model = _build(case, machine)
    before, config, dense = fingerprint(model), model.config.to_dict(), logits(model)
    modules = dict(model.named_modules())
    places = {name: getattr(module, "layer_idx", None) for name, module in modules.items()}
    with pytest.raises(RuntimeError, match="boom"), dropped(model, [0, 3]):
        assert model.config.num_hidden_layers == 4
        raise RuntimeError("boom")
    assert dict(model.named_modules()) == modules
    assert {name: getattr(module, "layer_idx", None) for name, module in model.named_modules()} == places
    assert model.config.to_dict() == config
    assert fingerprint(model) == before
    assert torch.equal(logits(model), dense)


@on_both_machines
@pytest.mark.parametrize("family", FAMILIES)
def test_layer_indices_and_configuration_follow(family):
    model = tiny_model(family)
    drop_blocks(model, [0, 3])
    places = [m.layer_idx for m in model.modules() if isinstance(getattr(m, "layer_idx", None), int)]
    assert sorted(set(places)) == [0, 1, 2, 3]
    assert {m.config.num_hidden_layers for m in model.modules() if hasattr(m, "config")} == {4}


@on_both_machines
def test_blocks_can_be_dropped_twice_in_a_row():
    model, once = tiny_model("gemma3"), tiny_model("gemma3")
    drop_blocks(model, [1])
    drop_blocks(model, [3])
    drop_blocks(once, [1, 4])
    assert torch.equal(logits(model), logits(once))
    assert model.config.layer_types == once.config.layer_types


@on_both_machines
def test_dropping_nothing_changes_nothing():
    model = tiny_model("llama")
    before = fingerprint(model)
    drop_blocks(model, [])
    assert fingerprint(model) == before


@on_both_machines
@pytest.mark.parametrize("indices", [[6], [0, 0], range(6)], ids=str)
def test_wrong_indices_leave_the_model_alone(indices):
    model = tiny_model("llama")
    before = fingerprint(model)
    with pytest.raises(StrategyError):
        drop_blocks(model, indices)
    assert fingerprint(model) == before


@on_both_machines
def test_a_model_that_its_configuration_cannot_describe_is_restored():
    model = tiny_model("llama")
    model.model.layers[2].mlp.up_proj.bias = torch.nn.Parameter(torch.zeros(48))
    before = fingerprint(model)
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.1\.mlp\.up_proj\.bias is unexpected"):
        drop_blocks(model, [0])
    assert fingerprint(model) == before
    assert len(model.model.layers) == 6


@on_both_machines
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sliding_attention", "full_attention"])
@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gemma3"])
def test_all_blocks_of_one_kind_of_attention_can_go(family, kind, tmp_path):
    model = tiny_model(family)
    kinds = model.config.layer_types
    indices = [index for index, this in enumerate(kinds) if this == kind]
    before = [dict(vars(module)) for module in model.modules()]
    with dropped(model, indices):
        assert kind not in model.config.layer_types
        expected = logits(model)
        model.save_pretrained(tmp_path)
    assert [dict(vars(module)) for module in model.modules()] == before
    assert torch.equal(logits(type(model).from_pretrained(tmp_path).eval()), expected)
