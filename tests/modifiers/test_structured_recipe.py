"""Structured strategies in a recipe, alone and with quantisation, read back by fresh processes."""

import json
from functools import partial

import pytest
import torch
from accelerator import kept_parameters, with_machines
from compact_fresh import read_fresh
from structured_parts import A, M, masked_logits, mixed_parts, uniform_parts
from structured_strategies import structured_strategy
from tiny import tiny_model

import unicuco_plugin
from unicuco_plugin.errors import RecipeError, StrategyError, UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.models.parts.kept_parts_file import KEPT_PARTS_FILE, read_kept_parts, write_kept_parts
from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier

pytestmark = pytest.mark.slow

WEIGHTS = "{num_bits: 4, type: int, strategy: group, group_size: 16}"  # 128 does not divide 32
W4A16 = f"{{config_groups: {{group_0: {{targets: [Linear], weights: {WEIGHTS}}}}}, ignore: [lm_head]}}"
PARTNERS = {
    "alone": "",
    "w4a16": f"QuantizationModifier: {W4A16}",
    "fp8_dynamic": "QuantizationModifier: {targets: [Linear], scheme: FP8_DYNAMIC, ignore: [lm_head]}",
    "w8a8": "QuantizationModifier: {targets: [Linear], scheme: W8A8, ignore: [lm_head]}",
    "gptq": f"GPTQModifier: {W4A16}",
    "wanda": "WandaPruningModifier: {sparsity: 0.5, targets: [Linear], ignore: ['re:.*lm_head']}",
}
FAMILIES = ["llama", "qwen3", "gemma3"]  # tied; norms inside attentions; norms that the toolkit swaps
CASES = {
    "host": [(family, partner) for family in FAMILIES for partner in PARTNERS],
    # Every partner and every family; what a family's norms and ties do to a partner, the host has seen.
    "accelerator": [
        *((family, "alone") for family in FAMILIES),
        ("llama", "w8a8"), ("qwen3", "w4a16"), ("qwen3", "wanda"), ("gemma3", "fp8_dynamic"), ("gemma3", "gptq"),
    ],
}  # fmt: skip
each_case = with_machines(CASES)
# Parts of checkpoints that stock Transformers loads: one size for all blocks, or zeros in the full shape.
STOCK = {
    "qwen3": (uniform_parts(gone=2), {}),
    "llama": (mixed_parts(biases=True), {"format": "stock"}),
    "gemma3": (mixed_parts(biases=False), {"format": "stock"}),
}


def grouped(*, biases):
    """As ``mixed_parts``, in whole groups of 16 neurons for W4A16."""
    parts = mixed_parts(biases=biases)
    return type(parts)({**parts.kept, M.format(2): tuple(range(7, 39))}, parts.biases)


def source(folder, family, parts, **options):
    """The modifier's fields for kept parts of a family, in files."""
    write_kept_parts(folder / f"{family}.parts", parts)
    strategy = structured_strategy(tiny_model(family), parts)
    (folder / f"{family}.json").write_text(strategy.to_json(), encoding="utf8")
    options |= {"kept_parts": str(folder / f"{family}.parts")}
    return {"strategy": str(folder / f"{family}.json"), "structured": options}


@pytest.fixture(scope="module")
def exports(checkpoint, calibration, token_ids, tmp_path_factory, machine):
    """Export every case; return logits in memory and what fresh processes found, with our package and without it."""
    folder, in_memory = tmp_path_factory.mktemp("exports"), {}
    for family, partner in CASES[machine]:
        parts, stem = grouped(biases=True), folder / f"{family}-{partner}"
        write_kept_parts(stem.with_suffix(".parts"), parts)
        stem.with_suffix(".json").write_text(structured_strategy(load_model(checkpoint(family)), parts).to_json())
        recipe = (
            "pruning_stage:\n  pruning_modifiers:\n    SparsityProfileModifier:\n"
            f"      strategy: '{stem}.json'\n      structured: {{kept_parts: '{stem}.parts'}}\n"
            f"    {PARTNERS[partner]}\n"
        )
        done = prune_with_recipe(checkpoint(family), recipe, stem / "out", calibration=calibration)
        torch.save(token_ids, stem / "out" / "ids.pt")
        with torch.no_grad():
            in_memory[family, partner] = done.model(token_ids).logits
    folders = {(family, partner): folder / f"{family}-{partner}" / "out" for family, partner in CASES[machine]}
    # A quantised checkpoint, once loaded, is not one that Transformers saves again.
    ways = read_fresh(folders.values(), folder, "ours", "remote", again=False)
    return {case: (path, in_memory[case], {w: ways[w][str(path)] for w in ways}) for case, path in folders.items()}


