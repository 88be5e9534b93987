"""The modifier inside the toolkit's lifecycle, on tiny models."""

from types import SimpleNamespace

import pytest
import torch
import yaml
from llmcompressor import oneshot
from llmcompressor.core import State, reset_session
from llmcompressor.modifiers import Modifier, ModifierFactory
from tiny import FAMILIES

from unicuco_plugin import answering
from unicuco_plugin.errors import ExportError, ModelMismatchError, RecipeError, RequestError, StrategyError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.checkpoints import checkpoint as checkpoints
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.modifiers.carriers import removal
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.pruning import apply_strategy
from unicuco_plugin.strategy import Strategy


class Failing(Modifier):
    """Fails when it is told to."""

    when: str
    requires_calibration_data: bool = False

    def on_initialize(self, state: State, **kwargs):
        if self.when == "initialize":
            raise RuntimeError("failed on purpose")
        return True

    def on_calibration_start(self, state, event, **kwargs):
        if self.when == "calibration":
            raise RuntimeError("failed on purpose")


def recipe_of(strategy_path):
    return f"pruning_stage:\n  pruning_modifiers:\n    SparsityProfileModifier: {{strategy: '{strategy_path}'}}\n"


def test_it_is_registered_under_the_name_that_recipes_are_written_with():
    assert ModifierFactory._registered_registry["SparsityProfileModifier"] is SparsityProfileModifier


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_saved_model_reloads_with_the_logits_of_a_really_pruned_one(
    family, checkpoint, depth_strategy, token_ids, tmp_path
):
    folder = checkpoint(family)
    strategy = depth_strategy(load_model(folder))
    expected = apply_strategy(load_model(folder), strategy)(token_ids).logits
    model = load_model(folder)
    oneshot(model=model, recipe=SparsityProfileModifier(strategy=strategy.to_dict()))
    model.save_pretrained(tmp_path / "out")
    loaded = load_model(tmp_path / "out")
    assert len(find_decoder(loaded).blocks) == 4
    torch.testing.assert_close(model(token_ids).logits, loaded(token_ids).logits, rtol=0, atol=0)
    # Gemma's norms pass through the toolkit's float32 rounding.
    torch.testing.assert_close(loaded(token_ids).logits, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "mistral"])
@torch.no_grad()
def test_tied_and_untied_heads_survive(family, checkpoint, depth_strategy, token_ids, tmp_path):
    tie = family == "llama"
    model = load_model(checkpoint(family))
    oneshot(model=model, recipe=SparsityProfileModifier(strategy=depth_strategy(model)))
    model.save_pretrained(tmp_path / "out")
    loaded = load_model(tmp_path / "out")
    assert loaded.config.tie_word_embeddings is tie
    assert ("lm_head.weight" in checkpoints.read_shapes(tmp_path / "out")) is not tie
    torch.testing.assert_close(model(token_ids).logits, loaded(token_ids).logits, rtol=0, atol=0)


@torch.no_grad()
def test_yaml_and_python_give_the_same_model(checkpoint, depth_strategy, strategy_file, token_ids):
    folder = checkpoint("llama")
    strategy = depth_strategy(load_model(folder))
    logits = []
    for recipe in (recipe_of(strategy_file(strategy)), SparsityProfileModifier(strategy=strategy)):
        model = load_model(folder)
        oneshot(model=model, recipe=recipe)
        logits.append(model(token_ids).logits)
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)


@torch.no_grad()
def test_the_recipe_that_an_export_carries_replays_to_the_same_model(
    checkpoint, depth_strategy, strategy_file, token_ids, tmp_path
):
    folder = checkpoint("qwen3")
    path = strategy_file(depth_strategy(load_model(folder)))
    first, second = load_model(folder), load_model(folder)
    oneshot(model=first, recipe=recipe_of(path))
    first.save_pretrained(tmp_path / "out")
    path.unlink()
    oneshot(model=second, recipe=str(tmp_path / "out" / "recipe.yaml"))
    torch.testing.assert_close(first(token_ids).logits, second(token_ids).logits, rtol=0, atol=0)


def test_the_stored_recipe_keeps_where_the_strategy_came_from(checkpoint, depth_strategy, tmp_path, monkeypatch):
    model = load_model(checkpoint("llama"))
    strategy = depth_strategy(model)
    profile = SimpleNamespace(answer=lambda request: strategy)
    monkeypatch.setattr(answering, "load_profile", lambda source, **_: profile)
    oneshot(model=model, recipe=SparsityProfileModifier(profile="folder", request={"sparsity": 0.3}))
    model.save_pretrained(tmp_path / "out")
    [stage] = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text()).values()
    fields = stage["default_modifiers"]["SparsityProfileModifier"]
    assert Strategy.from_dict(fields["strategy"]) == strategy
    assert fields["provenance"] == [{"profile": "folder", "request": {"sparsity": 0.3}}]
    assert "profile" not in fields and "request" not in fields


@pytest.mark.parametrize("when", ["initialize", "calibration"])
@torch.no_grad()
def test_a_failure_elsewhere_in_the_recipe_leaves_the_model_whole(when, checkpoint, depth_strategy, token_ids):
    model = load_model(checkpoint("llama"))
    before, expected = fingerprint(model), model(token_ids).logits
    with pytest.raises(RuntimeError, match="on purpose"):
        oneshot(model=model, recipe=[SparsityProfileModifier(strategy=depth_strategy(model)), Failing(when=when)])
    reset_session()
    assert fingerprint(model) == before
    torch.testing.assert_close(model(token_ids).logits, expected, rtol=0, atol=0)


