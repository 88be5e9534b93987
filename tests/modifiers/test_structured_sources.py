"""Structured strategies from a profile and from peers: which parts stay, and what the checkpoint is said to weigh."""

import json

import pytest
import torch
from structured_parts import masked_logits
from tiny import tiny_model
from tiny_settings import tiny_settings

import unicuco_plugin
from unicuco_plugin.errors import ExportError, RecipeError, UnicucoError, UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.parts.kept_parts_file import KEPT_PARTS_FILE, read_kept_parts
from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.training import UnitOptions, train_profile

pytestmark = pytest.mark.slow

TINY = tiny_settings()


@pytest.fixture(scope="module")
def profile(checkpoint, tmp_path_factory, machine):
    folder = tmp_path_factory.mktemp("profile")
    generator = torch.Generator().manual_seed(3)
    words = torch.randint(0, 124, (40, 50), generator=generator).tolist()
    (folder / "text.txt").write_text("\n\n".join(" ".join(f"w{i}" for i in line) for line in words))
    output, text = folder / "profile", [str(folder / "text.txt")]
    train_profile(
        checkpoint("llama"), output, space="structured", calibration=text, settings=TINY, units=UnitOptions(round_to=8)
    )
    return output


@torch.no_grad()
def test_a_profile_knows_which_parts_stay_and_needs_no_text(profile, checkpoint, tmp_path, token_ids):
    modifier = SparsityProfileModifier(profile=str(profile), request={"sparsity": 0.4})
    assert not modifier.needs_text
    done = prune_with_recipe(checkpoint("llama"), modifier, tmp_path / "out")
    [strategy] = done.strategies
    decoder = find_decoder(tiny_model("llama"))
    expected = unicuco_plugin.load_profile(str(profile)).rank_parts().keep(decoder, strategy.units)
    parts = read_kept_parts(tmp_path / "out" / KEPT_PARTS_FILE)
    assert parts.kept == expected.kept
    loaded = unicuco_plugin.load(tmp_path / "out")
    torch.testing.assert_close(
        loaded(token_ids).logits, masked_logits(decoder, expected, token_ids), rtol=1e-4, atol=1e-4
    )
    assert done.format == "compact"
    assert strategy.params == done.params == loaded.num_parameters()
    assert strategy.bytes >= done.bytes


@pytest.mark.parametrize("limit", ["max_params", "max_bytes"])
def test_a_limit_is_the_checkpoints_own(limit, profile, checkpoint, tmp_path):
    most = {"max_params": 30_000, "max_bytes": 130_000}[limit]
    modifier = SparsityProfileModifier(profile=str(profile), request={limit: most})
    done = prune_with_recipe(checkpoint("llama"), modifier, tmp_path / "out")
    found = {"max_params": done.params, "max_bytes": done.bytes}[limit]
    assert 0.9 * most < found <= most


def test_a_ranking_that_is_asked_for_takes_text_also_with_a_profile(profile, checkpoint, calibration, tmp_path):
    fields = {"profile": str(profile), "request": {"sparsity": 0.4}}
    modifier = SparsityProfileModifier(**fields, structured={"ranking": "magnitude", "compensate": False})
    assert modifier.needs_text
    prune_with_recipe(checkpoint("llama"), modifier, tmp_path / "out", calibration=calibration)
    assert read_kept_parts(tmp_path / "out" / KEPT_PARTS_FILE).biases == {}
    modifier = SparsityProfileModifier(**fields, structured={"compensate": False})
    assert not modifier.needs_text
    prune_with_recipe(checkpoint("llama"), modifier, tmp_path / "out", overwrite=True)
    assert read_kept_parts(tmp_path / "out" / KEPT_PARTS_FILE).biases == {}


@pytest.fixture
def answered(profile, checkpoint, tmp_path):
    """The tiny model by the profile's answer, and that by the export's own recipe, from another folder."""

    def prune(calibration, **options):
        modifier = SparsityProfileModifier(profile=str(profile), request={"sparsity": 0.4}, structured=options)
        first = prune_with_recipe(checkpoint("llama"), modifier, tmp_path / "out", calibration=calibration)
        return first, prune_with_recipe(checkpoint("llama"), first.path / "recipe.yaml", tmp_path / "again")

    return prune


