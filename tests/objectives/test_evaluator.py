"""The evaluator against the slow way: drop the blocks for real, keep full logits, take KL in float32."""

import itertools
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import FAMILIES, VOCABULARY, tiny_model

from unicuco_plugin.errors import UnknownNameError
from unicuco_plugin.evaluation.comparison import compare_models
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.sublayers import sublayer_names, zero_outputs
from unicuco_plugin.models.blocks.surgery import dropped
from unicuco_plugin.objectives.divergence import DivergenceObjective
from unicuco_plugin.objectives.evaluator import DROPPED, KEPT, NO_ATTENTION, NO_MLP, BlockEvaluator
from unicuco_plugin.objectives.objective import ObjectiveRequest
from unicuco_plugin.objectives.prefixes import PrefixWalk
from unicuco_plugin.spaces.depth import DepthSpace

WINDOWS = torch.randint(3, VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(1))
# Nothing, one, the ends, shared prefixes, a duplicate in another order, and all but one.
CANDIDATES = [[], [2], [0], [5], [1, 3], [1, 3, 4], [4, 3, 1], [1, 4], [0, 1, 2, 3, 4], [1, 2, 3, 4, 5]]


@torch.inference_mode()
def plain_divergence(model, drop, windows, direction):
    """``m`` mean divergences per token, from full logits of the really pruned model."""
    log_p = model(input_ids=windows, use_cache=False).logits.log_softmax(-1, dtype=torch.float32)
    with dropped(model, drop):
        log_q = model(input_ids=windows, use_cache=False).logits.log_softmax(-1, dtype=torch.float32)
    if direction == "reverse":
        log_p, log_q = log_q, log_p
    return (log_p.double().exp() * (log_p.double() - log_q.double())).sum(-1).mean(-1)


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def expected(llama):
    return {tuple(sorted(drop)): plain_divergence(llama, drop, WINDOWS, "forward") for drop in CANDIDATES}


def windows_of(evaluations):
    return torch.tensor([e.per_window for e in evaluations], dtype=torch.float64)


