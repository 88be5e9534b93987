"""The space ``compound`` from training to a checkpoint, on a tiny model."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scheme_databases import WIDTHS, build_schemes
from tiny_settings import tiny_settings

from unicuco_plugin.errors import LevelsError, RequestError, UnsupportedModelError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.fingerprint import fingerprint
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.modifiers.export.oneshot import prune_with_recipe
from unicuco_plugin.modifiers.sparsity_profile import SparsityProfileModifier
from unicuco_plugin.report.front import describe_profile, describe_strategies
from unicuco_plugin.report.plot import plot_front
from unicuco_plugin.serving.verdict import check_serving
from unicuco_plugin.strategy import Strategy
from unicuco_plugin.training import UnitOptions, train_profile
from unicuco_plugin.training.subjects.find import find_subject

pytestmark = pytest.mark.slow

TINY = tiny_settings(initial=70, picks=3, rerank=1)
few = settings(max_examples=8)


@pytest.fixture(scope="module")
def dense(save_model):
    return save_model(blocks=4)


@pytest.fixture(scope="module")
def levels(dense, tmp_path_factory):
    return build_schemes(load_model(dense), tmp_path_factory.mktemp("levels") / "all", (*WIDTHS, "W2A16:channel"))


@pytest.fixture(scope="module")
def train(run_training, dense, levels):
    def run(model=dense, **options):
        return run_training(model, "compound", TINY, "compound", levels=levels.path, **options)

    return run


def bits_of(profile, strategy):
    """Mean bits, counted from the names of schemes and blocks."""
    used = 0.0
    for unit, n, row in zip(profile.units, profile.unit_params, profile.record.sizes.choices, strict=True):
        gone = any(unit.startswith(f"{block}.") for block in strategy.shares)
        name = "removed" if gone else strategy.schemes.get(unit, "dense")
        used += n * next(bits for other, bits, _ in row if other == name)
    return used / sum(profile.unit_params)


@few
@given(bits=st.floats(0.62, 12.0))
def test_mean_bits_are_met_from_below_by_whole_blocks(profile, bits):
    strategy = profile.answer(bits=bits)
    assert strategy.bits <= bits
    assert strategy.bits == pytest.approx(bits_of(profile, strategy), abs=1e-9)
    assert set(strategy.shares.values()) <= {1.0} and len(strategy.shares) < 4
    assert strategy.sparsity == pytest.approx(len(strategy.shares) / 4)
    assert Strategy.from_dict(json.loads(strategy.to_json())) == strategy


@few
@given(share=st.floats(0.0, 0.9))
def test_a_number_of_bytes_is_never_exceeded(profile, share):
    sizes = profile.record.sizes
    least = profile.answer(bits=round(16 * (1 - profile.search_space.most) + 5e-7, 6)).bytes
    limit = int(least + share * (sizes.total_bytes - least)) + 1
    strategy = profile.answer(max_bytes=limit)
    assert strategy.bytes <= limit
    assert strategy.params == sizes.total_params - len(strategy.shares) * (
        next(iter(sizes.blocks.values()))[0] + sum(sizes.unit_params) // 4
    )


def test_other_requests_are_answered_or_refused_with_what_can_be_asked(profile):
    lenient = profile.answer(max_divergence=1e3)
    assert lenient.shares
    assert profile.answer(preference=(0.5, 0.5)).units
    floor = 16 * (1 - profile.search_space.most)
    with pytest.raises(RequestError, match=rf"^bits must be at least {floor:.4f}, the narrowest schemes of the blo"):
        profile.answer(bits=0.5)
    with pytest.raises(
        RequestError, match=r"^sparsity cannot be asked of space 'compound', which counts bits; ask for"
    ):
        profile.answer(sparsity=0.5)
    with pytest.raises(RequestError, match=r"^max_bytes must be at least"):
        profile.answer(max_bytes=1000)


def test_the_separate_spaces_solutions_are_measured_first(profile):
    entries = [profile.search_space.parse(entry.strategy) for entry in profile.record.archive if entry.measured]
    found = [profile.search_space.to_units(x) for x in entries]
    kinds = [({v for v in units.values() if v != 1.0}, sum(v == 1.0 for v in units.values())) for units in found]
    assert any(len(schemes) == 1 and gone for schemes, gone in kinds)  # one scheme, blocks dropped
    assert any(not schemes and gone for schemes, gone in kinds)  # blocks alone
    assert any(len(schemes) > 1 and not gone for schemes, gone in kinds)  # bits alone
    assert any(len(schemes) > 1 and gone for schemes, gone in kinds)
    plain = [entry for entry in profile.record.archive if entry.plain]
    assert {entry.plain for entry in plain} == {"uniform", "additive"}
    assert all(entry.reranked is not None for entry in plain)


def test_a_killed_run_measures_nothing_twice(trained, dense, levels, text):
    output, _ = trained
    before = json.loads((output / "profile.json").read_text())
    units = UnitOptions(levels=levels.path)
    again = train_profile(dense, output, space="compound", calibration=[text], settings=TINY, units=units, resume=True)
    assert again.provenance["evaluation_tokens"] == before["provenance"]["evaluation_tokens"]
    assert [entry.model_dump(mode="json") for entry in again.record.archive] == before["archive"]


def test_a_checkpoint_of_an_answer_has_the_promised_bytes_and_loads(profile, trained, dense, levels, tmp_path):
    request = {"max_bytes": profile.answer(bits=2.5).bytes}
    modifier = SparsityProfileModifier(profile=str(trained[0]), request=request, levels=str(levels.folder))
    done = prune_with_recipe(dense, [modifier], tmp_path / "out")
    promised = done.strategies[0].bytes
    assert done.bytes <= promised <= request["max_bytes"]
    assert promised - done.bytes < 0.05 * promised
    assert not [entry for entry in check_serving(done.path).errors if entry.rule != "kernel"]


def test_a_profile_is_shown_with_blocks_and_schemes(profile, tmp_path):
    text = describe_profile(profile)
    assert "removes" in text and "schemes" in text and "model.layers " in text
    one = describe_strategies([profile.answer(bits=1.5)])
    assert "removes model.layers " in one and "A16:channel" in one
    plot_front(profile.front(), profile.units, tmp_path / "map.svg", title="compound")
    assert "0 where its block is gone" in (tmp_path / "map.svg").read_text()


def test_blocks_with_ignored_units_stay(dense, levels):
    decoder = find_decoder(load_model(dense))
    units = UnitOptions(levels=levels.path, ignore=("model.layers.1.mlp.down_proj",))
    subject = find_subject("compound", decoder, str(fingerprint(decoder.model)), units)
    assert subject.space.blocks == tuple(f"model.layers.{index}" for index in (0, 2, 3))
    assert len(subject.space.units) == 15


def test_a_model_of_one_block_and_a_missing_database_are_refused(save_model, dense, text, tmp_path):
    with pytest.raises(LevelsError, match="needs a level database"):
        train_profile(dense, tmp_path / "p", space="compound", calibration=[text], settings=TINY)
    single = save_model(blocks=1)
    own = build_schemes(load_model(single), tmp_path / "levels")
    with pytest.raises(UnsupportedModelError, match="blocks may go where there are two or more"):
        units = UnitOptions(levels=own.path)
        train_profile(single, tmp_path / "p", space="compound", calibration=[text], settings=TINY, units=units)


def test_all_answers_have_whole_blocks(profile):
    for strategy in profile.front():
        x = profile.search_space.from_units(strategy.units)
        assert torch.equal(profile.search_space.parse(profile.search_space.key(x)), x)