@torch.no_grad()
def test_a_drop_that_fails_leaves_the_model_whole(checkpoint, depth_strategy, token_ids, monkeypatch):
    model = load_model(checkpoint("llama"))
    expected = model(token_ids).logits
    strategy = depth_strategy(model)

    def fail(*_):
        raise StrategyError("failed on purpose")

    monkeypatch.setattr(removal, "drop_blocks", fail)
    with pytest.raises(StrategyError, match="on purpose"):
        oneshot(model=model, recipe=SparsityProfileModifier(strategy=strategy))
    torch.testing.assert_close(model(token_ids).logits, expected, rtol=0, atol=0)


def test_a_wrongly_saved_checkpoint_is_an_error(checkpoint, depth_strategy, tmp_path, monkeypatch):
    model = load_model(checkpoint("llama"))
    oneshot(model=model, recipe=SparsityProfileModifier(strategy=depth_strategy(model)))
    monkeypatch.setattr(removal, "write_config_fields", lambda *_: None)
    with pytest.raises(ExportError, match=r"config\.json says 6 blocks, the model has 4"):
        model.save_pretrained(tmp_path / "out")


@pytest.mark.slow
@torch.no_grad()
def test_a_pruned_model_can_be_pruned_again(checkpoint, depth_strategy, token_ids, tmp_path):
    model = load_model(checkpoint("gemma3"))
    for _ in range(2):
        oneshot(model=model, recipe=SparsityProfileModifier(strategy=depth_strategy(model), accept_other_weights=True))
    model.save_pretrained(tmp_path / "out")
    loaded = load_model(tmp_path / "out")
    assert loaded.config.num_hidden_layers == 2
    torch.testing.assert_close(model(token_ids).logits, loaded(token_ids).logits, rtol=0, atol=0)


def test_another_model_is_refused_before_it_is_touched(checkpoint, depth_strategy, token_ids):
    strategy = depth_strategy(load_model(checkpoint("qwen3")))
    model = load_model(checkpoint("llama"))
    before = fingerprint(model)
    with pytest.raises(ModelMismatchError, match="made for 'tiny'"):
        oneshot(model=model, recipe=SparsityProfileModifier(strategy=strategy))
    assert fingerprint(model) == before


def test_accepted_other_weights_carry_the_divergence_over(checkpoint, depth_strategy):
    model = load_model(checkpoint("llama"))
    strategy = depth_strategy(model)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.5)
    modifier = SparsityProfileModifier(strategy=strategy, accept_other_weights=True)
    oneshot(model=model, recipe=modifier)
    assert modifier.strategy["divergence"] == {
        "mean": 0.1, "interval90": [0.05, 0.2], "measured": False, "carried_over": True
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give exactly one of profile, strategy, profiles, peer, evopress; got none"),
        ({"profile": "p", "strategy": "s", "request": {"sparsity": 0.2}}, "got profile, strategy"),
        ({"profile": "p"}, "profile and request go together"),
        ({"strategy": "s", "request": {"sparsity": 0.2}}, "profile and request go together"),
        ({"profile": "p", "request": {"sparsity": 1.5}}, r"sparsity must be in \(0, 1\), got 1.5"),
        ({"profile": "p", "request": {"sparsity": 0.2, "max_params": 0}}, "max_params must be positive, got 0"),
        ({"profiles": []}, "profiles must not be empty"),
        ({"profiles": [{"profile": "p"}]}, "profiles.0.request: Field required"),
        ({"strategy": "s", "ratio": 0.5}, "unknown field 'ratio'"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(RecipeError, match=message):
        SparsityProfileModifier(**fields)


def test_two_of_these_modifiers_in_one_recipe_are_refused(checkpoint, depth_strategy):
    model = load_model(checkpoint("llama"))
    before = fingerprint(model)
    recipe = [SparsityProfileModifier(strategy=depth_strategy(model, (index,))) for index in (1, 2)]
    with pytest.raises(RecipeError, match="one SparsityProfileModifier per recipe; give it several profiles"):
        oneshot(model=model, recipe=recipe)
    assert fingerprint(model) == before


def test_a_missing_strategy_file_is_named(tmp_path):
    with pytest.raises(StrategyError, match=r"strategy file .*nothing\.json cannot be read"):
        SparsityProfileModifier(strategy=tmp_path / "nothing.json").resolve()


def test_two_strategies_of_one_space_clash(checkpoint, depth_strategy):
    strategy = depth_strategy(load_model(checkpoint("llama")))
    with pytest.raises(RecipeError, match="one strategy per space: depth is given 2 times"):
        SparsityProfileModifier(strategy=[strategy, strategy.to_dict()]).resolve()


def test_a_space_without_a_handler_is_refused(checkpoint, depth_strategy):
    strategy = depth_strategy(load_model(checkpoint("llama")), space="width")
    with pytest.raises(RecipeError, match="'width' cannot be applied by this version, only depth, sub"):
        SparsityProfileModifier(strategy=strategy).resolve()


def test_a_request_that_cannot_be_met_reaches_the_caller_as_it_is(monkeypatch):
    def answer(_):
        raise RequestError("at most 15 of 30 blocks")

    monkeypatch.setattr(answering, "load_profile", lambda source, **_: SimpleNamespace(answer=answer))
    with pytest.raises(RequestError, match="at most 15 of 30 blocks"):
        SparsityProfileModifier(profile="p", request={"sparsity": 0.9}).resolve()
