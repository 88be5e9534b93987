"""Progressions by hand, and the choice among them by another route."""

import dataclasses

import pytest

from unicuco_plugin.errors import RequestError
from unicuco_plugin.levels.exchange import Stitching
from unicuco_plugin.objectives.levelled import LevelEvaluator
from unicuco_plugin.peers.atp import Atp, progression, trial_steps
from unicuco_plugin.scores.budget import block_sizes, meet_budget
from unicuco_plugin.spaces.plan import plan_counts


def test_a_progression_rises_around_the_budget():
    assert progression(4, 0.6, 0.1).tolist() == pytest.approx([0.45, 0.55, 0.65, 0.75])


def test_steps_are_the_papers_grid_at_its_own_setting():
    assert trial_steps(32, 0.7, 9) == pytest.approx([0.002 * i for i in range(1, 10)], rel=0.04)


@pytest.mark.parametrize(("sparsity", "largest"), [(0.3, 0.2), (0.5, 1 / 3), (0.9, 1 / 15)])
def test_the_largest_step_would_reach_0_or_1(sparsity, largest):
    steps = trial_steps(4, sparsity, 9)
    assert steps[-1] * 10 / 9 == pytest.approx(largest)
    ends = progression(4, sparsity, steps[-1])
    assert ends[0] > 0
    assert ends[-1] < 1


def test_one_block_has_no_step():
    assert trial_steps(1, 0.5, 9) == [0.0]


def test_the_step_of_lowest_divergence_wins_and_every_trial_is_paid(ask, decoder, levels, windows):
    result = Atp()(ask(0.5))
    evaluator = LevelEvaluator(Stitching(decoder, levels), windows)
    values = {}
    for i in range(1, 10):
        beta = i / 30  # 2 * 0.5 / 3 is the largest
        shares = [min(0.5 + beta * (k - 1.5), 1.0) for k in range(4)]
        if max(shares) <= 0.95:
            units = dict(zip(decoder.block_names, shares, strict=True))
            values[i] = evaluator.evaluate([plan_counts(units, levels.sizes)])[0].value
    trials = result.details["trials"]
    assert [trials[i - 1]["divergence"] for i in values] == pytest.approx(list(values.values()), rel=1e-5)
    assert result.details["beta"] == min(trials, key=lambda trial: trial["divergence"])["beta"]
    expected = meet_budget(progression(4, 0.5, result.details["beta"]), block_sizes(decoder), 0.5)
    assert result.units == pytest.approx(dict(zip(decoder.block_names, expected.tolist(), strict=True)))
    assert result.tokens == 9 * windows.numel()
    assert sum(result.units.values()) / 4 == pytest.approx(0.5, abs=1e-12)


def test_without_levels_it_is_refused(ask):
    with pytest.raises(RequestError, match=r"^atp measures its trials on a level database: give levels, got None$"):
        Atp()(dataclasses.replace(ask(0.5), levels=None))
