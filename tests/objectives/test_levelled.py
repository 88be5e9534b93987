"""Candidates stitched from a database against plain forwards of the stitched checkpoint."""

import pytest
import torch
from compressed_tensors.offload.cache import DiskCache
from tiny import FAMILIES, VOCABULARY, tiny_model

from unicuco_plugin.errors import LevelsError
from unicuco_plugin.levels.build import build_levels
from unicuco_plugin.levels.exchange import Stitching
from unicuco_plugin.levels.linear import LinearLevels
from unicuco_plugin.levels.settings import LevelSettings
from unicuco_plugin.levels.stitch import stitch
from unicuco_plugin.levels.store import Levels
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.runner import BlockRunner
from unicuco_plugin.models.loading import load_model
from unicuco_plugin.models.tensors.storage import kept_tensors
from unicuco_plugin.objectives.divergence import DivergenceObjective
from unicuco_plugin.objectives.levelled import LevelEvaluator
from unicuco_plugin.objectives.objective import ObjectiveRequest
from unicuco_plugin.objectives.sensitivity import TOKEN_COST, measure_slopes, uniform_plan
from unicuco_plugin.spaces.plan import plan_counts
from unicuco_plugin.spaces.sparsity import SparsitySpace
from unicuco_plugin.spaces.units import group_linears

WINDOWS = torch.randint(3, VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(1))
LADDER = (0.3, 0.5, 0.7)


def dense(family="llama"):
    return tiny_model(family, blocks=3)


def build(family, folder):
    settings = LevelSettings(sparsities=LADDER, block_size=16)
    return build_levels(find_decoder(dense(family)), WINDOWS, folder, name=family, settings=settings)


@pytest.fixture(scope="module")
def llama_levels(tmp_path_factory):
    return build("llama", tmp_path_factory.mktemp("levels") / "llama")


def plans(levels):
    sizes = levels.sizes
    names = list(sizes)
    return [
        {name: sizes[name] // 2 for name in names},
        {name: int(sizes[name] * (0.2 + 0.6 * i / len(names))) for i, name in enumerate(names)},
        {names[3]: sizes[names[3]] * 2 // 3},
        {},
    ]


@torch.no_grad()
def plain_divergence(family, levels, plan):
    model = dense(family)
    log_p = model(input_ids=WINDOWS, use_cache=False).logits.double().log_softmax(-1)
    stitch(find_decoder(model), levels, plan)
    log_q = model(input_ids=WINDOWS, use_cache=False).logits.double().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean(-1)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name in {"llama", "qwen3", "gemma3", "phi3"}])
def test_candidates_equal_plain_forwards_of_the_stitched_checkpoint(family, tmp_path):
    levels = build(family, tmp_path / "db")
    model = dense(family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = LevelEvaluator(Stitching(find_decoder(model), levels), WINDOWS).evaluate(plans(levels))
    for plan, evaluation in zip(plans(levels), found, strict=True):
        expected = plain_divergence(family, levels, plan)
        torch.testing.assert_close(torch.tensor(evaluation.per_window).double(), expected, rtol=1e-4, atol=1e-6)
        assert evaluation.tokens == WINDOWS.numel()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_failure_leaves_the_model_dense(llama_levels, monkeypatch):
    model = dense()
    evaluator = LevelEvaluator(Stitching(find_decoder(model), llama_levels), WINDOWS)
    evaluator.evaluate([])

    def boom(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(evaluator._head, "divergences", boom)
    with pytest.raises(ZeroDivisionError):
        evaluator.evaluate(plans(llama_levels)[:1])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), dense().parameters(), strict=True))


def test_each_level_that_a_batch_needs_is_decoded_once(llama_levels, monkeypatch):
    levels = Levels.open(llama_levels.folder)  # nothing is decoded yet
    evaluator = LevelEvaluator(Stitching(find_decoder(dense()), levels), WINDOWS, decoded_bytes=0)
    decoded, decode = [], LinearLevels.decode

    def counting(stored, level, place):
        decoded.append((stored.path, level))
        return decode(stored, level, place)

    monkeypatch.setattr(LinearLevels, "decode", counting)
    sizes = llama_levels.sizes
    shares = [0.45, 0.6, 0.48, 0.65]
    evaluator.evaluate([{name: int(size * share) for name, size in sizes.items()} for share in shares])
    assert len(decoded) == len(set(decoded)) == len(LADDER) * len(sizes)


