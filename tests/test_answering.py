"""Answers of a profile whose problem is known: ten blocks of five parameters in a checkpoint of 73."""

import json
import re
from dataclasses import replace

import pytest
import torch
from analytic import SPACE, optimum, value_of
from analytic_profile import TOTAL_BYTES, TOTAL_PARAMS, build, train_analytic
from hypothesis import given
from hypothesis import strategies as st

from unicuco_plugin.answering import PACKAGED, Profile, load_profile, packaged_profiles
from unicuco_plugin.costs.table import KeptState, ServingTable
from unicuco_plugin.errors import ProfileError, RequestError, UnknownNameError
from unicuco_plugin.policy.stratnet import StratNet
from unicuco_plugin.profile import write_profile
from unicuco_plugin.request import Request
from unicuco_plugin.strategy import Strategy


@pytest.fixture(scope="module")
def result():
    return train_analytic()


@pytest.fixture(scope="module")
def profile(result):
    return Profile(*build(result))


@pytest.fixture(scope="module")
def served(result):
    """The same with a table of caches: every block keeps one number of two bytes for a token."""
    record, tensors = build(result)
    kept = [KeptState(holder=f"{unit}.attn", numbers=1) for unit in SPACE.units]
    sizes = record.sizes.model_copy(update={"serving": ServingTable(kept=kept, widest=1, logits=1)})
    return Profile(record.model_copy(update={"sizes": sizes}), tensors)


@pytest.fixture(scope="module")
def ends(profile):
    """The upper ends of the intervals of each budget's best."""
    return [strategy.divergence.interval90[1] for strategy in profile.front()]


def removed(strategy):
    return len(strategy.units)


@pytest.mark.slow
@given(share=st.floats(0.001, 0.9))
def test_a_sparsity_removes_the_fewest_blocks_that_reach_it(profile, share):
    strategy = profile.answer(sparsity=share)
    assert removed(strategy) == next(k for k in range(1, 10) if k / 10 >= share - 1e-9)
    assert strategy.sparsity == pytest.approx(removed(strategy) / 10)


@given(limit=st.integers(TOTAL_PARAMS - 45, 2 * TOTAL_PARAMS))
def test_a_number_of_parameters_removes_as_little_as_it_must(profile, limit):
    strategy = profile.answer(max_params=limit)
    assert strategy.params == TOTAL_PARAMS - 5 * removed(strategy) <= limit
    assert removed(strategy) == 1 or strategy.params + 5 > limit


@given(limit=st.integers(TOTAL_BYTES - 90, 2 * TOTAL_BYTES))
def test_a_number_of_bytes_removes_as_little_as_it_must(profile, limit):
    strategy = profile.answer(max_bytes=limit)
    assert strategy.bytes == TOTAL_BYTES - 10 * removed(strategy) <= limit
    assert removed(strategy) == 1 or strategy.bytes + 10 > limit


@given(spare=st.floats(0.0, 20.0))
def test_a_divergence_removes_the_most_whose_intervals_upper_end_stays_within(profile, ends, spare):
    limit = min(ends) + spare
    strategy = profile.answer(max_divergence=limit)
    assert strategy.divergence.interval90[1] <= limit
    assert removed(strategy) == max(k for k, end in enumerate(ends, start=1) if end <= limit)


@given(share=st.floats(0.001, 0.9), params=st.integers(28, 80), size=st.integers(56, 160))
def test_of_limits_together_all_hold_and_the_tightest_decides(profile, share, params, size):
    alone = [profile.answer(sparsity=share), profile.answer(max_params=params), profile.answer(max_bytes=size)]
    strategy = profile.answer(sparsity=share, max_params=params, max_bytes=size)
    assert removed(strategy) == max(map(removed, alone))
    assert strategy.units in [other.units for other in alone]
    assert strategy.request == Request.of(sparsity=share, max_params=params, max_bytes=size)


@given(limit=st.integers(28, 68), spare=st.floats(0.0, 20.0))
def test_a_size_and_a_divergence_both_hold_or_say_by_how_much_either_would_have_to_give(profile, ends, limit, spare):
    divergence = min(ends) + spare
    least, most = profile.answer(max_params=limit), profile.answer(max_divergence=divergence)
    try:
        strategy = profile.answer(max_params=limit, max_divergence=divergence)
    except RequestError as error:
        assert not any(end <= divergence for end in ends[removed(least) - 1 :])
        found = re.search(
            r"give max_divergence ([0-9.]+) \(.* more\), or max_params ([0-9]+) \(([0-9]+) more\)$", str(error)
        )
        assert int(found[2]) == limit + int(found[3]) == most.params
        assert profile.answer(max_params=limit, max_divergence=float(found[1])).params <= limit
        assert profile.answer(max_params=int(found[2]), max_divergence=divergence) == most.model_copy(
            update={"request": Request.of(max_params=int(found[2]), max_divergence=divergence)}
        )
        return
    assert strategy.params <= limit
    assert strategy.divergence.interval90[1] <= divergence
    # The rest is as good as it gets: no less is removed than must be for both.
    assert all(end > divergence for end in ends[removed(least) - 1 : removed(strategy) - 1])


