"""Compensation in a recipe: the checkpoint is a stock one, better than without, and says how much."""

import llmcompressor
import pytest
import torch
from accelerator import kept_parameters
from depth_strategies import sublayer_strategy, whole_block_strategy
from sparsity_strategies import sparsity_strategy
from structured_parts import A, M, draw
from structured_strategies import structured_strategy
from tiny import tiny_model

import unicuco_plugin
from unicuco_plugin.errors import RecipeError, StrategyError, UnknownNameError, UnsupportedModelError
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.models.parts.kept_parts import KeptParts
from unicuco_plugin.models.parts.kept_parts_file import write_kept_parts
from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.report.export import describe_export


@torch.no_grad()
def divergence(model, dense, windows):
    p, q = (one(windows, use_cache=False).logits.log_softmax(-1).double() for one in (dense, model))
    return float((p.exp() * (p - q)).sum(-1).mean())


def prune(checkpoint, family, output, calibration, **fields):
    modifier = SparsityProfileModifier(strategy=whole_block_strategy(tiny_model(family), GONE), **fields)
    return prune_with_recipe(checkpoint(family), modifier, output, calibration=calibration)


GONE = (1, 3, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "method"), [("llama", "ridge"), ("llama", "scale"), ("granite", "linear"), ("qwen2", "sequential")]
)
def test_the_checkpoint_is_the_corrected_model(family, method, checkpoint, tmp_path, calibration):
    dense = tiny_model(family)
    done = prune(checkpoint, family, tmp_path / "with", calibration, compensation=method)
    prune(checkpoint, family, tmp_path / "without", calibration)
    held = calibration[::4]
    before, after = (divergence(load_model(tmp_path / name), dense, held) for name in ("without", "with"))
    assert after < before
    said = f"on the windows held out {before:.4f} nats per token without and {after:.4f} with it"
    assert said in describe_export(done)
    card = (tmp_path / "with" / "README.md").read_text()
    assert "## Compensation" in card and f"compensation {method}, from 256 tokens" in card and said in card
    assert "without the compensation; this checkpoint itself was not measured" in done.divergence_note
    assert "compensation: " + method in (tmp_path / "with" / "recipe.yaml").read_text()
    assert load_model(tmp_path / "with").config.num_hidden_layers == 3


@pytest.mark.slow
def test_a_strategy_that_was_measured_with_one_is_corrected_unless_another_is_asked_for(
    checkpoint, tmp_path, calibration
):
    strategy = whole_block_strategy(tiny_model("llama"), GONE).model_copy(update={"compensation": "linear"})
    notes = {}
    for asked in (None, "ridge", "none"):
        modifier = SparsityProfileModifier(strategy=strategy, compensation=asked)
        assert modifier.needs_text is (asked != "none")
        done = prune_with_recipe(checkpoint("llama"), modifier, tmp_path / f"{asked}", calibration=calibration)
        notes[asked] = done.divergence_note.partition(";")[0]
        assert f"compensation: {asked or 'linear'}" in (tmp_path / f"{asked}" / "recipe.yaml").read_text()
    assert notes == {
        None: "with corrections from the profile's text",
        "ridge": "with compensation linear",
        "none": "with compensation linear",
    }
    with pytest.raises(RecipeError, match=r"^SparsityProfileModifier needs calibration text, got none"):
        prune_with_recipe(checkpoint("llama"), SparsityProfileModifier(strategy=strategy), tmp_path / "out")


@pytest.mark.slow
def test_none_is_the_checkpoint_without_and_needs_no_text(checkpoint, tmp_path, token_ids):
    done = prune(checkpoint, "llama", tmp_path / "none", None, compensation="none")
    prune(checkpoint, "llama", tmp_path / "without", None)
    with torch.no_grad():
        one, other = (load_model(tmp_path / name)(token_ids).logits for name in ("none", "without"))
    assert torch.equal(one, other)
    assert done.notes == () or "compensation" not in done.notes[0]


def test_a_failure_puts_the_weights_back(checkpoint, tmp_path, calibration, monkeypatch):
    model = load_model(checkpoint("llama"))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    seen = []

    def fail(model, _):
        seen.extend(
            name
            for (name, now), old in zip(kept_parameters(model).items(), before, strict=True)
            if not torch.equal(now, old)
        )
        raise StrategyError("no drop")

    monkeypatch.setattr("unicuco_plugin.modifiers.carriers.removal.drop_blocks", fail)
    modifier = SparsityProfileModifier(strategy=whole_block_strategy(model, GONE), compensation="ridge")
    with pytest.raises(StrategyError, match="no drop"):
        prune_with_recipe(model, modifier, tmp_path / "out", calibration=calibration)
    assert seen == [f"model.layers.{index}.mlp.down_proj.weight" for index in (0, 2)]
    assert all(torch.equal(a, b) for a, b in zip(before, kept_parameters(model).values(), strict=True))


def test_what_cannot_be_corrected_is_refused_and_nothing_written(checkpoint, tmp_path, calibration):
    with pytest.raises(UnsupportedModelError, match="no linear's output is added to the states as it is"):
        prune(checkpoint, "gemma2", tmp_path / "out", calibration, compensation="ridge")
    assert not (tmp_path / "out").exists()