@each_case
def test_fresh_processes_find_the_logits_of_the_model_in_memory(exports, case):
    _, in_memory, fresh = exports[case[:2]]
    for way in ("ours", "remote"):
        assert "error" not in fresh[way], fresh[way]
        torch.testing.assert_close(torch.tensor(fresh[way]["logits"]), in_memory.float(), rtol=0, atol=0)
        assert fresh[way]["cached"] == fresh[way]["uncached"]


@pytest.mark.parametrize("family", FAMILIES)
def test_alone_the_checkpoint_is_the_masked_model(exports, checkpoint, token_ids, family):
    _, in_memory, _ = exports[family, "alone"]
    expected = masked_logits(find_decoder(load_model(checkpoint(family))), grouped(biases=True), token_ids)
    torch.testing.assert_close(in_memory, expected, rtol=1e-4, atol=1e-4)


@each_case
def test_a_partner_sees_only_what_is_left(exports, case):
    path, _, _ = exports[case[:2]]
    written = json.loads((path / "config.json").read_text())
    assert written["per_layer_config"]["0"]["skip"] == ["attention"]
    assert ("quantization_config" in written) == (case[1] not in ("alone", "wanda"))
    assert read_kept_parts(path / KEPT_PARTS_FILE).kept == grouped(biases=True).kept
    assert "model.layers.0.self_attn" not in "".join(load_names(path))


def load_names(path):
    from unicuco_plugin.models.checkpoints.checkpoint import read_shapes

    return [name for name in read_shapes(path) if "bias" not in name]


@torch.no_grad()
def test_the_recipe_beside_a_checkpoint_makes_it_again(exports, checkpoint, token_ids, tmp_path, monkeypatch):
    path, in_memory, _ = exports["llama", "alone"]
    monkeypatch.chdir(path)
    done = prune_with_recipe(checkpoint("llama"), path / "recipe.yaml", tmp_path / "again")
    assert torch.equal(done.model(token_ids).logits, in_memory)


@pytest.fixture(scope="module")
def stock(checkpoint, token_ids, tmp_path_factory, machine):
    """Export models that stock Transformers loads; return what came of each, and what a fresh process found."""
    folder = tmp_path_factory.mktemp("stock")
    done = {}
    for family, (parts, options) in STOCK.items():
        modifier = SparsityProfileModifier(**source(folder, family, parts, **options))
        done[family] = prune_with_recipe(checkpoint(family), modifier, folder / family)
        torch.save(token_ids, folder / family / "ids.pt")
    found = read_fresh([folder / family for family in STOCK], folder, "stock")["stock"]
    return {family: (done[family], found[str(folder / family)]) for family in STOCK}


@torch.no_grad()
def test_one_size_for_all_blocks_is_a_stock_checkpoint(stock, token_ids):
    done, found = stock["qwen3"]
    assert (found["class"], found["again"]) == ("Qwen3ForCausalLM", True)
    assert torch.equal(torch.tensor(found["logits"]), done.model(token_ids).logits)
    assert found["cached"] == found["uncached"]
    assert done.params == done.model.num_parameters() < tiny_model("qwen3").num_parameters() * 0.7


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@torch.no_grad()
def test_the_stock_format_loads_everywhere_and_is_no_smaller(family, stock, token_ids):
    done, found = stock[family]
    assert torch.equal(torch.tensor(found["logits"]), done.model(token_ids).logits)
    expected = masked_logits(find_decoder(tiny_model(family)), STOCK[family][0], token_ids)
    torch.testing.assert_close(done.model(token_ids).logits, expected, rtol=1e-4, atol=1e-4)
    assert done.params >= tiny_model(family).num_parameters()


