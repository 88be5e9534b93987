"""The zoo is complete, small, and what docs/families.md says of it holds."""

import time

import pytest
import torch
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from unicuco_plugin.errors import UnsupportedModelError
from unicuco_plugin.models.blocks.support import check_config
from zoo.cells import SPACES
from zoo.families import ANIMALS, build
from zoo.outside import OUTSIDE
from zoo.shards import TENTHS, read_shard, shard, tenth_of_today
from zoo.table import DOCUMENT, read_outcomes, render_table, replace_table

# Needs parts of a configuration of its own before there is one.
UNBUILT = {"musicgen", "musicgen_melody"}
EXPECTED = read_outcomes()


@pytest.fixture(autouse=True)
def no_installed_plugins(monkeypatch):
    monkeypatch.setenv("UNICUCO_DISABLE_PLUGINS", "1")


def test_every_causal_language_model_is_in_the_zoo_or_outside_for_a_reason():
    inside = {animal.family for animal in ANIMALS.values()}
    assert not inside & OUTSIDE.keys()
    assert inside | OUTSIDE.keys() == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


@pytest.mark.slow
def test_there_are_ninety_and_all_are_built_and_finite_within_a_minute():
    began = time.process_time()
    for name in ANIMALS:
        model = build(name)
        with torch.no_grad():
            logits = model(torch.arange(3, 11)[None]).logits
        assert bool(torch.isfinite(logits).all()), name
        assert sum(parameter.numel() for parameter in model.parameters()) < 200_000, name
    assert len(ANIMALS) >= 90
    assert time.process_time() - began < 60


@pytest.mark.parametrize("family", sorted(OUTSIDE.keys() - UNBUILT))
def test_what_is_outside_is_refused_by_its_configuration_alone(family):
    with pytest.raises(UnsupportedModelError) as caught:
        check_config(CONFIG_MAPPING[family]())
    assert len(str(caught.value)) <= 300


def test_the_expectation_covers_every_cell_and_none_is_wrong():
    assert EXPECTED.keys() == ANIMALS.keys()
    assert all(outcomes.keys() == set(SPACES) for outcomes in EXPECTED.values())
    found = [outcome for outcomes in EXPECTED.values() for outcome in outcomes.values()]
    assert not [outcome for outcome in found if not outcome.startswith(("right", "refused"))]


def test_every_refusal_is_one_line_of_at_most_300_characters():
    told = [outcome for outcomes in EXPECTED.values() for outcome in outcomes.values() if outcome[:5] != "wrong"]
    refusals = [outcome.partition(": ")[2] for outcome in told]
    assert not [refusal for refusal in refusals if len(refusal) > 300 or "\n" in refusal]


def test_the_document_is_what_the_expectation_gives():
    document = DOCUMENT.read_text(encoding="utf8")
    assert render_table(EXPECTED) in document
    assert replace_table(document, EXPECTED) == document


def test_shards_share_the_zoo_out_without_a_rest():
    parts = [shard(ANIMALS, read_shard(f"{k}/{TENTHS}")) for k in range(1, TENTHS + 1)]
    assert sorted(name for part in parts for name in part) == sorted(ANIMALS)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert 1 <= tenth_of_today() <= TENTHS


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(ValueError):
        read_shard(text)


@pytest.mark.slow
@pytest.mark.zoo
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", sorted(ANIMALS))
def test_a_family_in_a_space_is_right_or_refused_as_expected(name, space, cage):
    assert cage(name).outcome(space) == EXPECTED[name][space]
