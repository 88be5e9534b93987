"""EvoPress on a tiny model: exact budgets, known optima, the same end after a break."""

import dataclasses
import itertools
from fractions import Fraction

import pytest
import torch
from scheme_databases import build_schemes

from unicuco_plugin.errors import JournalError, RequestError
from unicuco_plugin.levels.exchange import Stitching
from unicuco_plugin.objectives.evaluator import BlockEvaluator
from unicuco_plugin.objectives.levelled import LevelEvaluator
from unicuco_plugin.objectives.units import UnitsEvaluator
from unicuco_plugin.peers.evolution import EvolutionSettings
from unicuco_plugin.peers.evopress import EvoPress, bit_settings, drop_settings, level_settings
from unicuco_plugin.peers.peer import PeerRequest
from unicuco_plugin.spaces.plan import plan_counts

LEVELS = EvolutionSettings(6, 6, (2, 1), (32, 96))
DROPS = EvolutionSettings(4, 6, (2, 1), (96, 96), 3, 96)


@pytest.mark.slow
@pytest.mark.parametrize("sparsity", [0.35, 0.5, 0.77])
def test_every_linear_gets_whole_levels_and_the_budget_is_met_to_one_weight(ask, levels, sparsity):
    result = EvoPress(LEVELS)(ask(sparsity))
    counts = plan_counts(result.units, levels.sizes)
    total = sum(levels.sizes.values())
    assert abs(sum(counts.values()) - sparsity * total) <= 1
    assert result.sparsity == pytest.approx(sparsity, abs=1 / total)
    uniform = plan_counts(dict.fromkeys(levels.sizes, sparsity), levels.sizes)
    step, genome = result.details["step"], result.details["levels"]
    assert {name: counts.get(name, 0) - zeros for name, zeros in uniform.items()} == {
        name: step * level for name, level in genome.items()
    }
    assert any(genome.values())
    assert result.tokens == 6 * (6 * 32 + 3 * 96)


@pytest.mark.slow
def test_it_gets_below_uniform_on_the_windows_it_is_scored_on(ask, decoder, levels, windows):
    settings = EvolutionSettings(12, 8, (1,), (96,))
    result = EvoPress(settings)(ask(0.5))
    evaluator = LevelEvaluator(Stitching(decoder, levels), windows)
    plans = [plan_counts(units, levels.sizes) for units in (result.units, dict.fromkeys(levels.sizes, 0.5))]
    ours, uniform = (found.value for found in evaluator.evaluate(plans))
    assert ours < uniform
    assert ours == pytest.approx(result.details["divergence"], rel=1e-5)


@pytest.mark.slow
def test_bits_are_exchanged_within_the_budget_and_get_below_the_first_parent(decoder, windows, tmp_path):
    schemes = build_schemes(decoder.model, tmp_path / "schemes", ("W5A16:channel", "W4A16:channel", "W3A16:channel"))
    asked = PeerRequest(decoder, windows, 1.0 - 4.5 / 16.0, "precision", levels=schemes)
    first, whole = (EvoPress(EvolutionSettings(count, 10, (1,), (96,), 4, 32))(asked) for count in (0, 10))
    for result in (first, whole):
        assert 1.0 - result.sparsity <= 4.5 / 16.0 + 1e-12
        assert result.sparsity == pytest.approx(first.sparsity, abs=1e-12)
    assert (first.tokens, whole.tokens) == (4 * 32, 4 * 32 + 10 * 11 * 96)
    evaluator = UnitsEvaluator(decoder, "precision", windows, levels=schemes)
    before, after = (found.value for found in evaluator.evaluate([first.units, whole.units]))
    assert after < before
    assert after == pytest.approx(whole.details["divergence"], rel=1e-5)


