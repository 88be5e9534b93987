"""One recipe of depth and each of the toolkit's modifiers, reloaded by stock Transformers in a fresh process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerator import with_machines
from compressed_tensors.utils import match_named_modules
from depth_strategies import whole_block_strategy
from llmcompressor.core import reset_session
from llmcompressor.modifiers.pruning import WandaPruningModifier

from unicuco_plugin.models.loading import load_model, load_tokenizer
from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe
from unicuco_plugin.pruning import apply_strategy

pytestmark = pytest.mark.slow

FRESH = Path(__file__).with_name("fresh_process.py")
WEIGHTS = "{num_bits: 4, type: int, strategy: group, group_size: 16}"  # 128 does not divide 32
W4A16 = f"{{config_groups: {{group_0: {{targets: [Linear], weights: {WEIGHTS}}}}}, ignore: [lm_head]}}"
SPARSE = "{sparsity: 0.5, targets: [Linear], ignore: ['re:.*lm_head']}"
PARTNERS = {
    "alone": "",
    "w4a16": f"QuantizationModifier: {W4A16}",
    "fp8_dynamic": "QuantizationModifier: {targets: [Linear], scheme: FP8_DYNAMIC, ignore: [lm_head]}",
    "w8a8": "QuantizationModifier: {targets: [Linear], scheme: W8A8, ignore: [lm_head]}",
    "gptq": f"GPTQModifier: {W4A16}",
    "sparsegpt": f"SparseGPTModifier: {SPARSE}",
    "wanda": f"WandaPruningModifier: {SPARSE}",
}
DENSE = {"alone", "sparsegpt", "wanda"}
FAMILIES = ["llama", "qwen3", "gemma3"]  # tied; untied; norms that the toolkit swaps
CASES = {
    "host": [(family, partner) for family in FAMILIES for partner in PARTNERS],
    # Every partner and every family; what a family's norms and ties do to a partner, the host has seen.
    "accelerator": [
        ("llama", "alone"), ("llama", "sparsegpt"), ("llama", "wanda"), ("llama", "w8a8"),
        ("qwen3", "alone"), ("qwen3", "w4a16"), ("gemma3", "fp8_dynamic"), ("gemma3", "gptq"),
    ],
}  # fmt: skip
each_case = with_machines(CASES)


@pytest.fixture(scope="module")
def exports(checkpoint, calibration, token_ids, tmp_path_factory, machine):
    """Export every case; return (logits in memory, what a fresh process found) of each."""
    folder = tmp_path_factory.mktemp("exports")
    in_memory = {}
    for family, partner in CASES[machine]:
        strategy = whole_block_strategy(load_model(checkpoint(family)), (1, 3))
        (folder / f"{family}.json").write_text(strategy.to_json(), encoding="utf8")
        recipe = (
            "pruning_stage:\n  pruning_modifiers:\n"
            f"    SparsityProfileModifier: {{strategy: '{folder / family}.json'}}\n    {PARTNERS[partner]}\n"
        )
        output = folder / family / partner
        done = prune_with_recipe(checkpoint(family), recipe, output, calibration=calibration)
        with torch.no_grad():
            in_memory[family, partner] = done.model(token_ids).logits[0]
    paths = [str(folder / family / partner) for family, partner in CASES[machine]]
    run = subprocess.run([sys.executable, str(FRESH), *paths], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    fresh = json.loads(run.stdout)
    found = {case: (logits, fresh[str(folder.joinpath(*case))]) for case, logits in in_memory.items()}
    return found | {"folder": folder}


@each_case
def test_a_fresh_process_finds_the_logits_of_the_model_in_memory(exports, case):
    in_memory, fresh = exports[case[:2]]
    torch.testing.assert_close(torch.tensor(fresh["logits"]), in_memory.float(), rtol=0, atol=0)


@each_case
def test_a_fresh_process_finds_every_tensor_and_no_other(exports, case):
    _, fresh = exports[case[:2]]
    assert (fresh["blocks"], fresh["missing"], fresh["unexpected"]) == (4, [], [])
    assert fresh["quantised"] is (case[1] not in DENSE)


@each_case
def test_cached_and_uncached_generation_agree(exports, case):
    _, fresh = exports[case[:2]]
    assert fresh["cached"] == fresh["uncached"]


@pytest.mark.parametrize("partner", sorted(DENSE - {"alone"}))
def test_the_partner_prunes_what_is_left(exports, partner):
    model = load_model(exports["folder"] / "llama" / partner)
    layers = dict(match_named_modules(model, ["Linear"], ["re:.*lm_head"]))
    zeros = [(layer.weight == 0).float().mean().item() for layer in layers.values()]
    assert len(zeros) == 4 * 7
    assert all(zero == pytest.approx(0.5, abs=0.02) for zero in zeros)


@torch.no_grad()
def test_later_modifiers_calibrate_on_the_blocks_that_are_left(
    checkpoint, calibration, depth_strategy, token_ids, tmp_path
):
    # Two routes to one model: both in one recipe; or blocks dropped first, Wanda on the smaller model then.
    folder = checkpoint("llama")
    strategy = depth_strategy(load_model(folder))
    first = tmp_path / "recipe.yaml"
    (tmp_path / "s.json").write_text(strategy.to_json(), encoding="utf8")
    first.write_text(
        "pruning_stage:\n  pruning_modifiers:\n"
        f"    SparsityProfileModifier: {{strategy: '{tmp_path / 's.json'}'}}\n    WandaPruningModifier: {SPARSE}\n"
    )
    together = prune_with_recipe(folder, first, tmp_path / "together", calibration=calibration).model
    smaller = apply_strategy(load_model(folder), strategy)
    smaller.save_pretrained(tmp_path / "smaller")
    reset_session()
    load_tokenizer(folder).save_pretrained(tmp_path / "smaller")
    modifier = WandaPruningModifier(sparsity=0.5, targets=["Linear"], ignore=["re:.*lm_head"])
    apart = prune_with_recipe(tmp_path / "smaller", modifier, tmp_path / "apart", calibration=calibration).model
    torch.testing.assert_close(together(token_ids).logits, apart(token_ids).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pipeline", ["sequential", "basic"])
@torch.no_grad()
def test_every_pipeline_that_calibrates_drops_and_prunes(pipeline, exports, checkpoint, calibration, tmp_path):
    recipe = exports["folder"] / "llama" / "wanda" / "recipe.yaml"
    done = prune_with_recipe(checkpoint("llama"), recipe, tmp_path / "out", calibration=calibration, pipeline=pipeline)
    model = load_model(done.path)
    assert model.config.num_hidden_layers == 4
    layers = dict(match_named_modules(model, ["Linear"], ["re:.*lm_head"]))
    assert all((layer.weight == 0).float().mean() > 0.45 for layer in layers.values())