def test_an_offloaded_block_is_read_once_for_a_batch_and_written_never(llama_levels, tmp_path, monkeypatch):
    dense().save_pretrained(tmp_path / "dense")
    decoder = find_decoder(load_model(tmp_path / "dense", offload="disk"))
    evaluator = LevelEvaluator(Stitching(decoder, llama_levels), WINDOWS, batch_windows=1)
    expected = LevelEvaluator(Stitching(find_decoder(dense()), llama_levels), WINDOWS, batch_windows=1)
    evaluator.evaluate([])
    reads, onload = [], DiskCache.onload
    monkeypatch.setattr(DiskCache, "onload", lambda cache, kept: reads.append(id(kept)) or onload(cache, kept))
    monkeypatch.setattr(DiskCache, "update_offload", None)
    values = evaluator.evaluate(plans(llama_levels))
    assert [value.per_window for value in values] == [v.per_window for v in expected.evaluate(plans(llama_levels))]
    with kept_tensors():
        assert sorted(reads) == sorted(id(parameter) for parameter in decoder.blocks.parameters())


@pytest.mark.parametrize("granularity", ["block", "sublayer", "linear"])
def test_the_objective_measures_strategies_by_their_plans(llama_levels, granularity):
    units = group_linears(llama_levels.sizes, granularity)
    space = SparsitySpace(tuple(units), tuple(units.values()))
    X = space.random(2, 0.55, torch.Generator().manual_seed(0))
    request = ObjectiveRequest(find_decoder(dense()), space, WINDOWS, levels=llama_levels)
    for row, evaluation in zip(X, DivergenceObjective(request).evaluate(X), strict=True):
        plan = plan_counts(space.to_units(row), llama_levels.sizes)
        assert sum(plan.values()) == round(0.55 * sum(llama_levels.sizes.values()))
        expected = plain_divergence("llama", llama_levels, plan).mean().item()
        assert evaluation.value == pytest.approx(expected, rel=1e-4)


def test_the_objective_needs_a_database_for_sparsity(llama_levels):
    space = SparsitySpace(("model.layers.0", "model.layers.1"), (1, 1))
    with pytest.raises(LevelsError, match=r"^the space 'sparsity' is measured on a level database of spars.*got none$"):
        DivergenceObjective(ObjectiveRequest(find_decoder(dense()), space, WINDOWS))


@torch.no_grad()
def mean_divergence(model, log_p):
    log_q = model(input_ids=WINDOWS, use_cache=False).logits.double().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean().item()


def zeros_at(levels, name, level):
    return int(levels.linear(name).zeros[level].sum())


def check_slopes(levels, plan, brackets):
    """Central differences along the levels of each bracket, for every fourth linear."""
    model = dense()
    with torch.no_grad():
        log_p = model(input_ids=WINDOWS, use_cache=False).logits.double().log_softmax(-1)
    slopes = measure_slopes(BlockRunner(find_decoder(model), WINDOWS.shape[1]), levels, WINDOWS, plan)
    assert all(parameter.requires_grad for parameter in model.parameters())
    stitched = dense()
    stitch(find_decoder(stitched), levels, plan)
    for name in list(levels.sizes)[::4]:
        low, high = brackets(name)
        stored = levels.linear(name)
        below = stored.decode(low) if low else model.get_submodule(name).weight.data
        share = (zeros_at(levels, name, high) - (zeros_at(levels, name, low) if low else 0)) / levels.sizes[name]
        step = (stored.decode(high) - below) / share
        weight = stitched.get_submodule(name).weight
        own, epsilon = weight.data.clone(), 1e-2
        weight.data = own + epsilon * step
        above = mean_divergence(stitched, log_p)
        weight.data = own - epsilon * step
        numeric = (above - mean_divergence(stitched, log_p)) / (2 * epsilon)
        weight.data = own
        assert slopes[name] == pytest.approx(numeric, rel=0.02, abs=1e-6)


@pytest.mark.parametrize("level", [1, 2])
def test_slopes_at_a_level_are_the_derivatives_across_it(llama_levels, level):
    plan = uniform_plan(llama_levels, level)
    assert plan == {name: zeros_at(llama_levels, name, level) for name in llama_levels.sizes}
    check_slopes(llama_levels, plan, lambda _: (level - 1, level + 1))


def test_slopes_between_levels_are_the_derivatives_from_one_to_the_next(llama_levels):
    shares = {name: 0.4 if index % 2 else 0.6 for index, name in enumerate(llama_levels.sizes)}
    plan = {name: round(share * llama_levels.sizes[name]) for name, share in shares.items()}
    check_slopes(llama_levels, plan, lambda name: (1, 2) if shares[name] == 0.4 else (2, 3))


def test_slopes_at_the_ends_of_the_ladder_look_inwards(llama_levels):
    last = len(LADDER)
    ends = {name: index % 2 for index, name in enumerate(llama_levels.sizes)}
    plan = {name: zeros_at(llama_levels, name, last) if end else 0 for name, end in ends.items()}
    check_slopes(llama_levels, plan, lambda name: (last - 1, last) if ends[name] else (0, 1))


def test_a_backward_pass_counts_as_two_forwards():
    assert TOKEN_COST == 3
