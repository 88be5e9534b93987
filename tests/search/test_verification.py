"""Expected improvement by another route, and what it chooses on a posterior that is known."""

import pytest
import torch
from analytic import SETTINGS, SPACE, AnalyticMeasure, optimum

from unicuco_plugin.search.contest import Contest
from unicuco_plugin.search.evidence import compare
from unicuco_plugin.search.scalarization import tchebycheff
from unicuco_plugin.search.trainer import train
from unicuco_plugin.search.verification import expected_improvement, most_promising


@pytest.mark.parametrize(
    ("mean", "std", "best"), [(0.0, 1.0, 0.0), (1.0, 0.3, 0.9), (-2.0, 0.1, -1.5), (3.0, 2.0, 0.0)]
)
def test_expected_improvement_is_the_integral(mean, std, best):
    y = torch.linspace(mean - 12 * std, mean + 12 * std, 200_001, dtype=torch.float64)
    density = torch.exp(-(((y - mean) / std) ** 2) / 2) / (std * (2 * torch.pi) ** 0.5)
    integral = torch.trapezoid((best - y).clamp(min=0) * density, y).item()
    values = [torch.tensor([value], dtype=torch.float64) for value in (mean, std)]
    assert expected_improvement(*values, best).item() == pytest.approx(integral, abs=1e-7)


@pytest.fixture(scope="module")
def unverified():
    return train(SPACE, AnalyticMeasure(), tchebycheff, SETTINGS.model_copy(update={"seed": 1, "verify": 0}))


def test_it_is_the_greatest_improvement_of_the_race_and_of_every_move_from_its_best(unverified):
    known = {row.key: None for row in unverified.ranked}
    contest = Contest(SPACE, unverified.net, unverified.posterior, known, compare(SPACE, unverified.posterior, []))
    budgets = list(SPACE.budgets)
    chosen = most_promising(contest, SPACE, budgets, set(known))
    assert 1 <= len(chosen) <= len(budgets)
    sizes = [int(x.sum()) for x in chosen]
    assert sizes == sorted(set(sizes))
    for x in chosen:
        assert SPACE.key(x) not in known
        race = contest.candidates([budgets[int(x.sum()) - 1]])[0]
        best = min(race, key=lambda c: c.mean + c.std)
        moves = contest.predict(SPACE.neighbours(best.x[None])[0], "neighbour")
        incumbent = min(c.mean for c in race if c.key in known)
        gains = {
            c.key: expected_improvement(torch.tensor([c.mean]), torch.tensor([c.std]), incumbent).item()
            for c in (*race, *moves)
            if c.key not in known
        }
        assert gains[SPACE.key(x)] == pytest.approx(max(gains.values()), rel=1e-4)
        assert gains[SPACE.key(x)] > 0.004


def test_verifying_finds_optima_that_the_loop_did_not(unverified):
    verified = train(SPACE, AnalyticMeasure(), tchebycheff, SETTINGS.model_copy(update={"seed": 1}))
    found, before = ({row.key for row in result.confirmed} for result in (verified, unverified))
    hits, missed = ([optimum(count)[0] in keys for count in range(1, 10)] for keys in (found, before))
    assert sum(hits) > sum(missed)
    assert len(verified.ranked) <= len(unverified.ranked) + 9 * SETTINGS.verify
