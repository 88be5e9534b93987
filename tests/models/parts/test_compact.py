"""Compact checkpoints on disk, read by fresh processes with our package and without it."""

import ast
import json
import sys

import pytest
import tiny
import torch
from compact_fresh import read_fresh
from llmcompressor.transformers.compression.compressed_tensors_utils import modify_save_pretrained
from structured_parts import FAMILIES, A, mixed_parts, uniform_parts
from tiny import tiny_model

import unicuco_plugin
from unicuco_plugin.models.blocks.fingerprint import config_fingerprint
from unicuco_plugin.models.parts.formats import apply_parts
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.modeling_compact import FILE, RemovedAttention

on_both_machines = pytest.mark.usefixtures("machine")

IDS = torch.randint(4, 128, (2, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Shrunk models of all families, saved, with their logits in memory."""
    root, logits = tmp_path_factory.mktemp("compact"), {}
    cases = {f"{family}-{b}": (family, mixed_parts(biases=b)) for family in FAMILIES for b in (False, True)}
    cases |= {f"{family}-uniform": (family, uniform_parts(gone=2)) for family in FAMILIES}
    # Sizes that no stock class would ask for: a lone module that goes.
    cases["llama-skip"] = ("llama", KeptParts({A.format(0): ()}))
    for name, (family, parts) in cases.items():
        model = tiny_model(family)
        apply_parts(model, parts)
        model.save_pretrained(root / name)
        torch.save(IDS, root / name / "ids.pt")
        with torch.no_grad():
            logits[root / name] = model(IDS).logits
    return logits


@pytest.fixture(scope="module")
def fresh(saved, tmp_path_factory):
    """What fresh processes find in them."""
    return read_fresh(saved, tmp_path_factory.mktemp("fresh"), "ours", "remote", "stock")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ours", "remote"])
def test_a_fresh_process_gives_the_same_logits_and_its_cache_changes_nothing(way, saved, fresh):
    report = fresh[way]
    assert report["package"] == (way == "ours")
    for folder, expected in saved.items():
        found = report[str(folder)]
        assert "error" not in found, (folder.name, found)
        assert found["class"].startswith("Compact") != folder.name.endswith("uniform")
        assert torch.equal(torch.tensor(found["logits"]), expected), folder.name
        assert found["cached"] == found["uncached"], folder.name
        assert len(found["cached"][0]) == 36
        assert found["again"], folder.name


@pytest.mark.slow
def test_stock_tools_load_one_size_and_refuse_many(saved, fresh):
    report = fresh["stock"]
    for folder, expected in saved.items():
        found = report[str(folder)]
        if folder.name.endswith("uniform"):
            assert torch.equal(torch.tensor(found["logits"]), expected)
            assert found["cached"] == found["uncached"]
            assert not (folder / FILE).exists()
        else:  # never a model with random weights
            assert "error" in found, folder.name


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_does_not_depend_on_the_machine(family, machine, tmp_path):
    made = {"here": tiny_model, "plain": tiny.tiny_model}
    for name, make in made.items():
        model = make(family)
        apply_parts(model, mixed_parts(biases=True))
        modify_save_pretrained(model)  # as the toolkit saves it: Transformers' own way repeats tied weights
        model.save_pretrained(tmp_path / name)
    for path in (tmp_path / "plain").iterdir():
        assert (tmp_path / "here" / path.name).read_bytes() == path.read_bytes(), path.name


@on_both_machines
@torch.no_grad()
def test_loading_runs_our_code_and_not_the_folders(tmp_path):
    model = tiny_model("llama")
    apply_parts(model, mixed_parts(biases=True))
    model.save_pretrained(tmp_path)
    (tmp_path / FILE).write_text("raise SystemExit('the folder was trusted')")
    loaded = unicuco_plugin.load(tmp_path)
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)


@on_both_machines
@pytest.mark.parametrize("cache", ["dynamic", "static"])
@torch.no_grad()
def test_a_removed_first_attention_still_counts_positions(cache):
    model = tiny_model("llama")
    apply_parts(model, mixed_parts(biases=False))
    assert isinstance(model.model.layers[0].self_attn, RemovedAttention)
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    options["attention_mask"] = torch.ones_like(IDS)
    expected = model.generate(IDS, use_cache=False, **options)
    given = {} if cache == "dynamic" else {"cache_implementation": "static", "disable_compile": True}
    assert torch.equal(model.generate(IDS, **given, **options), expected)


@on_both_machines
@torch.no_grad()
def test_padding_beams_and_eager_attention_work():
    model = tiny_model("gemma3")
    apply_parts(model, mixed_parts(biases=True))
    mask = torch.ones_like(IDS)
    mask[1, :5] = 0
    options = {"attention_mask": mask, "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    padded = model.generate(IDS, **options)
    alone = model.generate(IDS[1:, 5:], **options | {"attention_mask": None})
    assert torch.equal(padded[1, -6:], alone[0, -6:])
    assert model.generate(IDS, num_beams=3, **options).shape == (2, 30)
    model.set_attn_implementation("eager")
    assert torch.equal(model.generate(IDS, **options), padded)


@on_both_machines
def test_the_configuration_tells_sizes_in_transformers_schema(tmp_path):
    model = tiny_model("qwen3")
    apply_parts(model, mixed_parts(biases=True))
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["per_layer_config"] == {
        "0": {
            "intermediate_size": 16,
            "num_key_value_heads": 0,
            "output_bias": ["attention", "mlp"],
            "skip": ["attention"],
        },
        "1": {"intermediate_size": 0, "num_key_value_heads": 1, "output_bias": ["attention"], "skip": ["mlp"]},
        "2": {"intermediate_size": 33, "num_key_value_heads": 1},
        "4": {
            "intermediate_size": 0,
            "num_key_value_heads": 0,
            "output_bias": ["attention"],
            "skip": ["attention", "mlp"],
        },
        "5": {"intermediate_size": 0, "output_bias": ["mlp"], "skip": ["mlp"]},
    }
    assert written["auto_map"] == {"AutoModelForCausalLM": "modeling_compact.CompactQwen3ForCausalLM"}
    assert (written["num_key_value_heads"], written["intermediate_size"], written["model_type"]) == (2, 48, "qwen3")


@on_both_machines
def test_other_sizes_have_another_fingerprint():
    prints = set()
    for parts in (mixed_parts(biases=False), KeptParts({A.format(0): (0,)}), KeptParts({A.format(1): (0,)})):
        model = tiny_model("llama")
        apply_parts(model, parts)
        prints.add(config_fingerprint(model.config))
    assert len(prints | {config_fingerprint(tiny_model("llama").config)}) == 4


def test_the_code_beside_a_checkpoint_needs_transformers_alone(tmp_path):
    model = tiny_model("llama")
    apply_parts(model, mixed_parts(biases=False))
    model.save_pretrained(tmp_path)
    tree = ast.parse((tmp_path / FILE).read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    known = {"torch", "transformers", *sys.stdlib_module_names}
    assert {module.partition(".")[0] for module in modules} <= known