@pytest.mark.parametrize(
    ("family", "direction"),
    [("llama", "reverse"), *((family, "forward") for family in FAMILIES)]
    + [pytest.param(family, "reverse", marks=pytest.mark.slow) for family in FAMILIES if family != "llama"],
)
def test_one_batch_of_candidates_equals_plain_forwards_of_the_really_pruned_model(family, direction):
    model = tiny_model(family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = BlockEvaluator(find_decoder(model), WINDOWS, direction=direction).evaluate(CANDIDATES)
    for drop, evaluation in zip(CANDIDATES, found, strict=True):
        plain = plain_divergence(model, drop, WINDOWS, direction)
        torch.testing.assert_close(torch.tensor(evaluation.per_window).double(), plain, rtol=1e-5, atol=1e-6)
        assert evaluation.value == pytest.approx(plain.mean().item(), rel=1e-5, abs=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("positions", [1, 7, 20, 128])
@pytest.mark.parametrize("batch_windows", [1, 2, 3, 50])
def test_the_values_do_not_depend_on_how_work_is_batched(llama, expected, batch_windows, positions):
    evaluator = BlockEvaluator(find_decoder(llama), WINDOWS, batch_windows=batch_windows, positions=positions)
    plain = torch.stack([expected[tuple(sorted(drop))] for drop in CANDIDATES])
    torch.testing.assert_close(windows_of(evaluator.evaluate(CANDIDATES)), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@settings(max_examples=15)
@given(st.lists(st.sets(st.integers(0, 5), max_size=5), min_size=1, max_size=6))
def test_a_candidate_scores_the_same_alone_and_in_any_company(llama, sets):
    evaluator = BlockEvaluator(find_decoder(llama), WINDOWS)
    alone = windows_of([evaluator.evaluate([sorted(drop)])[0] for drop in sets])
    assert torch.equal(windows_of(evaluator.evaluate([sorted(drop) for drop in sets])), alone)
    fresh = BlockEvaluator(find_decoder(llama), WINDOWS)
    assert torch.equal(windows_of(fresh.evaluate([sorted(drop) for drop in reversed(sets)])), alone.flip(0))


def test_the_same_batch_twice_gives_the_same_bits(llama):
    first, second = (BlockEvaluator(find_decoder(llama), WINDOWS).evaluate(CANDIDATES) for _ in range(2))
    assert [e.per_window for e in first] == [e.per_window for e in second]


def test_equal_candidates_have_equal_bits_and_the_empty_one_none(llama):
    found = BlockEvaluator(find_decoder(llama), WINDOWS).evaluate([[1, 3], [], [3, 1]])
    assert found[0].per_window == found[2].per_window
    assert found[1].per_window == (0.0, 0.0, 0.0)


def test_no_candidates_give_no_evaluations(llama):
    assert BlockEvaluator(find_decoder(llama), WINDOWS).evaluate([]) == []


def test_every_scored_position_is_a_token_whether_its_states_were_shared_or_not(llama):
    evaluator = BlockEvaluator(find_decoder(llama), WINDOWS)
    assert evaluator.tokens_per_candidate == 60
    assert [e.tokens for e in evaluator.evaluate([[5], [5], []])] == [60, 60, 60]


def test_shared_work_is_done_once(llama, monkeypatch):
    evaluator = BlockEvaluator(find_decoder(llama), WINDOWS)
    evaluator.evaluate([])
    ran = []
    own = evaluator._runner.run
    monkeypatch.setattr(evaluator._runner, "run", lambda i, states: ran.extend([i] * len(states)) or own(i, states))
    evaluator.evaluate([[1], [1, 4], [1, 4, 5], [4], [4]])
    # After block 1: one state runs 2 and 3 for three candidates; then 4 and 5 for those who keep them.
    nodes = {2: 1, 3: 1, 4: 1, 5: 3}  # [1] runs 4, 5; [1, 4] runs 5; [4] runs 5; [1, 4, 5] nothing more
    assert {i: ran.count(i) // len(WINDOWS) for i in set(ran)} == nodes


def test_states_are_kept_between_batches_while_there_is_room(llama, monkeypatch):
    decoder = find_decoder(llama)
    ran = {"plenty": 0, "none": 0}
    values = {}
    for name, room in (("plenty", 2**28), ("none", 0)):
        evaluator = BlockEvaluator(decoder, WINDOWS, cache_bytes=room)
        evaluator.evaluate([])
        own = evaluator._runner.run

        def count(index, states, name=name, own=own):
            ran[name] += 1
            return own(index, states)

        monkeypatch.setattr(evaluator._runner, "run", count)
        values[name] = [evaluator.evaluate([drop])[0].value for drop in ([1], [1, 4], [1], [1, 5])]
        walk = evaluator._walk
        assert walk._kept_bytes == sum(states.nbytes for states in walk._kept.values()) <= room
    assert values["plenty"] == values["none"]
    assert ran == {"plenty": 4 + 1, "none": 4 + 3 + 4 + 3}


@pytest.mark.parametrize("positions", [2, 6, 64])
def test_logits_of_more_positions_than_asked_never_exist(llama, monkeypatch, positions):
    evaluator = BlockEvaluator(find_decoder(llama), WINDOWS, positions=positions)
    shapes = []
    own = evaluator._runner.logits
    monkeypatch.setattr(evaluator._runner, "logits", lambda states: shapes.append(states.shape) or own(states))
    evaluator.evaluate(CANDIDATES)
    # The dense model's and one pruned model's exist together.
    assert positions / 2 < 2 * max(shape[0] * shape[1] for shape in shapes) <= positions


def tensors_within(value, seen):
    """All tensors that an object holds, through containers and plain objects, models left out."""
    if id(value) in seen or isinstance(value, torch.nn.Module):
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from itertools.chain.from_iterable(tensors_within(v, seen) for v in value.values())
    elif isinstance(value, list | tuple | set):
        yield from itertools.chain.from_iterable(tensors_within(v, seen) for v in value)
    elif hasattr(value, "__dict__"):
        yield from tensors_within(vars(value), seen)


def test_no_tensor_of_full_logits_is_kept(llama):
    evaluator = BlockEvaluator(find_decoder(llama), WINDOWS)
    evaluator.evaluate(CANDIDATES)
    kept = list(tensors_within(evaluator, set()))
    assert any(tensor.shape == (3, 20, 32) for tensor in kept)  # the dense states
    assert all(VOCABULARY not in tensor.shape for tensor in kept)


@pytest.mark.parametrize("first", [True, False], ids=["dense states", "a candidate"])
def test_an_exception_inside_a_block_leaves_model_and_evaluator_usable(llama, expected, first, monkeypatch):
    evaluator = BlockEvaluator(find_decoder(llama), WINDOWS)
    if not first:
        evaluator.evaluate([])
    places = {name: sorted(vars(module)) for name, module in llama.named_modules()}

    def boom(*_):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(type(llama.model.layers[4].mlp), "forward", boom)
        with pytest.raises(ZeroDivisionError):
            evaluator.evaluate([[1]])
    assert {name: sorted(vars(module)) for name, module in llama.named_modules()} == places
    torch.testing.assert_close(windows_of(evaluator.evaluate([[1, 3]]))[0], expected[(1, 3)], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_bfloat16_differs_by_rounding_only(direction):
    # No second route here: a bfloat16 state rounds differently in another batch. Both stay near float32.
    half = BlockEvaluator(find_decoder(tiny_model("llama").bfloat16()), WINDOWS, direction=direction)
    full = BlockEvaluator(find_decoder(tiny_model("llama")), WINDOWS, direction=direction)
    torch.testing.assert_close(
        windows_of(half.evaluate(CANDIDATES)).mean(1),
        windows_of(full.evaluate(CANDIDATES)).mean(1),
        rtol=0.1,
        atol=0.02,
    )


@pytest.fixture
def request_of(llama):
    decoder = find_decoder(llama)
    space = DepthSpace(decoder.block_names, (1,) * 6)
    return ObjectiveRequest(decoder, space, WINDOWS)


def test_the_objective_measures_strategies_of_the_depth_space(request_of, expected):
    X = torch.stack([request_of.space.parse("1,3"), request_of.space.parse("2")])
    found = DivergenceObjective(request_of).evaluate(X)
    torch.testing.assert_close(windows_of(found), torch.stack([expected[(1, 3)], expected[(2,)]]), rtol=1e-5, atol=1e-6)


def test_the_objective_refuses_another_space(request_of):
    class Other(DepthSpace):
        name = "height"

    other = ObjectiveRequest(request_of.decoder, Other(("a", "b"), (1, 1), name="height"), WINDOWS)
    spaces = "depth, sublayer, structured, sparsity, precision, compound"
    rule = rf"^the divergence objective serves the spaces {spaces}, got 'height'$"
    with pytest.raises(UnknownNameError, match=rule):
        DivergenceObjective(other)


@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3", "gpt_neox"])
def test_halves_of_blocks_are_as_good_as_zero_output_projections(family):
    decoder = find_decoder(tiny_model(family, blocks=3))
    windows = torch.randint(3, 128, (5, 12), generator=torch.Generator().manual_seed(3))
    parts = [(NO_MLP, NO_ATTENTION, KEPT), (NO_MLP, DROPPED, KEPT), (NO_ATTENTION, NO_MLP, NO_ATTENTION), (KEPT,) * 3]
    found = BlockEvaluator(decoder, windows, batch_windows=2).evaluate_parts(parts)
    for candidate, evaluation in zip(parts, found, strict=True):
        other = find_decoder(tiny_model(family, blocks=3))
        attentions, mlps = sublayer_names(other)
        silent = [attentions[index] for index, gone in enumerate(candidate) if gone & NO_ATTENTION]
        silent += [mlps[index] for index, gone in enumerate(candidate) if gone & NO_MLP]
        zero_outputs(other, silent)
        expected = compare_models(decoder.model, other.model, windows).divergence.mean
        assert evaluation.value == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert not any(module._forward_hooks for module in decoder.model.modules())


def test_both_halves_are_the_block_and_common_prefixes_run_once(monkeypatch):
    decoder = find_decoder(tiny_model("llama", blocks=4))
    windows = torch.randint(3, 128, (2, 12), generator=torch.Generator().manual_seed(3))
    evaluator = BlockEvaluator(decoder, windows)
    [block] = evaluator.evaluate([[1]])
    runs = []
    run = PrefixWalk._run
    monkeypatch.setattr(PrefixWalk, "_run", lambda self, i, states: runs.append(i) or run(self, i, states))
    found = evaluator.evaluate_parts([(0, 3, 0, 0), (1, 0, 0, 0), (1, 0, 0, 2), (1, 0, 3, 0)])
    assert found[0].value == block.value
    assert runs == [0, 1, 2, 3, 3, 3]  # the prefix (1, 0) twice shared, then (1, 0, 0) once


def test_candidates_must_cover_every_block():
    evaluator = BlockEvaluator(find_decoder(tiny_model("llama", blocks=3)), torch.ones(1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"^candidates must have one number for each of 3 blocks$"):
        evaluator.evaluate_parts([(1,)])


def test_an_evaluator_is_freed_at_once_with_the_states_it_keeps(llama, no_collector):
    evaluator = BlockEvaluator(find_decoder(llama), WINDOWS)
    evaluator.evaluate_parts([[NO_ATTENTION, NO_MLP, DROPPED, KEPT, KEPT, KEPT]])
    states = weakref.ref(evaluator._walk)
    del evaluator
    assert states() is None
