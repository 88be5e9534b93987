"""Sub-layers in a recipe: blocks that lose both halves go, lone halves are silenced, and both are said."""

import llmcompressor
import pytest
import torch
from accelerator import kept_parameters
from depth_strategies import SUBLAYERS, sublayer_strategy, whole_block_strategy
from llmcompressor.modifiers.pruning import WandaPruningModifier
from sparsity_strategies import sparsity_strategy
from tiny import tiny_model

from unicuco_plugin.errors import ExportError, RecipeError, StrategyError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.sublayers import silenced, sublayer_names
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.peers.evopress_files import write_drops
from unicuco_plugin.report.export import describe_export, export_data


@torch.no_grad()
def expected_logits(family, units, tokens):
    model = tiny_model(family)
    decoder = find_decoder(model)
    attentions, mlps = sublayer_names(decoder)
    names = [name for name in (*attentions, *mlps) if name.replace(decoder.blocks_name, "model.layers") in units]
    renamed = dict.fromkeys([name.replace("model.layers", decoder.blocks_name) for name in units], 1.0)
    with silenced(decoder, [name for name in (*attentions, *mlps) if name in renamed] or names):
        return model(tokens, use_cache=False).logits


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
@torch.no_grad()
def test_the_checkpoint_gives_the_logits_of_the_silenced_model(family, checkpoint, tmp_path, token_ids):
    strategy = sublayer_strategy(tiny_model(family))
    done = prune_with_recipe(checkpoint(family), SparsityProfileModifier(strategy=strategy), tmp_path / "out")
    loaded = load_model(tmp_path / "out")
    assert loaded.config.num_hidden_layers == 5
    torch.testing.assert_close(loaded(token_ids).logits, expected_logits(family, SUBLAYERS, token_ids))
    assert done.params == loaded.num_parameters()
    assert "silenced    2 sub-layers by a zero output projection, which saves no bytes" in describe_export(done)
    assert '"silenced": ["model.layers.3.self_attn", "model.layers.4.mlp"]' in export_data(done)
    assert "2 of these share a block with a half that stays" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_the_rest_can_be_sparsified_in_the_same_recipe(checkpoint, tmp_path, calibration):
    model = tiny_model("llama")
    strategies = [sublayer_strategy(model), sparsity_strategy(model)]
    modifiers = [SparsityProfileModifier(strategy=strategies), WandaPruningModifier(sparsity=0.5, ignore=["lm_head"])]
    done = prune_with_recipe(checkpoint("llama"), modifiers, tmp_path / "out", calibration=calibration)
    loaded = load_model(tmp_path / "out")
    assert not loaded.model.layers[2].self_attn.o_proj.weight.any()  # 3 in the dense model
    assert all(not linear.name.startswith("model.layers.3.self_attn") for linear in done.achieved.linears)
    assert done.achieved.total("exported") == done.achieved.total("achieved") > 0


def test_a_failure_puts_everything_back(checkpoint, tmp_path, monkeypatch):
    model = load_model(checkpoint("llama"))
    before = [parameter.detach().clone() for parameter in model.parameters()]

    def fail(*_):
        raise StrategyError("no drop")

    monkeypatch.setattr("unicuco_plugin.modifiers.carriers.removal.drop_blocks", fail)
    with pytest.raises(StrategyError, match="no drop"):
        prune_with_recipe(model, SparsityProfileModifier(strategy=sublayer_strategy(model)), tmp_path / "out")
    assert all(torch.equal(a, b) for a, b in zip(before, kept_parameters(model).values(), strict=True))


def test_a_save_without_this_packages_command_is_judged_too(checkpoint, tmp_path, monkeypatch):
    model = load_model(checkpoint("llama"))
    llmcompressor.oneshot(model=model, recipe=[SparsityProfileModifier(strategy=sublayer_strategy(model))])
    model.save_pretrained(tmp_path / "right")
    monkeypatch.setattr(
        "unicuco_plugin.models.checkpoints.verdict.find_unfit", lambda *_: ["x is missing", "y is unexpected", "z"]
    )
    message = r"^the checkpoint is refused by Transformers, .*: x is missing; y is unexpected; and 1 more: "
    with pytest.raises(ExportError, match=message):
        model.save_pretrained(tmp_path / "wrong")


def test_depth_and_sublayer_exclude_each_other():
    model = tiny_model("llama")
    both = SparsityProfileModifier(strategy=[sublayer_strategy(model), whole_block_strategy(model)])
    with pytest.raises(RecipeError, match=r"^depth and sublayer both remove blocks of the dense model"):
        both.resolve()


@pytest.mark.parametrize(
    ("units", "message"),
    [
        (
            {"model.layers.1": 1.0},
            "units must be attentions and MLPs of the model, such as model.layers.0.mlp",
        ),
        ({"model.layers.1.mlp": 0.5}, r"units\['model.layers.1.mlp'\] must be 1.0, since a sub-layer goes as a whole"),
        (
            {f"model.layers.{i}.{h}": 1.0 for i in range(6) for h in ("self_attn", "mlp")},
            "at least one block must stay",
        ),
    ],
    ids=["block", "part", "all"],
)
def test_units_that_are_no_sublayers_are_refused(units, message, checkpoint, tmp_path):
    modifier = SparsityProfileModifier(strategy=sublayer_strategy(tiny_model("llama"), units))
    with pytest.raises(StrategyError, match=message):
        prune_with_recipe(checkpoint("llama"), modifier, tmp_path / "out")


@torch.no_grad()
def test_an_evopress_file_of_sublayers_is_applied(checkpoint, tmp_path, token_ids):
    write_drops(tmp_path / "drops.txt", ["none", "attn+mlp", "none", "attn", "mlp", "none"])
    modifier = SparsityProfileModifier(evopress=tmp_path / "drops.txt")
    [strategy] = prune_with_recipe(checkpoint("llama"), modifier, tmp_path / "out").strategies
    assert (strategy.space, strategy.units) == ("sublayer", SUBLAYERS)
    loaded = load_model(tmp_path / "out")
    assert strategy.params == loaded.num_parameters()
    torch.testing.assert_close(loaded(token_ids).logits, expected_logits("llama", SUBLAYERS, token_ids))