@given(size=st.floats(0.0, 1.0), limit=st.integers(28, 68), over=st.sampled_from([None, ("bytes", "divergence")]))
def test_a_preference_chooses_among_what_keeps_the_limits(profile, size, limit, over):
    strategy = profile.answer(preference=(size, 1.0 - size), over=over, max_params=limit, sparsity=0.1)
    assert strategy.params <= limit
    free = profile.answer(preference=(size, 1.0 - size), over=over)
    assert removed(strategy) >= removed(free) or removed(strategy) == removed(profile.answer(max_params=limit))


def test_a_preference_over_two_costs_leaves_divergence_to_a_limit(profile, ends):
    strategy = profile.answer(preference=(0.5, 0.5), over=("bytes", "params"), max_divergence=ends[3])
    assert removed(strategy) == max(k for k, end in enumerate(ends, start=1) if end <= ends[3])
    with pytest.raises(
        RequestError, match=r"^over must name two of params, bytes, divergence for this profile, got 'bits'$"
    ):
        profile.answer(preference=(1, 1), over=("bits", "bytes"))


@given(low=st.floats(0.001, 0.9), high=st.floats(0.001, 0.9))
def test_more_sparsity_never_leaves_a_larger_model(profile, low, high):
    smaller, larger = (profile.answer(sparsity=share) for share in sorted((low, high)))
    assert smaller.params >= larger.params
    assert smaller.bytes >= larger.bytes


@given(low=st.floats(0.0, 20.0), high=st.floats(0.0, 20.0))
def test_more_divergence_never_leaves_a_larger_model(profile, ends, low, high):
    less, more = (profile.answer(max_divergence=min(ends) + spare) for spare in sorted((low, high)))
    assert less.params >= more.params


def test_answers_are_near_the_true_optimum(profile):
    for strategy in profile.front():
        x = SPACE.from_units(strategy.units)
        assert value_of(x) <= 1.35 * optimum(removed(strategy))[1]


def test_the_extremes_of_the_preference_are_the_smallest_and_the_least_harmed_model(profile):
    front = profile.front()
    assert removed(profile.answer(preference=(1, 0))) == 9
    least = min(front, key=lambda strategy: strategy.divergence.mean)
    assert profile.answer(preference=(0, 1)).units == least.units


def test_a_preference_for_size_never_leaves_a_larger_model(profile):
    counts = [removed(profile.answer(preference=(i, 20 - i))) for i in range(21)]
    assert counts == sorted(counts)
    assert len(set(counts)) > 3


@pytest.mark.parametrize("scalarization", ["weighted_sum", "tchebycheff", "pbi"])
@pytest.mark.parametrize("quality", ["log", "raw"])
def test_every_scalarization_answers_preferences(result, scalarization, quality):
    profile = Profile(*build(result, scalarization=scalarization, quality=quality))
    counts = [removed(profile.answer(preference=p)) for p in ((0.02, 0.98), (0.98, 0.02))]
    assert counts[0] < counts[1]


@pytest.mark.parametrize(
    ("kind", "nonsense"), [("sparsity", 0.99), ("max_params", 1), ("max_bytes", 1), ("max_divergence", 1e-6)]
)
def test_a_request_that_cannot_be_met_names_one_that_can(profile, kind, nonsense):
    with pytest.raises(RequestError) as caught:
        profile.answer(**{kind: nonsense})
    found = re.match(rf"^{kind} must be at (most|least) ([0-9.]+) .*, got {nonsense}$", str(caught.value))
    bound = float(found[2])
    assert profile.answer(**{kind: bound if kind in {"sparsity", "max_divergence"} else int(bound)})


def test_the_refusals_are_exactly_these(profile):
    with pytest.raises(
        RequestError, match=r"^sparsity must be at most 0\.9 for this profile \(9 of 10 units\), got 0\.95$"
    ):
        profile.answer(sparsity=0.95)
    message = r"^max_params must be at least 28 for this profile, with all units but one removed, got 27$"
    with pytest.raises(RequestError, match=message):
        profile.answer(max_params=27)
    with pytest.raises(RequestError, match=r"^give a request or its field, not both; got "):
        profile.answer(Request.of(sparsity=0.5), sparsity=0.5)
    with pytest.raises(RequestError, match=r"^a request has one or more of "):
        profile.answer()