def test_text_is_asked_for(checkpoint, tmp_path):
    with pytest.raises(RecipeError, match=r"^SparsityProfileModifier needs calibration text, got none; pass"):
        prune(checkpoint, "llama", tmp_path / "out", None, compensation="ridge")
    model = load_model(checkpoint("llama"))
    modifier = SparsityProfileModifier(strategy=whole_block_strategy(model, GONE), compensation="ridge")
    with pytest.raises(RecipeError, match=r"^compensation ridge reads calibration text, got none; give oneshot"):
        llmcompressor.oneshot(model=model, recipe=[modifier])


def check_gain(dense, folder, calibration, compensation="ridge", **fields):
    """Export ``with`` it and ``without``: the one is nearer to the dense model, by as much as the export says."""
    for name, given in (("with", {"compensation": compensation}), ("without", {})):
        modifier = SparsityProfileModifier(**fields, **given)
        done = prune_with_recipe(dense, modifier, folder / name, calibration=calibration)
        if given:
            said = describe_export(done)
    model, held = load_model(dense), calibration[::4]
    before, after = (divergence(unicuco_plugin.load(folder / name), model, held) for name in ("without", "with"))
    assert after < before
    assert f"on the windows held out {before:.4f} nats per token without and {after:.4f} with it" in said


@pytest.mark.slow
@pytest.mark.parametrize("format", [None, "deci"])
def test_halves_are_corrected_whether_they_are_silenced_or_leave(format, checkpoint, tmp_path, calibration):
    strategy = sublayer_strategy(tiny_model("llama"))
    form = {} if format is None else {"structured": {"format": format}}
    check_gain(checkpoint("llama"), tmp_path, calibration, strategy=strategy, **form)
    assert "## Compensation" in (tmp_path / "with" / "README.md").read_text()


# A narrower MLP and one that goes, an attention that goes, the last block; and an attention without a group.
UNEVEN = {M.format(0): tuple(range(0, 48, 3)), M.format(1): (), A.format(2): (), A.format(5): (), M.format(5): ()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "method"),
    [
        ("compact with biases", "ridge"),
        ("compact", "ridge"),
        ("deci", "sequential"),
        ("stock", "ridge"),
        ("compact with biases", "sequential"),
    ],
)
def test_modules_that_lose_parts_are_corrected_in_every_form(form, method, checkpoint, tmp_path, calibration):
    format, _, biased = form.partition(" ")
    kept = UNEVEN if format == "deci" else UNEVEN | {A.format(3): (1,)}
    biases = {name: draw(32, 3) / 50 for name in (M.format(0), A.format(3))} if biased else {}
    write_kept_parts(tmp_path / "kept.parts", KeptParts(kept, biases))
    strategy = structured_strategy(tiny_model("llama"), KeptParts(kept))
    form = {"format": format, "kept_parts": str(tmp_path / "kept.parts")}
    check_gain(checkpoint("llama"), tmp_path, calibration, method, strategy=strategy, structured=form)
    assert "modules that lose parts or come before one that goes" in (tmp_path / "with" / "README.md").read_text()
    # The recipe begins with the same parts and biases, and solves the same corrections from the same text.
    again = prune_with_recipe(
        checkpoint("llama"), tmp_path / "with" / "recipe.yaml", tmp_path / "again", calibration=calibration
    )
    one, other = (unicuco_plugin.load(path).state_dict() for path in (tmp_path / "with", again.path))
    assert all(torch.equal(one[name], other[name]) for name in one) and one.keys() == other.keys()


def test_a_failure_puts_the_weights_of_modules_back(checkpoint, tmp_path, calibration, monkeypatch):
    model = load_model(checkpoint("llama"))
    before = [parameter.detach().clone() for parameter in model.parameters()]

    def fail(*_):
        raise StrategyError("no shape")

    monkeypatch.setattr("unicuco_plugin.modifiers.carriers.cutting.Snapshot", fail)
    kept = {M.format(1): tuple(range(24))}
    write_kept_parts(tmp_path / "kept.parts", KeptParts(kept))
    strategy = structured_strategy(tiny_model("llama"), KeptParts(kept))
    form = {"kept_parts": str(tmp_path / "kept.parts")}
    modifier = SparsityProfileModifier(strategy=strategy, structured=form, compensation="ridge")
    with pytest.raises(StrategyError, match="no shape"):
        prune_with_recipe(model, modifier, tmp_path / "out", calibration=calibration)
    assert all(torch.equal(a, b) for a, b in zip(before, kept_parameters(model).values(), strict=True))


def test_a_space_that_has_none_yet_is_refused_before_a_weight_is_read(checkpoint, tmp_path, calibration):
    modifier = SparsityProfileModifier(strategy=sparsity_strategy(tiny_model("llama")), compensation="ridge")
    with pytest.raises(
        RecipeError, match=r"^compensation ridge corrects what leaves, in the spaces 'depth', 'sublayer"
    ):
        prune_with_recipe(checkpoint("llama"), modifier, tmp_path / "out", calibration=calibration)


def test_a_method_that_nobody_knows_is_refused(checkpoint):
    with pytest.raises(
        UnknownNameError, match=r"^compensation must be one of bias, linear, none, ridge, scale, sequential; got 'ho"
    ):
        SparsityProfileModifier(strategy=whole_block_strategy(tiny_model("llama"), GONE), compensation="hope")
