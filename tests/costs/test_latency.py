"""Milliseconds and speed as limits, on packaged profiles with a made table."""

from dataclasses import replace

import pytest
import torch
from device_tables import made_table, seen

from unicuco_plugin.answering import Profile, load_profile
from unicuco_plugin.costs.device_table import DeviceTable
from unicuco_plugin.costs.latency import TimedCosts, under_load
from unicuco_plugin.costs.untimed import why_untimed
from unicuco_plugin.errors import ModelMismatchError, RequestError
from unicuco_plugin.profile import find_profile, read_profile
from unicuco_plugin.quantities import Load

NAMES = {space: f"smollm2-135m-instruct-{space}" for space in ("depth", "structured", "sparsity", "precision")}
READ = {space: read_profile(find_profile(name)) for space, name in NAMES.items()}
FINGERPRINT = READ["depth"][0].model.fingerprint
DENSE = 8.0 + 30 * 3.05
LOAD = {"context": 100}
made_at = DeviceTable.at


def profile(space, **table):
    return Profile(*READ[space], made_table(FINGERPRINT, **table))


DEPTH, STRUCTURED = profile("depth"), profile("structured")


def timed(answering, context=100, **load):
    return under_load(answering.costs, Load(context, **load))


def test_a_dropped_block_saves_both_of_its_halves():
    costs = timed(DEPTH)
    row = costs.costs.row({"model.layers.3": 1.0, "model.layers.7": 1.0})
    assert costs.of("latency", row).item() == pytest.approx(DENSE - 2 * 3.05)
    assert costs.of("time", row).item() == pytest.approx(1.0 - 2 * 3.05 / DENSE)
    assert costs.milliseconds("prefill", row).item() == pytest.approx(10.0 * (DENSE - 2 * 3.05))


def test_parts_are_interpolated_absent_modules_take_what_was_timed_and_blocks_that_leave_nothing():
    costs, first, second = timed(STRUCTURED), "model.layers.0", "model.layers.1"
    shares = {f"{first}.self_attn": 1 / 3, f"{first}.mlp": 1.0, f"{second}.self_attn": 1.0, f"{second}.mlp": 1.0}
    saved = (1.0 - 0.8) + (2.05 - 0.05) + 3.05
    assert costs.of("latency", costs.costs.row(shares)).item() == pytest.approx(DENSE - saved)
    narrow = costs.costs.row({f"{first}.mlp": 1.0 - 400 / 1536})
    left = 0.25 + (400 - 32) / (768 - 32) * (1.1 - 0.25)
    assert costs.of("latency", narrow).item() == pytest.approx(DENSE - 2.05 + left)


def test_wider_is_never_faster_whatever_noise_says():
    costs = timed(profile("structured", attention={0: 0.1, 1: 1.4, 2: 0.8, 3: 1.0}))
    x = torch.stack([costs.costs.row({"model.layers.0.self_attn": k / 3})[0] for k in range(4)])
    times = costs.of("latency", x)
    assert (times.diff() <= 1e-12).all()


@pytest.mark.parametrize("answering", [DEPTH, STRUCTURED], ids=["depth", "structured"])
@pytest.mark.parametrize("price", ["", "latency", "time"])
def test_times_fall_by_no_more_for_a_share_than_they_say(answering, price):
    costs = under_load(answering.costs, Load(100, phase="prefill"), price)
    assert isinstance(costs, TimedCosts)
    generator = torch.Generator().manual_seed(0)
    counts = costs._counts
    x = (torch.rand(64, len(counts), generator=generator, dtype=torch.float64) * (counts + 1)).floor() / counts
    weights = costs._weights
    for name in costs.names:
        _, most = costs.falls(name)
        fallen = costs.of(name, torch.zeros_like(x[:1])).double() - costs.of(name, x).double()
        within = fallen <= most * (x @ weights) / weights.sum() + 1e-6
        # Parts that leave bring biases or take what is beside them along, which falls() does not count.
        assert within.all() or (answering is STRUCTURED and name in ("params", "bytes")), name


@pytest.mark.parametrize(
    "answering", [DEPTH, pytest.param(STRUCTURED, marks=pytest.mark.slow)], ids=["depth", "structured"]
)
def test_an_answer_keeps_milliseconds_and_says_what_it_takes(answering):
    answer = answering.answer(max_latency="80ms", **LOAD)
    assert 75.0 < answer.latency.decode <= 80.0
    assert answer.latency.dense_decode == pytest.approx(DENSE)
    assert answer.latency.device == "a card"
    fewer = answering.answer(max_latency=75.0, **LOAD)
    assert fewer.latency.decode <= 75.0
    assert fewer.divergence.mean > answer.divergence.mean


@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_an_answer_is_as_much_faster_than_dense_as_asked(phase):
    answer = DEPTH.answer(min_speedup=1.3, phase=phase, **LOAD)
    dense, own = (getattr(answer.latency, f"{which}{phase}") for which in ("dense_", ""))
    assert 1.3 <= dense / own < 1.4


def test_all_of_several_limits_hold():
    answer = DEPTH.answer(max_latency="85ms", max_bytes="215MB", max_memory="300MB", **LOAD)
    assert answer.latency.decode <= 85.0
    assert answer.bytes <= 215 * 10**6
    assert answer.memory.total <= 3 * 10**8