@given(limit=st.integers(190, 300), context=st.integers(1, 64), batch=st.integers(1, 3))
def test_memory_is_kept_to_and_shown_in_its_parts(served, limit, context, batch):
    cache = batch * 16 * -(-context // 16) * 2
    dense = TOTAL_BYTES + 10 * cache + 2 * context * batch + 14 * batch
    try:
        strategy = served.answer(max_memory=limit, context=context, batch=batch)
    except RequestError as error:
        least = dense - 9 * (10 + cache)
        assert least > limit
        assert re.match(rf"^max_memory must be at least {least} ", str(error))
        return
    assert strategy.memory.total == dense - (10 + cache) * removed(strategy) <= limit
    assert removed(strategy) == 1 or strategy.memory.total + 10 + cache > limit
    assert strategy.memory.weights == strategy.bytes
    assert Strategy.from_dict(json.loads(strategy.to_json())) == strategy
    assert served.answer(sparsity=0.3, context=context, batch=batch).memory.total == dense - 3 * (10 + cache)


def test_memory_of_a_profile_that_knows_no_caches_says_what_to_do(profile):
    with pytest.raises(
        RequestError, match=r"^memory at context 8 cannot be told by this profile, which has no table of"
    ):
        profile.answer(max_memory=100, context=8)
    with pytest.raises(
        RequestError, match=r"train it again with --resume, which measures nothing anew, or ask for max_b"
    ):
        profile.answer(sparsity=0.3, context=8)


@pytest.mark.slow
def test_head_groups_go_rather_than_neurons_where_the_cache_is_large():
    profile = load_profile("smollm2-135m-instruct-structured")
    limits = {"max_memory": 600_000_000, "context": 8192, "batch": 2}
    strategy = profile.answer(**limits, sparsity=0.02, max_bytes=268_000_000)
    assert strategy.memory.total <= 600_000_000
    assert strategy.sparsity >= 0.02
    assert strategy.bytes <= 268_000_000
    lighter = profile.answer(max_bytes=strategy.bytes)
    heads = [sum(s for unit, s in one.units.items() if unit.endswith("attn")) for one in (strategy, lighter)]
    assert heads[0] > heads[1]


@pytest.mark.slow
def test_a_limit_on_memory_that_does_not_bind_changes_no_answer_by_weights():
    profile = load_profile("smollm2-135m-instruct-structured")
    loose = {"max_memory": 10**12, "context": 8192, "batch": 8}
    requests = [{"sparsity": 0.1}, {"max_bytes": 240_000_000}, {"preference": (0.5, 0.5)}]
    answers = profile.answer_many([Request.of(**fields, **loose) for fields in requests])
    assert [one.units for one in answers] == [profile.answer(**fields).units for fields in requests]
    with pytest.raises(RequestError, match=r"^max_memory must be at least \d+ for this profile"):
        profile.answer(sparsity=0.1, **loose | {"max_memory": 10**6})
    # One that weights cannot meet is left to the race by memory, and keeps no other from its answer.
    assert [*profile._views._met({7: Request.of(sparsity=0.1), 8: Request.of(max_bytes=1000)})] == [7]


def test_sixty_four_requests_are_answered_as_one_by_one(profile, ends):
    requests = [Request.of(sparsity=0.01 + 0.88 * i / 16) for i in range(16)]
    requests += [Request.of(max_params=30 + i) for i in range(16)]
    requests += [Request.of(max_divergence=min(ends) + 0.2 * i) for i in range(16)]
    requests += [Request.of(preference=(i, 15 - i)) for i in range(16)]
    together = profile.answer_many(requests)
    assert together == [profile.answer(request) for request in reversed(requests)][::-1]
    assert [strategy.request for strategy in together] == requests


def test_a_loaded_profile_answers_the_same_in_another_order(profile, result, tmp_path):
    write_profile(tmp_path / "p", *build(result))
    loaded = load_profile(tmp_path / "p")
    assert loaded.answer(preference=(0.5, 0.5)) == profile.answer(preference=(0.5, 0.5))
    assert loaded.front() == profile.front()


def test_a_strategy_returns_from_its_json(profile):
    for strategy in profile.front():
        assert Strategy.from_dict(json.loads(strategy.to_json())) == strategy


def test_a_confirmed_strategy_is_said_to_be_measured_and_another_predicted(profile, result):
    confirmed = {row.key: row for row in result.confirmed}
    for strategy in profile.front():
        row = confirmed.get(SPACE.key(SPACE.from_units(strategy.units)))
        assert strategy.divergence.measured is (row is not None)
        if row:
            assert strategy.divergence.mean == row.value
        assert strategy.divergence.interval90[0] <= strategy.divergence.mean <= strategy.divergence.interval90[1]


def test_predictions_are_near_what_was_confirmed(profile, result):
    for row in result.confirmed:
        low, high = profile.predict(SPACE.parse(row.key)).interval90
        assert 0.5 * low <= row.value <= 2.0 * high


@pytest.mark.parametrize("source", ["archive", "stratnet"])
def test_each_source_can_be_asked_alone(profile, source):
    strategy = profile.proposals(Request.of(sparsity=0.3), source)
    assert (removed(strategy), strategy.source) == (3, source)


def test_one_source_alone_has_no_answer_to_a_preference(profile):
    with pytest.raises(RequestError, match=r"^proposals of one source need a budget, got a preference$"):
        profile.proposals(Request.of(preference=(1, 1)), "archive")


def test_a_source_without_a_strategy_says_so(result):
    profile = Profile(*build(result, archive=slice(0, 0)))
    with pytest.raises(RequestError, match=r"^archive has no strategy for \{'sparsity': 0\.3\}$"):
        profile.proposals(Request.of(sparsity=0.3), "archive")


def sources(record, tensors):
    return [strategy.source for strategy in Profile(record, tensors).front()]


def test_the_archive_wins_a_budget_that_was_measured_whole(result):
    record, tensors = build(result)
    singles = tuple(entry for entry in record.archive if SPACE.parse(entry.strategy).sum() == 1)
    assert len(singles) == 10
    assert sources(record.model_copy(update={"archive": singles}), tensors)[0] == "archive"


def test_stratnet_wins_budgets_where_nothing_is_measured(result):
    assert "stratnet" in sources(*build(result, archive=slice(0, 0)))


def test_neighbours_win_budgets_where_stratnet_knows_nothing_and_nothing_is_measured(result):
    unlearned = replace(result, net=StratNet(10, torch.Generator().manual_seed(5)))
    assert "neighbour" in sources(*build(unlearned, archive=slice(0, 0)))


def test_a_profile_without_an_archive_still_answers(result):
    profile = Profile(*build(result, archive=slice(0, 0)))
    assert [removed(strategy) for strategy in profile.front()] == list(range(1, 10))
    assert not any(strategy.divergence.measured for strategy in profile.front())


def test_loading_and_answering_leave_the_global_generator_alone(result):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    Profile(*build(result)).front()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ideal": (1.0, 0.0), "nadir": (0.0, 1.0)}, "profile analytic is damaged: nadir of size must be above"),
        ({"units": SPACE.units[:9]}, "profile analytic is damaged: "),
    ],
    ids=["scale", "units"],
)
def test_a_record_that_does_not_fit_its_tensors_is_refused(result, changes, message):
    with pytest.raises(ProfileError, match=f"^{message}"):
        record, tensors = build(result, archive=slice(0, 0))
        Profile(record.model_copy(update=changes), tensors)


