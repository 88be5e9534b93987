"""The real small model made smaller by the packaged profile of head groups and neurons."""

from pathlib import Path

import pytest
import torch

import unicuco_plugin
from unicuco_plugin.answering import load_profile
from unicuco_plugin.evaluation.comparison import compare_models
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.loading import load_model, load_tokenizer
from unicuco_plugin.models.parts.parts import find_parts
from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.fixture(scope="module")
def machine():
    """The tiny models run as beside an accelerator, and of this one the export (test_real_export)."""
    return "host"


@pytest.fixture(scope="module")
def slim(smollm2, tmp_path_factory, machine):
    return prune_with_recipe(smollm2, RECIPES / "structured.yaml", tmp_path_factory.mktemp("slim") / "out")


@pytest.mark.slow
def test_the_shipped_recipe_asks_the_packaged_profile_and_the_share_asked_is_the_share_saved(slim, smollm2):
    [strategy] = slim.strategies
    assert strategy == load_profile("smollm2-135m-instruct-structured").answer(sparsity=0.25)
    dense = load_model(smollm2)
    removable = sum(part.params * part.count for part in find_parts(find_decoder(dense)).values())
    assert (dense.num_parameters() - slim.params) / removable == pytest.approx(0.25, rel=0.02)
    assert slim.params == strategy.params


@pytest.mark.slow
@torch.no_grad()
def test_it_loads_with_the_logits_it_had_and_is_as_good_as_its_profile_says(slim, smollm2, shared_data):
    loaded = unicuco_plugin.load(slim.path)
    text = (shared_data / "text" / "calib_wikipedia.txt").read_text(encoding="utf8")[:40_000]
    ids = load_tokenizer(smollm2)(text, return_tensors="pt").input_ids[0]
    windows = ids[: 4 * 256].view(4, 256)
    torch.testing.assert_close(loaded(windows[:1]).logits, slim.model(windows[:1]).logits)
    divergence = compare_models(load_model(smollm2), loaded, windows).divergence
    # Other windows than the profile's, and shorter: within a third of its measurement.
    assert divergence.mean == pytest.approx(slim.strategies[0].divergence.mean, rel=0.35)
