"""The space ``structured`` from training to an answer, on a tiny model."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer
from tiny_settings import tiny_settings

from unicuco_plugin.answering import load_profile
from unicuco_plugin.errors import CalibrationError, LevelsError, ProfileError, RequestError, StrategyError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.models.parts.parts import find_parts
from unicuco_plugin.models.parts.reduction import reduced
from unicuco_plugin.objectives.objective import ObjectiveRequest
from unicuco_plugin.peers.parts import parts_space
from unicuco_plugin.plugins.manager import make_objective
from unicuco_plugin.texts.calibration import load_windows
from unicuco_plugin.training import UnitOptions, train_profile

pytestmark = pytest.mark.slow

TINY = tiny_settings(initial=44, picks=3, rerank=1)
few = settings(max_examples=8)


@pytest.fixture(scope="module")
def dense(save_model):
    return save_model(blocks=4)


@pytest.fixture(scope="module")
def train(run_training, dense):
    return partial(run_training, dense, "structured", TINY, round_to=8)


def finest(profile):
    record = profile.record.sizes
    return min(n // count * step for n, (count, step) in zip(record.unit_params, record.parts, strict=True))


@few
@given(share=st.floats(0.01, 0.9))
def test_an_answer_reaches_the_share_and_exceeds_it_by_less_than_a_step(profile, share):
    strategy = profile.answer(sparsity=share)
    assert share - 1e-9 <= strategy.sparsity < share + finest(profile) / sum(profile.unit_params)


@few
@given(limit=st.integers(22_000, 60_000))
def test_a_number_of_parameters_is_met_and_missed_by_little(profile, limit):
    strategy = profile.answer(max_params=limit)
    assert strategy.params <= limit
    if limit < profile.record.sizes.total_params - 4 * finest(profile):
        # Two steps, and the biases of two more modules.
        assert strategy.params > limit - 2 * finest(profile) - 2 * 32


@few
@given(limit=st.integers(100_000, 240_000))
def test_a_number_of_bytes_is_met(profile, limit):
    assert profile.answer(max_bytes=limit).bytes <= limit


def test_too_few_parameters_are_refused_with_what_there_is(profile):
    with pytest.raises(RequestError, match=r"max_params must be at least \d+ for this profile"):
        profile.answer(max_params=10)


def test_first_strategies_hold_the_reconstruction_uniform_flap_and_one_kind_alone(profile):
    rows = [profile.search_space.parse(entry.strategy) for entry in profile.record.archive if entry.measured]
    attentions = torch.stack(rows)[:, ::2].sum(-1)
    mlps = torch.stack(rows)[:, 1::2].sum(-1)
    assert bool(((attentions == 0) & (mlps > 0)).any())
    assert bool(((mlps == 0) & (attentions > 0)).any())
    uniform = profile.search_space.key(profile.search_space.project(torch.zeros(1, 8, dtype=torch.float64), 0.2)[0])
    assert uniform in {entry.strategy for entry in profile.record.archive}


def test_a_confirmed_divergence_is_that_of_the_reduced_model_with_the_profiles_own_parts(profile, dense, text):
    model = load_model(dense)
    decoder = find_decoder(model)
    tokenizer = tiny_tokenizer(dense)
    windows = load_windows([text], tokenizer, count=2 + 2 + 4 + 8, length=16, seed=0)[4:8]
    strategy = next(strategy for strategy in profile.front() if strategy.divergence.measured)
    kept = profile.rank_parts().keep(decoder, strategy.units)
    with torch.no_grad():
        log_p = model(windows, use_cache=False).logits.log_softmax(-1)
        with reduced(decoder, kept, find_parts(decoder).values()):
            log_q = model(windows, use_cache=False).logits.log_softmax(-1)
    found = (log_p.exp() * (log_p - log_q)).sum(-1).mean().item()
    assert strategy.divergence.mean == pytest.approx(found, rel=1e-3)


def test_provenance_counts_what_ranking_and_interactions_cost(profile):
    provenance = profile.provenance
    assert provenance["start_tokens"] > 8 * 16 + 32 * 9
    assert provenance["parts"] == {"ranking": "flap", "compensate": True, "round_to": 8}


def test_a_resumed_run_measures_nothing_twice(train, dense, text, trained):
    output, first = trained
    again = train_profile(
        dense, output, space="structured", calibration=[text], settings=TINY, units=UnitOptions(round_to=8), resume=True
    )
    assert again.provenance["evaluation_tokens"] == first.provenance["evaluation_tokens"]
    assert again.record.archive == first.record.archive


def test_without_compensation_blocks_leave_with_their_norms_and_nothing_is_gained(train):
    _, plain = train("plain", compensate=False, ranking="magnitude")
    sizes = plain.record.sizes
    assert not plain.rank_parts().compensate
    assert set(sizes.biases) == {(0, 0)}
    shares = [1.0, 1.0, *[0.0] * 6]
    block = sum(sizes.unit_params[:2]) + 2 * 32
    left = plain.costs.of("params", torch.tensor([shares], dtype=torch.float64))
    assert left.item() == sizes.total_params - block


def test_profiles_of_other_spaces_have_no_ranked_parts():
    with pytest.raises(ProfileError, match="of space 'depth' has no ranked parts"):
        load_profile("smollm2-135m-instruct-depth").rank_parts()


@pytest.mark.parametrize(
    ("space", "units", "message"),
    [
        ("depth", {"ranking": "wanda"}, "ranking goes with the space 'structured', not with 'depth'"),
        ("sparsity", {"round_to": 4}, "round_to goes with the space 'structured', not with 'sparsity'"),
        ("structured", {"round_to": 0}, "round_to must be at least 1 neuron, got 0"),
        ("structured", {"granularity": "block"}, "^granularity goes with the space 'sparsity', not with 'structured'"),
    ],
)
def test_units_of_another_space_are_refused(dense, tmp_path, space, units, message):
    with pytest.raises((StrategyError, LevelsError), match=message):
        train_profile(dense, tmp_path / "out", space=space, units=UnitOptions(**units), settings=TINY)


def test_the_objective_without_ranked_parts_says_so(dense):
    decoder = find_decoder(load_model(dense))
    request = ObjectiveRequest(decoder, parts_space(decoder), torch.ones(1, 4, dtype=torch.long))
    with pytest.raises(CalibrationError, match="is measured with ranked parts, got none"):
        make_objective("divergence", request)
