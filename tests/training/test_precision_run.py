"""The space ``precision`` from training to an answer, on a tiny model."""

import json
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheme_databases import WIDTHS, build_schemes
from tiny_settings import tiny_settings

from unicuco_plugin.errors import LevelsError, RequestError, StrategyError
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.schemes import parse_scheme
from unicuco_plugin.strategy import Strategy
from unicuco_plugin.training import UnitOptions, train_profile

pytestmark = pytest.mark.slow

TINY = tiny_settings(initial=24, picks=3, rerank=1)
few = settings(max_examples=6)


@pytest.fixture(scope="module")
def dense(save_model):
    return save_model(blocks=3)


@pytest.fixture(scope="module")
def levels(dense, tmp_path_factory):
    return build_schemes(
        load_model(dense), tmp_path_factory.mktemp("levels") / "all", (*WIDTHS, "W6A16:channel", "W8A8")
    )


@pytest.fixture(scope="module")
def train(run_training, dense, levels):
    return partial(run_training, dense, "precision", TINY, levels=levels.path)


def weights_of(profile):
    return dict(zip(profile.units, profile.unit_params, strict=True))


def bits_of(profile, strategy):
    """Mean bits, counted from the names of schemes."""
    used = 0
    for (unit, n), row in zip(weights_of(profile).items(), profile.record.sizes.choices, strict=True):
        used += round(n * next(bits for name, bits, _ in row if name == strategy.units.get(unit, "dense")))
    return used / sum(profile.unit_params)


def test_units_are_what_a_server_packs_and_choices_the_schemes(profile):
    assert profile.units[:4] == (
        "model.layers.0.self_attn.q_proj+k_proj+v_proj",
        "model.layers.0.self_attn.o_proj",
        "model.layers.0.mlp.gate_proj+up_proj",
        "model.layers.0.mlp.down_proj",
    )
    assert len(profile.units) == 12
    for row in profile.record.sizes.choices:
        names = [name for name, *_ in row]
        # Of W8A8 and W8A16:channel, which are of one size, the one that leaves inputs alone stays.
        assert names[:2] == ["dense", "W8A16:channel"] and "W8A8" not in names
        assert names[-3:] == ["W6A16:channel", "W4A16:channel", "W3A16:channel"]
    assert sum(profile.provenance["levels"]["left_out"].values()) == 12


@few
@given(bits=st.floats(4.3, 12.0))
def test_mean_bits_are_met_from_below_and_missed_by_less_than_a_step(profile, bits):
    strategy = profile.answer(bits=bits)
    assert strategy.bits <= bits
    assert strategy.bits == pytest.approx(bits_of(profile, strategy), abs=1e-9)
    assert strategy.sparsity == 0.0
    names = set(strategy.units.values())
    assert all(parse_scheme(name).bits in {3, 4, 6, 8} for name in names)
    assert Strategy.from_dict(json.loads(strategy.to_json())) == strategy


def test_bytes_are_those_of_the_units_beside_the_rest(profile, dense):
    strategy = profile.answer(bits=5.0)
    sizes = profile.record.sizes
    stored = sum(
        next(size for name, _, size in row if name == strategy.units.get(unit, "dense"))
        for unit, row in zip(profile.units, sizes.choices, strict=True)
    )
    assert strategy.bytes == sizes.total_bytes - sum(sizes.unit_bytes) + stored
    assert sizes.total_bytes == pytest.approx((dense / "model.safetensors").stat().st_size, rel=0.02)


@few
@given(share=st.floats(0.0, 0.8))
def test_a_number_of_bytes_is_never_exceeded(profile, share):
    least = profile.answer(bits=round(16 * (1 - profile.search_space.most) + 5e-7, 6)).bytes
    limit = int(least + share * (profile.record.sizes.total_bytes - least)) + 1
    assert profile.answer(max_bytes=limit).bytes <= limit


def test_other_requests_are_answered_or_refused_with_what_can_be_asked(profile):
    lenient = profile.answer(max_divergence=1e3)
    assert lenient.bits == pytest.approx(bits_of(profile, lenient))
    assert profile.answer(preference=(0.5, 0.5)).units
    floor = 16 * (1 - profile.search_space.most)
    with pytest.raises(RequestError, match=rf"^bits must be at least {floor:.3f}\d*, the narrowest scheme of every"):
        profile.answer(bits=3.0)
    with pytest.raises(RequestError, match=r"^sparsity cannot be asked of space 'precision', which removes no weight"):
        profile.answer(sparsity=0.5)
    with pytest.raises(
        RequestError, match=r"^max_params cannot be asked of this profile, which knows kept, bytes, bits"
    ):
        profile.answer(max_params=10_000)
    with pytest.raises(RequestError, match=r"^max_bytes must be at least"):
        profile.answer(max_bytes=1000)


def test_plain_answers_compete_and_are_named_where_they_win(profile):
    plain = {entry.plain for entry in profile.record.archive}
    assert plain == {None, "uniform", "additive"}
    rivals = [entry for entry in profile.record.archive if entry.plain]
    assert all(entry.measured and entry.reranked is not None for entry in rivals)
    front = profile.front()
    assert [strategy.request.kind for strategy in front] == ["bits"] * len(front)
    named = {strategy.source for strategy in front}
    assert named <= {"stratnet", "archive", "neighbour", "uniform", "additive"}
    known = {entry.strategy: entry.plain for entry in rivals}
    for strategy in front:
        key = profile.search_space.key(profile.search_space.from_units(strategy.units))
        assert strategy.source == known.get(key, strategy.source)


def test_a_killed_run_measures_nothing_twice(trained, dense, levels, text):
    output, _ = trained
    before = json.loads((output / "profile.json").read_text())
    units = UnitOptions(levels=levels.path)
    again = train_profile(dense, output, space="precision", calibration=[text], settings=TINY, units=units, resume=True)
    assert again.provenance["evaluation_tokens"] == before["provenance"]["evaluation_tokens"]
    assert [entry.model_dump(mode="json") for entry in again.record.archive] == before["archive"]


def test_ignored_units_stay_as_they_are_and_whole(train):
    _, profile = train(
        "ignored",
        ignore=("model.layers.0.self_attn.q_proj+k_proj+v_proj", "re:.*o_proj", "model.layers.1.mlp.down_proj"),
    )
    assert len(profile.units) == 12 - 1 - 3 - 1
    with pytest.raises(StrategyError, match="ignore must take whole units, got a part of"):
        train("part", ignore=("re:.*k_proj",))


def test_a_space_of_bits_needs_a_database(dense, text, tmp_path):
    with pytest.raises(LevelsError, match="needs a level database"):
        train_profile(dense, tmp_path / "p", space="precision", calibration=[text], settings=TINY)
    with pytest.raises(LevelsError, match=r"^granularity goes with the space 'sparsity', not with 'precision'$"):
        train_profile(
            dense,
            tmp_path / "p",
            space="precision",
            calibration=[text],
            settings=TINY,
            units=UnitOptions(levels=tmp_path, granularity="block"),
        )