def test_what_cannot_be_had_names_the_limit_that_binds_and_by_how_much():
    with pytest.raises(RequestError, match=r"max_latency must be at least 11\.05 for this profile, with .* got 2\.0"):
        DEPTH.answer(max_latency="2ms", **LOAD)
    with pytest.raises(RequestError, match=r"min_speedup must be at most 9\.00452 for this profile, .*, got 20\.0"):
        DEPTH.answer(min_speedup=20, **LOAD)
    give = r"max_divergence 0\.7 cannot be met with min_speedup in this .* or min_speedup 1\.\d+ \(0\.\d+ less\)$"
    with pytest.raises(RequestError, match=give):
        DEPTH.answer(min_speedup=1.5, max_divergence=0.7, **LOAD)


def test_a_limit_that_the_best_of_the_others_keeps_anyhow_changes_nothing():
    free = STRUCTURED.answer(sparsity=0.25)
    assert STRUCTURED.answer(sparsity=0.25, max_latency="99ms", **LOAD).units == free.units


@pytest.mark.slow  # for races of their own
def test_units_are_priced_by_time_where_it_binds():
    slow = profile("structured", attention={0: 0.1, 1: 6.0, 2: 8.0, 3: 10.0})
    answer = slow.answer(min_speedup=1.2, **LOAD)
    gone = {kind: sum(s for u, s in answer.units.items() if u.endswith(kind)) for kind in ("self_attn", "mlp")}
    assert gone["self_attn"] > gone["mlp"]
    by_weights = min(slow.costs.params)  # of the smallest unit, an attention: what it costs beside what it saves
    assert under_load(slow.costs, Load(100), "time").prices[0] > by_weights


@pytest.mark.slow  # for the whole front
def test_time_is_weighed_like_any_cost():
    answers = [
        DEPTH.answer(preference=(w, 1 - w), over=("latency", "divergence"), **LOAD).latency.decode for w in (0.2, 0.9)
    ]
    assert answers[1] < answers[0]


def test_later_predictions_are_corrected_by_what_was_observed():
    corrected = profile("depth", observations=(seen(50.0, 60.0),))
    row = corrected.costs.row({"model.layers.3": 1.0})
    assert timed(corrected).of("latency", row).item() == pytest.approx(1.2 * (DENSE - 3.05))
    assert timed(corrected).of("time", row).item() == pytest.approx(1.2 * (1.0 - 3.05 / DENSE))
    assert timed(corrected, 200).of("latency", row).item() == pytest.approx(timed(DEPTH, 200).of("latency", row).item())
    assert timed(corrected).milliseconds("prefill", row).item() == pytest.approx(10 * (DENSE - 3.05))
    answer = corrected.answer(max_latency="80ms", **LOAD).latency
    assert answer.decode <= 80.0
    assert (answer.scale_decode, answer.scale_prefill) == pytest.approx((1.2, 1.0))


def test_a_machine_that_has_become_faster_makes_no_strategy_faster_than_dense():
    drifted = profile("depth", observations=(seen(50.0, 0.75 * 50.0, dense=(90.0, 0.75 * 90.0)),))
    row = drifted.costs.row({"model.layers.3": 1.0})
    assert timed(drifted).of("time", row).item() == pytest.approx(1.0 - 3.05 / DENSE)


def test_halves_that_leave_are_corrected_by_such_alone():
    costs = replace(DEPTH.costs, space="sublayer")
    for absent, space in ((True, "sublayer, deci"), (False, "sublayer")):
        own, other = (
            made_table(FINGERPRINT, observations=(seen(10.0, 20.0, space=s),))
            for s in (space, "sublayer" if absent else "sublayer, deci")
        )
        kept = replace(costs, physical=absent)
        for table, scale in ((own, 2.0), (other, 1.0)):
            assert TimedCosts(kept, table, "sublayer", Load(100)).latency(kept.row({})).scale_decode == scale


def test_what_is_read_for_a_load_is_read_once(monkeypatch):
    asked, answering = [], profile("depth")
    monkeypatch.setattr(DeviceTable, "at", lambda *args: asked.append(args) or made_at(*args))
    for _ in range(3):
        answering.answer(sparsity=0.25, context=137)  # which no other test asks
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("space", "why"),
    [("sparsity", "unstructured sparsity brings no speed"), ("precision", "store weights by schemes")],
)
def test_spaces_that_bring_no_speed_here_say_why(space, why):
    other = profile(space)
    assert why in why_untimed(other.costs)
    with pytest.raises(RequestError, match=f"max_latency cannot be asked of this profile: .*{why}"):
        other.answer(max_latency="50ms", **LOAD)


def test_without_a_table_an_error_says_how_to_make_one():
    with pytest.raises(RequestError, match="it needs times of the device: unicuco profile-device --model M"):
        load_profile(NAMES["depth"]).answer(max_latency="50ms", **LOAD)


def test_a_table_of_another_model_is_refused():
    with pytest.raises(ModelMismatchError, match="profile the device with that model"):
        Profile(*READ["depth"], made_table("0000.1111"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_latency": "30"}, "max_latency must be a time with a unit, such as 30ms, 0.03s or 250us, got '30'"),
        ({"max_latency": "30ms"}, "max_latency needs context, the tokens of a sequence, such as 8192; got none"),
        ({"max_latency": 0.0, "context": 9}, "max_latency must be positive, got 0.0"),
        ({"min_speedup": 1.0, "context": 9}, "min_speedup must be above 1, got 1.0"),
        ({"max_latency": 5, "phase": "prefill", "context": 9}, "phase says what min_speedup is of, got 'prefill'"),
        ({"max_latency": "500ms", "context": 500}, "context must be in 100 to 300, where the device table has times"),
    ],
)
def test_a_wrong_request_is_refused(fields, message):
    with pytest.raises(RequestError) as caught:
        DEPTH.answer(**fields)
    assert message in str(caught.value)
    assert len(str(caught.value)) <= 300