@pytest.mark.slow
def test_the_best_set_of_blocks_is_found_where_all_are_tried(ask, decoder, windows):
    result = EvoPress(DROPS)(ask(0.5, space="depth"))
    sets = [list(drop) for drop in itertools.combinations(range(4), 2)]
    found = BlockEvaluator(decoder, windows).evaluate(sets)
    best = min(zip(found, sets, strict=True), key=lambda pair: pair[0].value)[1]
    assert result.units == {decoder.block_names[index]: 1.0 for index in best}
    assert (result.space, result.sparsity) == ("depth", 0.5)


def test_attentions_and_mlps_are_removed_in_equal_number(ask):
    result = EvoPress(DROPS)(ask(0.5, space="sublayer"))
    assert set(result.units.values()) == {1.0}
    assert sum("self_attn" in name for name in result.units) == 2
    assert sum("mlp" in name for name in result.units) == 2
    assert result.sparsity == pytest.approx(0.5)


@pytest.mark.slow
@pytest.mark.parametrize("space", ["sparsity", "depth"])
def test_broken_off_it_resumes_to_the_same_strategy(ask, tmp_path, space):
    peer = EvoPress(LEVELS if space == "sparsity" else DROPS)
    unbroken = peer(ask(0.5, space=space, seed=3))

    def stop(progress):
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        peer(ask(0.5, space=space, seed=3, journal=tmp_path / "j", progress=stop))
    resumed = peer(ask(0.5, space=space, seed=3, journal=tmp_path / "j"))
    details = [{k: v for k, v in found.details.items() if k != "first_seconds"} for found in (resumed, unbroken)]
    assert details[0] == details[1]
    assert (resumed.units, resumed.tokens) == (unbroken.units, unbroken.tokens)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"seed": 1}, "seed was 0, is now 1"), ({"sparsity": 0.6}, "sparsity was 0.5, is now 0.6")],
)
def test_a_journal_of_another_search_is_refused(ask, tmp_path, fields, message):
    peer = EvoPress(EvolutionSettings(1, 2, (1,), (16,)))
    request = ask(0.5, journal=tmp_path / "j")
    peer(request)
    with pytest.raises(JournalError, match=message):
        peer(dataclasses.replace(request, **fields))


def test_without_a_level_database_sparsity_is_refused(ask):
    with pytest.raises(RequestError, match=r"^evopress measures its candidates on a level database"):
        EvoPress(LEVELS)(dataclasses.replace(ask(0.5), levels=None))


@pytest.mark.parametrize("space", ["depth", "sublayer"])
def test_blocks_of_different_sizes_are_refused(ask, decoder, space):
    mlp = decoder.blocks[1].mlp
    mlp.down_proj.weight = torch.nn.Parameter(torch.zeros(len(mlp.down_proj.weight), 2))
    with pytest.raises(RequestError, match=r"those of this model differ; take another peer, such as greedy"):
        EvoPress(DROPS)(ask(0.5, space=space))


def test_settings_are_the_published_ones():
    assert level_settings("official") == EvolutionSettings(400, 64, (8, 2, 1), (2048, 16384, 65536))
    assert level_settings("super_fast") == EvolutionSettings(400, 16, (2, 1), (512, 8192))
    assert bit_settings("official") == EvolutionSettings(150, 128, (16, 4, 1), (2048, 16384, 131072), 64, 2048)
    assert bit_settings("super_fast") == EvolutionSettings(150, 16, (2, 1), (512, 8192), 64, 512)
    # Mistral's published script: 12 of 32 blocks.
    depth = drop_settings("official", 32, 12)
    assert depth.generations == int(Fraction(12 * 20 * 2, 3)) == 160
    assert depth == EvolutionSettings(160, 32, (2, 1), (2048, 32768), 64, 2048)
    assert drop_settings("super_fast", 32, 12) == EvolutionSettings(160, 16, (2, 1), (512, 8192), 64, 512)
    # 64 x 2048 first; each generation 32 x 2048 and three of 32768: 26 M tokens in all, within the known 12 to 28 M.
    assert 12e6 < 64 * 2048 + 160 * depth.generation_tokens < 28e6