@torch.no_grad()
def test_parts_are_ranked_on_the_calibration_text_where_no_file_names_them(checkpoint, calibration, tmp_path):
    model = tiny_model("llama")
    strategy = structured_strategy(model, uniform_parts(), units={A.format(1): 0.5, M.format(3): 1 / 3, M.format(4): 1})
    modifier = SparsityProfileModifier(strategy=strategy)
    assert modifier.needs_text
    prune_with_recipe(checkpoint("llama"), modifier, tmp_path / "out", calibration=calibration)
    parts = read_kept_parts(tmp_path / "out" / KEPT_PARTS_FILE)
    assert {name: len(kept) for name, kept in parts.kept.items()} == {A.format(1): 1, M.format(3): 32, M.format(4): 0}
    assert parts.biases.keys() == {A.format(1), M.format(3)}
    loaded = unicuco_plugin.load(tmp_path / "out")
    ids = calibration[:2]
    expected = masked_logits(find_decoder(model), parts, ids)
    torch.testing.assert_close(loaded(ids).logits, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_modules_that_go_whole_need_neither_text_nor_a_file(checkpoint, tmp_path, token_ids):
    units = {A.format(0): 1.0, M.format(3): 1.0}
    strategy = structured_strategy(tiny_model("llama"), uniform_parts(), units=units)
    done = prune_with_recipe(checkpoint("llama"), SparsityProfileModifier(strategy=strategy), tmp_path / "out")
    assert torch.equal(unicuco_plugin.load(tmp_path / "out")(token_ids).logits, done.model(token_ids).logits)
    assert done.divergence_note == ""


@pytest.mark.parametrize("format", ["compact", "stock"])
@torch.no_grad()
def test_a_failure_gives_everything_back(format, checkpoint, tmp_path, monkeypatch):
    model, token_ids = load_model(checkpoint("gemma3")), torch.arange(3, 43)[None]
    logits, before = model(token_ids).logits, {name: p.clone() for name, p in model.named_parameters()}
    modifier = SparsityProfileModifier(**source(tmp_path, "gemma3", mixed_parts(biases=False), format=format))

    def fail(*_):
        raise UnsupportedModelError("not closed")

    monkeypatch.setattr(
        f"unicuco_plugin.models.parts.{'shrink' if format == 'compact' else 'plain_sizes'}.check_structure", fail
    )
    with pytest.raises(UnsupportedModelError, match="not closed"):
        prune_with_recipe(model, modifier, tmp_path / "out")
    after = kept_parameters(model)
    assert {name: tuple(p.shape) for name, p in after.items()} == {n: tuple(p.shape) for n, p in before.items()}
    assert all(torch.equal(p, before[name]) for name, p in after.items())
    assert torch.equal(model(token_ids).logits, logits)
    assert not (tmp_path / "out").exists()


def test_kept_parts_of_another_strategy_are_refused(checkpoint, tmp_path):
    fields = source(tmp_path, "llama", mixed_parts(biases=False))
    fields["strategy"] = structured_strategy(tiny_model("llama"), uniform_parts())
    with pytest.raises(StrategyError, match=r"must have 32 of 48 parts, as units says 0.333333; got 16"):
        prune_with_recipe(checkpoint("llama"), SparsityProfileModifier(**fields), tmp_path / "out")


def test_shares_without_a_file_and_without_text_are_refused(checkpoint, tmp_path):
    strategy = structured_strategy(tiny_model("llama"), uniform_parts())
    with pytest.raises(RecipeError, match="SparsityProfileModifier needs calibration text, got none"):
        prune_with_recipe(checkpoint("llama"), SparsityProfileModifier(strategy=strategy), tmp_path / "out")


def test_options_without_such_a_strategy_are_refused(checkpoint, tmp_path, depth_strategy):
    modifier = partial(SparsityProfileModifier, strategy=depth_strategy(tiny_model("llama")))
    with pytest.raises(
        RecipeError,
        match=r"structured \(format\) goes with a strategy of the space 'structured', got depth; leave it out",
    ):
        prune_with_recipe(checkpoint("llama"), modifier(structured={"format": "stock"}), tmp_path / "out")
    with pytest.raises(RecipeError, match="Input should be 'auto', 'compact', 'deci' or 'stock'"):
        modifier(structured={"format": "zip"})