MEASURED = [({}, True), ({"compensate": True}, True), ({"compensate": False}, False), ({"ranking": "flap"}, False)]


@pytest.mark.parametrize(("options", "measured"), MEASURED, ids=str)
def test_only_the_profiles_own_parts_and_biases_have_its_divergence(options, measured, answered, calibration):
    done, again = answered(calibration, **options)
    assert (done.divergence_note == "") is measured
    assert ("of the profile's own parts and biases" in (done.path / "README.md").read_text()) is not measured
    assert (again.divergence_note == "") is measured
    first, second = (read_kept_parts(export.path / KEPT_PARTS_FILE) for export in (done, again))
    assert (first.kept, first.biases.keys()) == (second.kept, second.biases.keys())


def test_a_checkpoint_larger_than_asked_is_refused_and_not_written(profile, checkpoint, tmp_path):
    fields = {"profile": str(profile), "request": {"max_bytes": 130_000}}
    with pytest.raises(RecipeError, match="max_bytes cannot be met with format stock"):
        modifier = SparsityProfileModifier(**fields, structured={"format": "stock"})
        prune_with_recipe(checkpoint("llama"), modifier, tmp_path / "out")
    with pytest.raises(ExportError, match=r"max_bytes must be met: 130,000 was requested, .* would have 2\d\d,"):
        modifier = SparsityProfileModifier(**fields)
        prune_with_recipe(checkpoint("llama"), modifier, tmp_path / "out", dtype="float64")
    assert not (tmp_path / "out").exists()


def test_a_stock_checkpoint_says_its_own_size(profile, checkpoint, tmp_path):
    modifier = SparsityProfileModifier(profile=str(profile), request={"sparsity": 0.4}, structured={"format": "stock"})
    done = prune_with_recipe(checkpoint("llama"), modifier, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "strategy.json").read_text())
    assert written["params"] == done.params >= tiny_model("llama").num_parameters()
    assert written["bytes"] == done.bytes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranking": "nonsense"}, "nonsense"),
        ({"kept_parts": "a", "ranking": "flap"}, "kept_parts says which parts and biases stay; leave ranking out"),
        ({"kept_parts": "a", "compensate": False}, "leave compensate out"),
    ],
)
def test_options_that_contradict_each_other_are_refused_at_once(options, message, profile):
    with pytest.raises(UnicucoError, match=message):
        SparsityProfileModifier(profile=str(profile), request={"sparsity": 0.4}, structured=options)


def test_a_family_without_room_for_biases_is_refused_before_a_peer_measures(checkpoint, calibration, tmp_path):
    modifier = SparsityProfileModifier(peer="interaction", request={"sparsity": 0.3}, structured={"format": "stock"})
    modifier.watch(lambda event: pytest.fail(f"measured: {event}"))
    with pytest.raises(UnsupportedModelError, match="mistral has no attention_bias or mlp_bias that stock tools"):
        prune_with_recipe(checkpoint("mistral"), modifier, tmp_path / "out", calibration=calibration)


@pytest.mark.parametrize("peer", ["structured_uniform", "flap", "interaction"])
def test_peers_prune_and_say_what_the_checkpoint_weighs(peer, checkpoint, calibration, tmp_path):
    modifier = SparsityProfileModifier(peer=peer, request={"sparsity": 0.3})
    assert modifier.needs_text
    done = prune_with_recipe(checkpoint("llama"), modifier, tmp_path / "out", calibration=calibration)
    [strategy] = done.strategies
    assert strategy.peer == peer
    assert (tmp_path / "out" / "strategy.json").is_file()
    recipe = (tmp_path / "out" / "recipe.yaml").read_text()
    assert f"kept_parts: {KEPT_PARTS_FILE}" in recipe
    assert json.loads((tmp_path / "out" / "strategy.json").read_text())["space"] == "structured"
    if done.format == "compact":
        assert strategy.params == done.params
        assert strategy.bytes >= done.bytes