def test_a_profile_of_a_space_that_no_plugin_knows_is_refused(result):
    with pytest.raises(UnknownNameError, match=r"^space must be one of .*; got 'height'$"):
        Profile(*build(result, space="height"))


@pytest.mark.slow
@pytest.mark.parametrize("name", packaged_profiles())
def test_a_packaged_profile_loads_by_name_and_is_small(name):
    profile = load_profile(name)
    assert profile.name == name
    assert len(profile.front()) == len(profile.search_space.budgets) > 1
    assert sum(path.stat().st_size for path in (PACKAGED / name).iterdir()) < 2**20


@pytest.mark.slow
def test_the_packaged_compound_profile_drops_blocks_where_bits_alone_do_not_reach_and_keeps_to_its_bytes():
    compound, bits = (load_profile(f"smollm2-135m-instruct-{space}") for space in ("compound", "precision"))
    for limit in (100_000_000, 90_000_000):
        answer = compound.answer(max_bytes=limit)
        assert answer.bytes <= limit < answer.bytes + 1_000_000
        assert 1.0 in answer.units.values()
    assert bits.answer(max_bytes=100_000_000).divergence.mean > compound.answer(max_bytes=100_000_000).divergence.mean
    with pytest.raises(RequestError, match=r"^max_bytes must be at least 576"):
        compound.answer(max_bytes=50_000_000)
